//! What comes back: an answer's head, read or refused, and the response made of it.
//!
//! In: frames about one request. Out: the response for the caller, or the request's bounce.
//! Always: what a function's server says is an answer only if its end is certain or can be seen; a server that says nothing, or
//! nonsense, is answered for with the status that its watchdog named, never with a good one.
//! Source of the headers that are added: of-watchdog's http mode, `worker::relay` in the watchdog.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use axum::http::{Method, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use hyperfaas_http::forward::finish;
use hyperfaas_protocol::lane::{Crowd, Fields, Flags, Reason};
use hyperfaas_protocol::sniff;
use tracing::debug;

use super::LaneError;
use super::body::{Framing, LaneBody, Live, Note};
use super::call::{Call, lost};
use super::connection::{Frame, Lane};
use super::tunnel;
use super::wire::{self, AnswerHead};

const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");
const X_CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

/// What became of the request.
pub(super) enum Heard {
    Answer(Response<Body>),
    Bounce(Lane, Reason, Crowd),
}

/// Waits for the head of the answer to `call`.
pub(super) async fn hear(call: &mut Call<'_>, mut live: Live) -> Result<Heard, LaneError> {
    let mut head = BytesMut::new();
    loop {
        match live.lane.frame().await.map_err(|error| lost(&error))? {
            Frame::Data(bytes, _) => {
                let bytes = together(&mut head, bytes);
                match wire::read_head(&bytes, &call.parts.method) {
                    Ok(None) => head = BytesMut::from(bytes),
                    Ok(Some(read)) => match read_on(call, live, read, bytes).await? {
                        Read::Answer(response) => return Ok(Heard::Answer(response)),
                        Read::Interim(back, rest) => (live, head) = (back, rest),
                    },
                    Err(error) => {
                        debug!(%error, "the function's answer is not understood");
                        return Ok(Heard::Answer(unanswered(call, live)));
                    }
                }
            }
            Frame::End => return Ok(Heard::Answer(unanswered(call, live))),
            Frame::Answer(status, fields, is_empty) => {
                return described(call, live, (status, &fields, is_empty)).map(Heard::Answer);
            }
            Frame::Failed(status, text) => {
                debug!(%text, "no answer");
                let is_described = live.lane.is_described;
                live.release();
                let status = if is_described { StatusCode::INTERNAL_SERVER_ERROR } else { status };
                return Ok(Heard::Answer(refusal(call, status)));
            }
            Frame::Bounce(reason, crowd) if live.pump.is_none() => {
                return Ok(Heard::Bounce(live.lane, reason, crowd));
            }
            frame @ (Frame::Bounce(..) | Frame::Admitted) => {
                return Err(LaneError::Lost(format!("unexpected frame {frame:?}")));
            }
        }
    }
}

/// What has come so far.
fn together(head: &mut BytesMut, bytes: Bytes) -> Bytes {
    if head.is_empty() {
        return bytes;
    }
    head.extend_from_slice(&bytes);
    std::mem::take(head).freeze()
}

enum Read {
    Answer(Response<Body>),
    /// An interim response; the final one is still to come, and begins with these bytes.
    Interim(Live, BytesMut),
}

/// Goes on with a head that has been read from `bytes`.
async fn read_on(
    call: &mut Call<'_>,
    live: Live,
    mut head: AnswerHead,
    mut bytes: Bytes,
) -> Result<Read, LaneError> {
    loop {
        let status = head.response.status();
        bytes = bytes.slice(head.size..);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return tunnel::switch(call, live, head.response, bytes).map(Read::Answer);
        }
        if !status.is_informational() {
            return answered(call, live, head, bytes).await.map(Read::Answer);
        }
        // Nothing may follow for the moment, or the final head may be there already.
        match wire::read_head(&bytes, &call.parts.method) {
            Ok(Some(next)) => head = next,
            Ok(None) => return Ok(Read::Interim(live, BytesMut::from(bytes))),
            Err(error) => {
                debug!(%error, "the function's answer is not understood");
                return Ok(Read::Answer(unanswered(call, live)));
            }
        }
    }
}

/// The answer of a server of its own.
async fn answered(
    call: &mut Call<'_>,
    live: Live,
    head: AnswerHead,
    bytes: Bytes,
) -> Result<Response<Body>, LaneError> {
    let AnswerHead { mut response, length, is_kept, .. } = head;
    let note = note(call, &response);
    let unanswered = live.lane.unanswered;
    let mut body = LaneBody::new(live, length.into(), bytes, is_kept, note);
    if !call.is_stream {
        response.headers_mut().insert(DURATION, seconds(call.start.elapsed()));
    }
    let is_untyped = !response.headers().contains_key(CONTENT_TYPE)
        && !response.headers().contains_key(CONTENT_ENCODING);
    if is_untyped && call.parts.method != Method::HEAD {
        match body.peek().await {
            Ok(Some(first)) => {
                let kind = HeaderValue::from_static(sniff::content_type(&first));
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "the function's answer broke off");
                return Ok(refusal(call, unanswered));
            }
        }
    }
    finish(&mut response, call.content_type.clone(), call.options);
    Ok(response.map(|()| match body.take_whole() {
        Some(bytes) => Body::from(bytes),
        None => Body::new(body),
    }))
}

/// The answer of the watchdog itself.
fn described(
    call: &Call<'_>,
    live: Live,
    (status, fields, is_empty): (StatusCode, &Bytes, bool),
) -> Result<Response<Body>, LaneError> {
    let headers = headers(fields).ok_or_else(|| LaneError::Lost("malformed answer head".into()))?;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let framing = Framing::Described(if is_empty { Some(0) } else { length });
    let note = note(call, &response);
    let body = LaneBody::new(live, framing, Bytes::new(), true, note);
    finish(&mut response, call.content_type.clone(), call.options);
    Ok(response.map(|()| if is_empty { Body::empty() } else { Body::new(body) }))
}

fn headers(bytes: &[u8]) -> Option<HeaderMap> {
    let fields = Fields::decode(bytes).ok()?;
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    for (name, value) in fields.iter() {
        let (name, value) =
            (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

/// The answer to a request that the function's server took and did not answer.
fn unanswered(call: &Call<'_>, live: Live) -> Response<Body> {
    let status = if call.is_stream { StatusCode::BAD_GATEWAY } else { live.lane.unanswered };
    let mut response = Response::new(());
    *response.status_mut() = status;
    live.finish(false, Flags::UNANSWERED, &note(call, &response));
    refusal(call, status)
}

fn refusal(call: &Call<'_>, status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(DURATION, seconds(call.start.elapsed()));
    response.headers_mut().insert(INTERNAL, HeaderValue::from_static("of-watchdog"));
    finish(&mut response, call.content_type.clone(), call.options);
    response
}

/// What the watchdog is told about the request at its end.
pub(super) fn note(call: &Call<'_>, response: &Response<()>) -> Note {
    let parts = &call.parts;
    let is_probe = parts
        .headers
        .get(USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe"));
    let length = response.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    Note {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        call_id: parts.headers.get(X_CALL_ID).map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
        status: response.status().as_u16(),
        content_length: length.unwrap_or(-1),
        is_logged: !is_probe,
    }
}

/// A number of seconds as OpenFaaS writes it in headers.
fn seconds(duration: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("{:.6}", duration.as_secs_f64()))
        .unwrap_or(HeaderValue::from_static("0"))
}
