//! `/system/hyperfaas/async/…`: what waits, and what was given up.
//!
//! In: requests whose credentials were checked by the routes. Out: JSON, or changes of dead letters.
//! Always: lists hold no bodies; a body is shown only when its one dead letter is asked for; values of headers that carry
//! credentials are never shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, StatusCode};
use hyperfaas_http::error::plain;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::not_found;
use crate::queue::message::Head;
use crate::queue::{Queue, QueueError, now_ms};
use crate::routes::Gateway;

/// Functions shown in one answer, the deepest first.
const FUNCTIONS_SHOWN: usize = 1000;
/// Dead letters in one answer, unless fewer are asked for.
const DEAD_SHOWN: usize = 100;
/// Most dead letters in one answer.
const DEAD_SHOWN_MAX: usize = 1000;
/// Stands for a value that is not shown.
const HIDDEN: &str = "(not shown)";

/// What waits.
#[derive(Debug, Serialize)]
struct QueueView {
    depth: u64,
    depth_max: u64,
    bytes: u64,
    bytes_max: u64,
    running: usize,
    dead: u64,
    functions: Vec<FunctionView>,
}

#[derive(Debug, Serialize)]
struct FunctionView {
    function: String,
    depth: u64,
    running: usize,
    oldest_seconds: f64,
}

/// A dead letter.
#[derive(Debug, Serialize)]
struct DeadView {
    id: u64,
    function: String,
    call_id: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    attempts: u32,
    accepted_at: Timestamp,
    given_up_at: Timestamp,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<String>,
    body_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<[String; 2]>>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

/// Which dead letters are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeadQuery {
    function: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

/// How many dead letters a request has changed.
#[derive(Debug, Serialize)]
struct Changed {
    changed: u64,
}

/// All that waits, by function.
pub(crate) async fn queue(State(gateway): State<Arc<Gateway>>) -> Response {
    let Some(queue) = &gateway.queue else { return not_found() };
    if !queue.refresh().await {
        return refused(&QueueError::Away);
    }
    let totals = queue.totals();
    let functions = functions(queue).await;
    let view = QueueView {
        depth: totals.messages,
        depth_max: queue.settings.depth_max,
        bytes: totals.bytes,
        bytes_max: queue.settings.bytes_max,
        running: queue.running(),
        dead: totals.dead,
        functions,
    };
    Json(view).into_response()
}

async fn functions(queue: &Queue) -> Vec<FunctionView> {
    waiting(queue)
        .await
        .into_iter()
        .map(|(function, depth, running, oldest_seconds)| FunctionView {
            function: function.to_string(),
            depth,
            running,
            oldest_seconds,
        })
        .collect()
}

/// Functions with messages, the deepest first: how many, how many are being delivered, how old the oldest is in seconds.
pub(crate) async fn waiting(queue: &Queue) -> Vec<(Arc<str>, u64, usize, f64)> {
    let mut views = queue.views();
    views.sort_by_key(|(_, view)| std::cmp::Reverse(view.depth));
    views.truncate(FUNCTIONS_SHOWN);
    let names = views.iter().map(|(name, _)| Arc::clone(name)).collect();
    let oldest = queue.oldest(names).await;
    let now = now_ms();
    let age = |accepted: &Option<u64>| {
        let ms = accepted.map_or(0, |accepted| now.saturating_sub(accepted));
        std::time::Duration::from_millis(ms).as_secs_f64()
    };
    let ages = oldest.iter().map(age).chain(std::iter::repeat(0.0));
    views
        .iter()
        .zip(ages)
        .map(|((name, v), age)| (Arc::clone(name), v.depth, v.running, age))
        .collect()
}

/// Dead letters, oldest first, without bodies; `after` is the last number of the page before.
pub(crate) async fn dead(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<DeadQuery>,
) -> Response {
    let Some(queue) = &gateway.queue else { return not_found() };
    let (Some(after), Some(limit)) =
        (number(query.after.as_deref(), 0), number(query.limit.as_deref(), DEAD_SHOWN))
    else {
        return plain(StatusCode::BAD_REQUEST, "after and limit must be whole numbers");
    };
    let function = query.function.map(|function| gateway.metrics.full_name(&function));
    match queue.dead(after, function, limit.clamp(1, DEAD_SHOWN_MAX)).await {
        Ok(letters) => {
            let views =
                letters.into_iter().map(|letter| view(letter.id, letter.head, letter.body_bytes));
            Json(views.collect::<Vec<_>>()).into_response()
        }
        Err(error) => refused(&error),
    }
}

/// One dead letter with its headers and body.
pub(crate) async fn dead_letter(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Response {
    let Some((queue, id)) = gateway.queue.as_ref().zip(id.parse().ok()) else { return not_found() };
    let message = match queue.dead_letter(id).await {
        Ok(Some(message)) => message,
        Ok(None) => return no_such_letter(id),
        Err(error) => return refused(&error),
    };
    let headers = Some(shown(&message.head.headers));
    let body = Some(STANDARD.encode(&message.body));
    let view = DeadView { headers, body, ..view(id, message.head, message.body.len()) };
    Json(view).into_response()
}

/// Lets one dead letter wait again.
pub(crate) async fn redrive(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Response {
    let Some((queue, id)) = gateway.queue.as_ref().zip(id.parse().ok()) else { return not_found() };
    changed_one(id, queue.redrive(id).await)
}

/// Forgets one dead letter.
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Response {
    let Some((queue, id)) = gateway.queue.as_ref().zip(id.parse().ok()) else { return not_found() };
    changed_one(id, queue.remove_dead(id).await)
}

/// Lets all dead letters wait again, or those of one function.
pub(crate) async fn redrive_all(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<DeadQuery>,
) -> Response {
    change_all(&gateway, query.function, async |queue, id| queue.redrive(id).await).await
}

/// Forgets all dead letters, or those of one function.
pub(crate) async fn remove_all(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<DeadQuery>,
) -> Response {
    change_all(&gateway, query.function, async |queue, id| queue.remove_dead(id).await).await
}

/// Changes every dead letter that there is now; those that come meanwhile stay.
async fn change_all(
    gateway: &Gateway,
    function: Option<String>,
    change: impl AsyncFn(&Queue, u64) -> Result<bool, QueueError>,
) -> Response {
    let Some(queue) = &gateway.queue else { return not_found() };
    let function = function.map(|function| gateway.metrics.full_name(&function));
    let (mut after, mut changed) = (0, 0);
    let end = now_ms();
    loop {
        let letters = match queue.dead(after, function.clone(), DEAD_SHOWN).await {
            Ok(letters) => letters,
            Err(error) => return refused(&error),
        };
        let Some(last) = letters.last() else { break };
        after = last.id;
        let old = letters
            .iter()
            .filter(|letter| letter.head.death.as_ref().is_none_or(|d| d.at_ms <= end));
        // Together, so that they share disk writes.
        let changes = old.map(|letter| change(queue, letter.id));
        for result in futures_util::future::join_all(changes).await {
            match result {
                Ok(true) => changed += 1,
                Ok(false) => {}
                Err(error) => return refused(&error),
            }
        }
    }
    Json(Changed { changed }).into_response()
}

fn changed_one(id: u64, changed: Result<bool, QueueError>) -> Response {
    match changed {
        Ok(true) => hyperfaas_http::error::empty(StatusCode::ACCEPTED),
        Ok(false) => no_such_letter(id),
        Err(error) => refused(&error),
    }
}

fn refused(error: &QueueError) -> Response {
    let status = match error {
        QueueError::Read => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(status, error.to_string())
}

fn no_such_letter(id: u64) -> Response {
    plain(StatusCode::NOT_FOUND, format!("there is no dead letter {id}"))
}

fn number<T: std::str::FromStr>(text: Option<&str>, default: T) -> Option<T> {
    text.filter(|text| !text.is_empty()).map_or(Some(default), |text| text.parse().ok())
}

fn view(id: u64, head: Head, body_bytes: usize) -> DeadView {
    let (reason, status, at_ms) = head
        .death
        .map_or(("", None, 0), |death| (death.reason.as_str(), death.status, death.at_ms));
    DeadView {
        id,
        function: head.function,
        call_id: head.call_id,
        reason,
        status,
        attempts: head.attempts,
        accepted_at: time(head.accepted_ms),
        given_up_at: time(at_ms),
        path: head.target,
        callback_url: head.callback,
        body_bytes,
        headers: None,
        body: None,
    }
}

fn time(ms: u64) -> Timestamp {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

fn shown(headers: &HeaderMap) -> Vec<[String; 2]> {
    let is_secret = |name| [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name);
    let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, v)| {
            [name.to_string(), if is_secret(name) { HIDDEN.to_owned() } else { value(v) }]
        })
        .collect()
}
