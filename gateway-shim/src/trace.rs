//! Spans of calls, sent to an OpenTelemetry collector.
//!
//! In: calls with or without a `traceparent`. Out: the same calls as children of our spans, and the spans as OTLP over HTTP.
//! Always: nothing waits for the collector; at most [`SPANS_MAX`] spans are held, further ones are dropped and counted in the
//! log; a caller's decision not to sample is kept.
//! Source: W3C Trace Context level 1, OTLP 1.x as JSON. OpenTelemetry's own crates would add forty others for this.
//! Touches: the collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::invoke::ascii;
use crate::routes::Gateway;
use crate::system::read;
use crate::upstream::Upstream;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Spans that wait for being sent.
const SPANS_MAX: usize = 4096;
/// Spans sent together.
const BATCH: usize = 512;
/// Longest that a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// Time for the collector's answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the collector's answer this much is read.
const ANSWER_MAX: usize = 64 << 10;

/// Where spans go.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The collector; its path is that of the traces.
    pub collector: Upstream,
    /// What the gateway is called there.
    pub service: String,
}

/// Collects spans.
pub(crate) struct Tracer {
    settings: TraceSettings,
    spans: mpsc::Sender<Ended>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<Ended>>,
    dropped: AtomicU64,
}

/// What a span is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call that somebody waits for.
    Server,
    /// An asynchronous call.
    Consumer,
}

impl Kind {
    /// The number that OTLP gives it.
    const fn number(self) -> u8 {
        match self {
            Self::Server => 2,
            Self::Consumer => 5,
        }
    }
}

/// A call under way; dropping it ends the span.
pub(crate) struct Span(Option<Open>);

struct Open {
    gateway: Arc<Gateway>,
    span: Ended,
}

/// A span with all that is sent of it.
#[derive(Debug, Clone)]
struct Ended {
    context: Context,
    parent: Option<u64>,
    kind: Kind,
    method: Method,
    function: String,
    start: Timestamp,
    end: Timestamp,
    status: Option<StatusCode>,
}

/// Where in which trace something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Context {
    trace: u128,
    span: u64,
    is_sampled: bool,
}

impl Context {
    /// The context that `traceparent` tells; `None` when it breaks the rules, as W3C demands.
    fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (span, flags) = rest.split_once('-')?;
        // Later versions may add fields behind the flags.
        let (flags, more) =
            flags.split_once('-').map_or((flags, None), |(f, more)| (f, Some(more)));
        let is_hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && (version != "00" || more.is_none())
            && is_hex(trace, 32)
            && is_hex(span, 16)
            && is_hex(flags, 2);
        if !is_valid {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace, span, is_sampled })
    }

    /// A child of `parent`, or the root of a new trace.
    fn below(parent: Option<Self>) -> Self {
        let trace = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace);
        let is_sampled = parent.is_none_or(|parent| parent.is_sampled);
        Self { trace, span: fastrand::u64(1..), is_sampled }
    }

    fn header(self) -> HeaderValue {
        let flags = u8::from(self.is_sampled);
        ascii(format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span))
    }
}

impl Span {
    /// Begins the span of a call to `function`; `request` then carries it as its parent. Without a tracer nothing is touched.
    pub(crate) fn begin(
        gateway: &Arc<Gateway>,
        request: &mut Request,
        function: &str,
        kind: Kind,
    ) -> Self {
        if gateway.tracer.is_none() {
            return Self(None);
        }
        let parent = parent(request.headers());
        let context = Context::below(parent);
        request.headers_mut().insert(TRACEPARENT, context.header());
        let now = Timestamp::now();
        let span = Ended {
            context,
            parent: parent.map(|parent| parent.span),
            kind,
            method: request.method().clone(),
            function: function.to_owned(),
            start: now,
            end: now,
            status: None,
        };
        Self(Some(Open { gateway: Arc::clone(gateway), span }))
    }

    /// Notes the answer's status; a span without one is of a caller that left.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.span.status = Some(status);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Open { gateway, mut span }) = self.0.take() else { return };
        let Some(tracer) = gateway.tracer.as_ref().filter(|_| span.context.is_sampled) else {
            return;
        };
        span.end = Timestamp::now();
        if tracer.spans.try_send(span).is_err() {
            tracer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The caller's place in its trace; several headers are none.
fn parent(headers: &HeaderMap) -> Option<Context> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (values.next()?, values.next());
    Context::parse(first.to_str().ok()?.trim()).filter(|_| second.is_none())
}

impl Tracer {
    /// A tracer that has nothing to send yet.
    pub(crate) fn new(settings: TraceSettings) -> Self {
        let (spans, inbox) = mpsc::channel(SPANS_MAX);
        Self { settings, spans, inbox: tokio::sync::Mutex::new(inbox), dropped: AtomicU64::new(0) }
    }

    /// Sends spans until `stop`, and then those that are there.
    pub(crate) async fn export(&self, stop: CancellationToken) {
        let mut inbox = self.inbox.lock().await;
        let mut was_broken = false;
        loop {
            let mut batch = Vec::new();
            let Some(count) = stop.run_until_cancelled(inbox.recv_many(&mut batch, BATCH)).await
            else {
                break;
            };
            if count == 0 {
                return;
            }
            let until = Instant::now() + BATCH_WAIT;
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                match timeout_at(until, stop.run_until_cancelled(inbox.recv_many(&mut batch, room)))
                    .await
                {
                    Ok(Some(count)) if count > 0 => {}
                    _ => break,
                }
            }
            was_broken = !self.send(&batch, was_broken).await;
        }
        let mut last = Vec::new();
        while let Ok(span) = inbox.try_recv() {
            last.push(span);
        }
        if !last.is_empty() {
            self.send(&last, was_broken).await;
        }
    }

    /// Sends `batch`; whether the collector took it. Only the first of several failures is worth a line.
    async fn send(&self, batch: &[Ended], was_broken: bool) -> bool {
        let mut request = Request::new(Body::from(self.otlp(batch).to_string()));
        *request.method_mut() = Method::POST;
        // The collector's path is the upstream's prefix.
        *request.uri_mut() = Uri::from_static("/");
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = async {
            let response =
                self.settings.collector.call_exactly(request, SEND_TIMEOUT).await.ok()?;
            let status = response.status();
            read(response.into_body(), ANSWER_MAX).await;
            status.is_success().then_some(())
        };
        let is_sent = timeout(SEND_TIMEOUT, sent).await.ok().flatten().is_some();
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(dropped, "spans dropped: the collector is too slow");
        }
        if !is_sent && !was_broken {
            warn!(spans = batch.len(), "spans lost: the collector did not take them");
        }
        is_sent
    }

    fn otlp(&self, batch: &[Ended]) -> Value {
        let spans: Vec<Value> = batch.iter().map(Ended::otlp).collect();
        json!({"resourceSpans": [{
            "resource": {"attributes": [
                text("service.name", &self.settings.service),
                text("service.version", crate::VERSION),
            ]},
            "scopeSpans": [{"scope": {"name": "hyperfaas-gateway", "version": crate::VERSION}, "spans": spans}],
        }]})
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

impl Ended {
    fn otlp(&self) -> Value {
        let mut attributes = vec![
            text("http.request.method", self.method.as_str()),
            text("http.route", "/function/{name}"),
            text("faas.invoked_name", &self.function),
        ];
        if let Some(status) = self.status {
            let status = status.as_u16().to_string();
            attributes
                .push(json!({"key": "http.response.status_code", "value": {"intValue": status}}));
        }
        let is_error = self.status.is_none_or(|status| status.is_server_error());
        json!({
            "traceId": format!("{:032x}", self.context.trace),
            "spanId": format!("{:016x}", self.context.span),
            "parentSpanId": self.parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
            "name": format!("{} /function/{}", self.method, self.function),
            "kind": self.kind.number(),
            "startTimeUnixNano": self.start.as_nanosecond().to_string(),
            "endTimeUnixNano": self.end.as_nanosecond().to_string(),
            "attributes": attributes,
            "status": {"code": if is_error { 2 } else { 0 }},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let context =
            Context::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(
            context,
            Context {
                trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                span: 0x00f0_67aa_0ba9_02b7,
                is_sampled: true
            }
        );
        assert_eq!(context.header(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(
            !Context::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
                .unwrap()
                .is_sampled
        );
        assert!(
            Context::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more")
                .is_some()
        );
        for text in [
            "",
            "00",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_child_stays_in_its_trace_and_keeps_its_callers_choice() {
        let parent = Context { trace: 7, span: 8, is_sampled: false };
        let child = Context::below(Some(parent));
        assert_eq!((child.trace, child.is_sampled), (7, false));
        assert_ne!(child.span, 8);
        assert!(Context::below(None).is_sampled);
    }
}
