//! Delivers what waits: fetches due messages, calls their functions, sends answers to callbacks, settles.
//!
//! In: a [`Queue`] and a gateway to call functions through. Out: settled messages.
//! Always: a message is settled after its attempt has ended, and attempted again only when that was noted on disk or the
//! process died in between; an end asked for lets attempts that run finish, and what does not is delivered by the next start.
//! Touches: the queue, the provider, callback receivers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use hyperfaas_http::headers::strip_hop_by_hop;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::lanes::{Place, Turn};
use super::message::{Death, Head, Message};
use super::retry::{Attempt, Reason, Verdict};
use super::store::Change;
use super::{Queue, QueueError, now_ms};
use crate::callback::{CallbackError, CallbackUrl};
use crate::error::chain;
use crate::functions::{FunctionSettings, Lookup};
use crate::invoke::{ascii, is_internal};
use crate::routes::Gateway;
use crate::trace::{Kind, Span};

/// Of an answer this much is kept so that its callback can be tried again; what is longer is sent once, streaming.
const ANSWER_MAX: usize = 1 << 20;
/// Attempts of a callback, and the wait before the second one, doubled for the third.
const CALLBACK_ATTEMPTS: u32 = 3;
const CALLBACK_WAIT: Duration = Duration::from_secs(1);
/// Longest silence within an answer's body.
const BODY_STALL: Duration = Duration::from_secs(600);
/// Pause before a change is written again that the store refused.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a function's messages are read again that could not be read.
const READ_PAUSE_MS: u64 = 1000;

/// Delivers until `stop`, then lets what runs finish, for as long as `drain` at most.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    queue: Arc<Queue>,
    stop: CancellationToken,
    drain: Duration,
) {
    let tasks = TaskTracker::new();
    while !stop.is_cancelled() {
        let turn = queue.lanes().next(now_ms());
        if let Some(turn) = turn {
            let worker = Worker {
                gateway: Arc::clone(&gateway),
                queue: Arc::clone(&queue),
                tasks: tasks.clone(),
            };
            tasks.spawn(worker.fetch(turn));
            continue;
        }
        let wakes_at = queue.lanes().wakes_at();
        let pause = wakes_at.map_or(Duration::from_secs(3600), |at| {
            // A wall clock that is set back must not put the queue to sleep.
            Duration::from_millis(at.saturating_sub(now_ms())).min(Duration::from_secs(60))
        });
        tokio::select! {
            () = queue.wake.notified() => {}
            () = sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    tasks.close();
    let running = queue.running();
    if running > 0 {
        info!(running, "asynchronous calls finish first");
    }
    if timeout(drain, tasks.wait()).await.is_err() {
        warn!(running = queue.running(), "asynchronous calls cut; the next start makes them again");
    }
}

#[derive(Clone)]
struct Worker {
    gateway: Arc<Gateway>,
    queue: Arc<Queue>,
    tasks: TaskTracker,
}

impl Worker {
    /// Fetches what `turn`'s function may have delivered now and begins to deliver it.
    async fn fetch(self, turn: Turn) {
        let settings = self.gateway.look_up(&turn.function).await.settings();
        let limit = settings.concurrency.unwrap_or(self.queue.settings.concurrency);
        let (reserved, taken) = {
            let mut lanes = self.queue.lanes();
            (lanes.reserve(&turn, limit), lanes.taken(&turn.function))
        };
        let fetched = self.queue.fetch(Arc::clone(&turn.function), taken, reserved).await;
        let Some(fetched) = fetched else {
            self.queue.lanes().fetched(&turn, reserved, &[], Some(now_ms() + READ_PAUSE_MS));
            return;
        };
        let damaged = fetched.damaged.iter();
        let ids: Vec<u64> = fetched
            .messages
            .iter()
            .map(|(place, _)| place)
            .chain(damaged)
            .map(|place| place.id)
            .collect();
        self.queue.lanes().fetched(&turn, reserved, &ids, fetched.next_ms);
        for place in fetched.damaged {
            // It stays where it is, for a newer version to read, and is not fetched again by this process.
            error!(function = &*place.function, id = place.id, "stored message cannot be read");
            self.queue.lanes().released(&place.function);
        }
        for (place, message) in fetched.messages {
            self.tasks.spawn(self.clone().deliver(place, message, Arc::clone(&settings)));
        }
        self.queue.wake.notify_one();
    }

    /// Makes one attempt and settles the message by what came of it.
    async fn deliver(self, place: Place, message: Message, settings: Arc<FunctionSettings>) {
        let (head, retry) = (message.head.clone(), &settings.retry);
        let is_late = now_ms() > retry.deadline_ms(head.accepted_ms);
        let (attempts, verdict, answer) = if is_late {
            (head.attempts, Verdict::Bury(Reason::Deadline), None)
        } else {
            let (attempt, answer) = self.attempt(message, &settings).await;
            let attempts = head.attempts + 1;
            let chance = fastrand::f64();
            (attempts, retry.verdict(attempt, attempts, head.accepted_ms, chance, now_ms()), answer)
        };
        let status = answer.as_ref().map(|answer| answer.status);
        let change = match verdict {
            Verdict::Done => Change::Done(place.clone()),
            Verdict::Retry { due_ms } => Change::Retry { place: place.clone(), attempts, due_ms },
            Verdict::Bury(reason) => {
                let status = status.map(|status| status.as_u16());
                let death = Death { at_ms: now_ms(), reason, status };
                Change::Bury { place: place.clone(), attempts, death }
            }
        };
        self.note(&head, verdict, attempts, status);
        match (verdict, &head.callback) {
            (Verdict::Retry { .. }, _) | (_, None) => {
                if let Some(Answer { body, .. }) = answer {
                    body.read_to_end().await;
                }
            }
            (_, Some(callback)) => self.call_back(&head, callback, answer).await,
        }
        self.settle(&place, change).await;
    }

    /// Logs and counts what came of an attempt.
    fn note(&self, head: &Head, verdict: Verdict, attempts: u32, status: Option<StatusCode>) {
        let (function, call_id) = (&*head.function, &*head.call_id);
        let status = status.map(|status| status.as_u16());
        let result = match verdict {
            Verdict::Done => {
                debug!(function, call_id, attempts, status, "asynchronous call delivered");
                "delivered"
            }
            Verdict::Retry { due_ms } => {
                let wait_ms = due_ms.saturating_sub(now_ms());
                debug!(
                    function,
                    call_id, attempts, status, wait_ms, "asynchronous call is tried again"
                );
                "retried"
            }
            Verdict::Bury(reason) => {
                let reason = reason.as_str();
                warn!(function, call_id, attempts, status, reason, "asynchronous call given up");
                reason
            }
        };
        self.gateway.metrics.queue.delivered(result);
    }

    /// Calls the function; what came of it, and its answer.
    async fn attempt(
        &self,
        message: Message,
        settings: &FunctionSettings,
    ) -> (Attempt, Option<Answer>) {
        let start = Instant::now();
        let head = &message.head;
        let Some(mut request) = request(head, &message.body) else { return (Attempt::Gone, None) };
        let mut invocation = self.gateway.metrics.begin(&head.function);
        let mut span = Span::begin(&self.gateway, &mut request, &head.function, Kind::Consumer);
        let limit = settings.timeout.or(self.gateway.upstream_timeout);
        let response = match self.gateway.provider.call_within(request, limit).await {
            Ok(response) => response,
            Err(error) => {
                let (function, call_id) = (&*head.function, &*head.call_id);
                warn!(function, call_id, error = chain(&error), "asynchronous call failed");
                let status = crate::error::refusal(&error).status();
                invocation.answered(status);
                span.answered(status);
                return (Attempt::Failed, None);
            }
        };
        invocation.answered(response.status());
        span.answered(response.status());
        let (parts, body) = response.into_parts();
        let is_internal = is_internal(&parts.headers);
        let attempt = Attempt::Answered {
            status: parts.status.as_u16(),
            retry_after: retry_after(&parts.headers, now_ms()),
        };
        let mut answer =
            Answer { status: parts.status, headers: parts.headers, body: Kept::begin(body), start };
        answer.body.fill().await;
        let is_gone = match parts.status {
            StatusCode::NOT_FOUND => is_internal,
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::INTERNAL_SERVER_ERROR => {
                // Other providers answer so when there is no such function.
                is_internal && matches!(self.gateway.look_up(&head.function).await, Lookup::Gone)
            }
            _ => false,
        };
        (if is_gone { Attempt::Gone } else { attempt }, Some(answer))
    }

    /// Sends what the function answered to its caller's callback; a callback that fails changes nothing else.
    async fn call_back(&self, head: &Head, callback: &str, answer: Option<Answer>) {
        let policy = self.gateway.callbacks;
        let url = match CallbackUrl::parse(callback, policy) {
            Ok(url) => url,
            Err(error) => return self.callback_failed(head, &error),
        };
        let (headers, mut body) = match answer {
            Some(answer) => (answer.callback_headers(head), answer.body),
            None => (failure_headers(head), Kept::empty()),
        };
        for attempt in 1.. {
            let is_last = attempt >= CALLBACK_ATTEMPTS || !body.is_whole();
            let error = match url.post(headers.clone(), body.next(), policy).await {
                Ok(status)
                    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS =>
                {
                    if is_last {
                        let (function, call_id, status) =
                            (&*head.function, &*head.call_id, status.as_u16());
                        warn!(function, call_id, status, "callback was answered with an error");
                        return self.gateway.metrics.queue.called_back("failed");
                    }
                    None
                }
                Ok(_) => return self.gateway.metrics.queue.called_back("sent"),
                Err(error @ CallbackError::Forbidden(_)) => {
                    return self.callback_failed(head, &error);
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error.filter(|_| is_last) {
                return self.callback_failed(head, &error);
            }
            sleep(CALLBACK_WAIT * 2_u32.pow(attempt - 1)).await;
        }
    }

    fn callback_failed(&self, head: &Head, error: &CallbackError) {
        let (function, call_id) = (&*head.function, &*head.call_id);
        warn!(function, call_id, error = chain(error), "callback failed");
        self.gateway.metrics.queue.called_back("failed");
    }

    /// Notes durably what became of a message; until that has worked, its place stays taken.
    async fn settle(&self, place: &Place, change: Change) {
        while let Err(QueueError::Store | QueueError::Away) =
            self.queue.change(change.clone()).await
        {
            sleep(SETTLE_PAUSE).await;
        }
        self.queue.lanes().released(&place.function);
        self.queue.wake.notify_one();
    }
}

/// The call that a message asks for; `None` when its target is none, which only a damaged message has.
fn request(head: &Head, body: &Bytes) -> Option<Request> {
    let mut request = Request::new(Body::from(body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(&head.target).ok()?;
    *request.headers_mut() = head.headers.clone();
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Some(request)
}

/// A function's answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Kept,
    start: Instant,
}

impl Answer {
    /// The function's own headers and those that OpenFaaS' queue-worker adds.
    fn callback_headers(&self, head: &Head) -> HeaderMap {
        let mut headers = self.headers.clone();
        strip_hop_by_hop(&mut headers);
        headers.remove(CONTENT_LENGTH);
        let seconds = format!("{:.6}", self.start.elapsed().as_secs_f64());
        headers.insert("x-duration-seconds", ascii(seconds));
        mark_callback(&mut headers, head, self.status);
        headers
    }
}

/// Headers of a callback for a call that got no answer.
fn failure_headers(head: &Head) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-duration-seconds", HeaderValue::from_static("0.000000"));
    mark_callback(&mut headers, head, StatusCode::SERVICE_UNAVAILABLE);
    headers
}

fn mark_callback(headers: &mut HeaderMap, head: &Head, status: StatusCode) {
    headers.insert("x-function-status", HeaderValue::from(status.as_u16()));
    for (name, value) in [("x-function-name", &head.function), ("x-call-id", &head.call_id)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// An answer's body: its beginning in memory, and what is still to come when it is long.
struct Kept {
    start: BytesMut,
    rest: Option<Body>,
}

impl Kept {
    fn begin(body: Body) -> Self {
        Self { start: BytesMut::new(), rest: Some(body) }
    }

    fn empty() -> Self {
        Self { start: BytesMut::new(), rest: None }
    }

    /// Reads up to [`ANSWER_MAX`] bytes; an answer that breaks off ends there.
    async fn fill(&mut self) {
        while let Some(body) = &mut self.rest
            && self.start.len() <= ANSWER_MAX
        {
            match timeout(BODY_STALL, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    self.start.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
                }
                _ => self.rest = None,
            }
        }
    }

    /// Whether it can be sent more than once.
    fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// All of it, to be sent.
    fn next(&mut self) -> Body {
        match self.rest.take() {
            None => Body::from(self.start.clone().freeze()),
            Some(rest) => {
                let start = std::mem::take(&mut self.start).freeze();
                let start = futures_util::stream::once(async move { Ok::<_, axum::Error>(start) });
                Body::from_stream(start.chain(rest.into_data_stream()))
            }
        }
    }

    /// Reads what nobody wants, so that the function is not cut off.
    async fn read_to_end(mut self) {
        while let Some(body) = &mut self.rest {
            match timeout(BODY_STALL, body.frame()).await {
                Ok(Some(Ok(_))) => {}
                _ => self.rest = None,
            }
        }
    }
}

/// What `Retry-After` asks for, in seconds or as a date.
fn retry_after(headers: &HeaderMap, now_ms: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(Duration::from_millis(now_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, 1_000_000_000_000).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("Sun, 09 Sep 2001 01:46:50 GMT"), Some(10));
        assert_eq!(asked("Sun, 09 Sep 2001 01:46:00 GMT"), Some(0));
        assert_eq!(asked("soon"), None);
    }
}
