//! `GET /system/hyperfaas/live`: all that happens, as server-sent events, for the gateway's page.
//!
//! In: the cluster and the catalog, looked at a few times a second while somebody watches, never otherwise. Out: first the whole
//! state (`state`), then what has changed (`functions`, `gone`, `decisions`, `system`), and a comment when nothing has for a while.
//! Always: at most [`WATCHERS_MAX`] watch; what happens between two looks is told once; looking takes a tenth of one processor
//! at most, however many functions there are. A slow reader is told less often, and nothing is kept for it meanwhile.
//! Source: the event stream format of the HTML standard, section 9.2.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyperfaas_protocol::FunctionKey;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::system::SystemSight;
use self::usage::Usage;
use self::words::{Told, told};
use super::Api;
use super::error::ApiError;
use crate::catalog::Functions;
use crate::cluster::{FunctionSight, Seen};

mod system;
mod usage;
mod words;

/// Streams at the same time: gateways, mostly one, each for all who look at its page.
const WATCHERS_MAX: usize = 8;
/// Least pause between two looks: smooth to the eye.
const PAUSE: Duration = Duration::from_millis(250);
/// Pause in times of what a look takes.
const PAUSE_FACTOR: u32 = 9;
/// After so long without news something is sent, so that both ends notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Room for those who watch.
#[derive(Debug, Clone)]
pub(super) struct Watchers {
    room: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl Watchers {
    /// Room for all; everybody is let go when the server begins to stop.
    pub(super) fn new(stopping: CancellationToken) -> Self {
        Self { room: Arc::new(Semaphore::new(WATCHERS_MAX)), stopping }
    }
}

/// `GET /system/hyperfaas/live`
pub(super) async fn stream(
    Extension(watchers): Extension<Watchers>,
    State(api): State<Arc<Api>>,
) -> Result<Response, ApiError> {
    let place = watchers.room.try_acquire_owned().map_err(|_| ApiError::TooManyWatchers)?;
    let events = stream::unfold(Watch::new(api, place), |mut watch| async {
        let events = watch.next().await;
        Some((Ok::<_, Infallible>(events), watch))
    });
    let events = events.take_until(watchers.stopping.cancelled_owned());
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// What one reader has been told.
struct Watch {
    api: Arc<Api>,
    zero_ms: i64,
    functions: HashMap<FunctionKey, (FunctionSight, usize)>,
    system: Option<SystemSight>,
    usage: Usage,
    pause: Duration,
    _place: OwnedSemaphorePermit,
}

/// The first event.
#[derive(Serialize)]
struct Whole<'a> {
    system: &'a SystemSight,
    functions: Vec<&'a FunctionSight>,
    decisions: Vec<Told>,
}

/// What differs from what was told before.
#[derive(Default)]
struct Changes {
    functions: Vec<FunctionSight>,
    gone: Vec<String>,
    decisions: Vec<Told>,
}

impl Watch {
    fn new(api: Arc<Api>, place: OwnedSemaphorePermit) -> Self {
        let zero_ms = api.cluster.zero_ms();
        let usage = Usage::new(Arc::clone(&api.engine));
        let (functions, system, pause) = (HashMap::new(), None, PAUSE);
        Self { api, zero_ms, functions, system, usage, pause, _place: place }
    }

    /// Waits for the next piece of news. Cancel safe: what was not handed out is told the next time.
    async fn next(&mut self) -> Bytes {
        if self.system.is_none() {
            return self.first();
        }
        let quiet_until = Instant::now() + HEARTBEAT;
        loop {
            sleep(self.pause).await;
            let begin = Instant::now();
            let events = self.news();
            self.pause = PAUSE.max(begin.elapsed() * PAUSE_FACTOR);
            if !events.is_empty() {
                return events.into();
            }
            if Instant::now() >= quiet_until {
                return Bytes::from_static(b":\n\n");
            }
        }
    }

    fn first(&mut self) -> Bytes {
        let changes = self.look();
        let system = self.system.insert(SystemSight::of(&self.api));
        let functions = self.functions.values().map(|(function, _)| function).collect();
        let whole = Whole { system, functions, decisions: changes.decisions };
        let mut out = Vec::new();
        write(&mut out, "state", &whole);
        out.into()
    }

    fn news(&mut self) -> Vec<u8> {
        let changes = self.look();
        let mut out = Vec::new();
        if !changes.functions.is_empty() {
            write(&mut out, "functions", &changes.functions);
        }
        if !changes.gone.is_empty() {
            write(&mut out, "gone", &changes.gone);
        }
        if !changes.decisions.is_empty() {
            write(&mut out, "decisions", &changes.decisions);
        }
        let system = SystemSight::of(&self.api);
        if self.system.as_ref() != Some(&system) {
            write(&mut out, "system", &system);
            self.system = Some(system);
        }
        out
    }

    /// Looks at all functions, and keeps what is seen as told.
    fn look(&mut self) -> Changes {
        let catalog = self.api.catalog.snapshot();
        let mut seen = self.all(&catalog);
        name_guests(&mut seen);
        self.usage.fill(seen.values_mut().map(|seen| &mut seen.function));
        let mut changes = Changes::default();
        self.functions.retain(|key, _| {
            let stays = seen.contains_key(key);
            if !stays {
                changes.gone.push(key.to_string());
            }
            stays
        });
        for (key, Seen { function, decisions, made, .. }) in seen {
            changes.decisions.extend(decisions.iter().map(|decision| told(&key, decision)));
            let known = self.functions.get(&key).map(|(known, _)| known);
            if known != Some(&function) {
                changes.functions.push(function.clone());
            }
            self.functions.insert(key, (function, made));
        }
        changes.decisions.sort_by_key(|decision| decision.at);
        changes
    }

    fn all(&self, catalog: &Functions) -> HashMap<FunctionKey, Seen> {
        let look = |(key, function): (&FunctionKey, &Arc<crate::catalog::Function>)| {
            let known = self.functions.get(key).map_or(0, |(_, made)| *made);
            let desired = self.api.cluster.desired(key, function.call).unwrap_or(function.replicas);
            let mut seen = self.api.cluster.look(key, known, self.zero_ms).unwrap_or_else(|| {
                Seen { function: FunctionSight::new(key, desired), decisions: Vec::new(), made: 0 }
            });
            seen.function.replicas = desired;
            (key.clone(), seen)
        };
        catalog.iter().map(look).collect()
    }
}

/// Writes at each guest's worker whose it is.
fn name_guests(seen: &mut HashMap<FunctionKey, Seen>) {
    let visits: HashMap<(String, u8), String> = seen
        .iter()
        .flat_map(|(key, seen)| {
            let name = key.to_string();
            let visits = seen.function.visits.iter();
            visits.map(move |visit| ((visit.host.clone(), visit.worker), name.clone()))
        })
        .collect();
    if visits.is_empty() {
        return;
    }
    for container in seen.values_mut().flat_map(|seen| &mut seen.function.containers) {
        for (at, worker) in (0_u8..).zip(&mut container.workers) {
            worker.function = visits.get(&(container.id.clone(), at)).cloned();
        }
    }
}

/// One event with `data` as JSON, which has no line breaks.
fn write(out: &mut Vec<u8>, event: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).expect("names are strings and numbers are finite");
    out.extend_from_slice(format!("event: {event}\ndata: {data}\n\n").as_bytes());
}
