//! What is done to the headers of a relayed request and its answer.
//!
//! In: headers as received. Out: headers as sent on.
//! Always: a header that concerns one connection only stays on that connection (RFC 9110, 7.6.1).

use std::time::Duration;

use hyper::header::{
    ACCEPT, CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyperfaas_protocol::duration::GoDuration;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Headers that concern one connection, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, EXPECT];
/// A shorter `exec_timeout` for one request.
const X_TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");
/// Who called the caller.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The protocol a request wants to change to.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade"));
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// Whether the client waits for a stream: no limit on the run time then.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let names = |value: &HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        [&b"text/event-stream"[..], b"application/x-ndjson"]
            .iter()
            .any(|t| memchr::memmem::find(&value, t).is_some())
    };
    headers.get_all(ACCEPT).iter().any(names)
}

/// Removes what concerns only the connection it came over; with `upgrade` the request for a new protocol is kept.
pub(super) fn strip(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    strip_answer(headers);
    let may_have_trailers = headers.keys().any(|name| [TE, TRAILER].contains(name));
    if may_have_trailers && !headers.get(TE).is_some_and(|value| has_token(value, "trailers")) {
        headers.remove(TE);
        headers.remove(TRAILER);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// The same of an answer. `Trailer` stays, since the trailers themselves pass; the server sends them to whoever takes any.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    // Most messages have none, and a look at each name costs less than looking each of them up.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The run time allowed: `X-Timeout` if it is shorter than the configured one, which nothing switches off.
pub(super) fn exec_limit(headers: &HeaderMap, configured: Option<Duration>) -> Option<Duration> {
    let configured = configured?;
    let asked =
        headers.get(X_TIMEOUT).and_then(|value| value.to_str().ok()).and_then(GoDuration::parse);
    Some(asked.and_then(GoDuration::positive).map_or(configured, |asked| asked.min(configured)))
}

/// Appends the client's address, as a reverse proxy does.
pub(super) fn append_forwarded_for(headers: &mut HeaderMap, client: std::net::IpAddr) {
    let client = client.to_canonical();
    let known: Vec<_> =
        headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = if known.is_empty() {
        client.to_string()
    } else {
        format!("{}, {client}", known.join(", "))
    };
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .to_str()
        .is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn connection_headers_stay_on_their_connection() {
        let mut map = headers(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "secret"),
            ("x-kept", "1"),
        ]);
        strip(&mut map, None);
        let names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["proxy-authorization", "x-kept"]);
    }

    #[test]
    fn a_wanted_protocol_survives() {
        let mut map = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        let protocol = upgrade(&map);
        assert!(protocol.is_some());
        strip(&mut map, protocol);
        assert_eq!(map[CONNECTION], "Upgrade");
        assert_eq!(map[UPGRADE], "WebSocket");
        assert_eq!(
            upgrade(&headers(&[("upgrade", "websocket")])),
            None,
            "without Connection it asks for nothing"
        );
    }

    #[test]
    fn x_timeout_only_shortens() {
        let second = Duration::from_secs(1);
        let limit = |text: &'static str, configured| {
            exec_limit(&headers(&[("x-timeout", text)]), configured)
        };
        assert_eq!(limit("300ms", Some(second)), Some(Duration::from_millis(300)));
        for ignored in ["5s", "0s", "-1s", "1", "soon", ""] {
            assert_eq!(limit(ignored, Some(second)), Some(second), "{ignored}");
        }
        assert_eq!(limit("300ms", None), None);
    }

    #[test]
    fn streams_are_recognised_by_what_the_client_accepts() {
        assert!(wants_stream(&headers(&[("accept", "text/html, Text/Event-Stream")])));
        assert!(wants_stream(&headers(&[("accept", "application/x-ndjson")])));
        assert!(!wants_stream(&headers(&[("accept", "*/*")])));
    }
}
