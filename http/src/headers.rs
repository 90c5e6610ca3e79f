//! What a proxy does to headers; pure.
//!
//! In: the headers of one message. Out: the same map, changed in place.
//! Source: RFC 9110 section 7.6.1 (hop-by-hop) and 10.1.4 (`TE`); forwarding headers as faas-provider's proxy sets them.

use std::net::SocketAddr;

use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The host the caller asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Where the caller came from.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that belong to one connection and are never passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes hop-by-hop headers, those that `Connection` names included.
///
/// `TE: trailers` is kept as such: without it no upstream may send trailers, and they do pass through.
/// A length beside `Transfer-Encoding` is a lie that must not travel on (RFC 9112, 6.3), so it goes too.
/// `Trailer` stays for the same reason as `TE`. `Host`, `Content-Length` and the like stay even when `Connection` names them.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let wants_trailers = has_token(headers, &TE, "trailers");
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            tokens(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
        for name in named.iter().filter(|name| !is_end_to_end(name)) {
            headers.remove(name);
        }
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether dropping `name` would change the message itself; a peer must not achieve that through `Connection`.
fn is_end_to_end(name: &HeaderName) -> bool {
    use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
    [HOST, CONTENT_LENGTH, CONTENT_TYPE, AUTHORIZATION, COOKIE, X_FORWARDED_FOR, X_FORWARDED_HOST]
        .contains(name)
}

/// The protocol a request asks to switch to, such as `websocket`; `None` when it asks for none.
///
/// `h2c` is not passed on: it would let a caller speak past every check on this hop.
pub fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(UPGRADE)?;
    let is_plain_http2 = value
        .to_str()
        .is_ok_and(|text| text.split(',').any(|p| p.trim().eq_ignore_ascii_case("h2c")));
    (has_token(headers, &CONNECTION, "upgrade") && !is_plain_http2).then(|| value.clone())
}

/// Whether the caller expects a stream of events, which may be silent for as long as it likes.
pub fn accepts_stream(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("text/event-stream") || value.contains("application/x-ndjson")
    })
}

/// Adds `X-Forwarded-Host` (the incoming `Host`) and `X-Forwarded-For` (`ip:port`) unless the request carries them.
pub fn add_forwarded(headers: &mut HeaderMap, peer: Option<SocketAddr>) {
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(X_FORWARDED_FOR)
        && let Some(peer) = peer
        && let Ok(value) = HeaderValue::from_str(&peer.to_string())
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The comma-separated tokens of every `name` header, trimmed.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(k, v)| (k.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    fn stripped(list: &[(&str, &str)]) -> Vec<String> {
        let mut map = headers(list);
        strip_hop_by_hop(&mut map);
        let mut lines: Vec<_> =
            map.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn hop_by_hop_headers_go_and_all_others_stay() {
        let lines = stripped(&[
            ("connection", "close, X-Mine"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip;q=0.5, trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "secret"),
            ("authorization", "kept"),
        ]);
        assert_eq!(lines, ["authorization: kept", "te: trailers", "trailer: x-sum", "x-kept: 3"]);
    }

    #[test]
    fn connection_cannot_remove_what_the_message_means() {
        let lines = stripped(&[
            ("connection", "Host, Content-Length, Authorization"),
            ("host", "a"),
            ("content-length", "2"),
        ]);
        assert_eq!(lines, ["content-length: 2", "host: a"]);
    }

    #[test]
    fn a_length_beside_a_transfer_encoding_goes() {
        assert!(stripped(&[("content-length", "3"), ("transfer-encoding", "chunked")]).is_empty());
        assert_eq!(stripped(&[("content-length", "3")]), ["content-length: 3"]);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert_eq!(requested_upgrade(&headers(&websocket)).unwrap(), "WebSocket");
        assert!(requested_upgrade(&headers(&websocket[1..])).is_none());
        assert!(requested_upgrade(&headers(&websocket[..1])).is_none());
        assert!(
            requested_upgrade(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])).is_none()
        );
    }

    #[test]
    fn forwarding_headers_are_added_only_when_absent() {
        let peer = Some("10.1.2.3:4567".parse().unwrap());
        let mut map = headers(&[("host", "gw:8080")]);
        add_forwarded(&mut map, peer);
        assert_eq!(
            (&map[X_FORWARDED_HOST], &map[X_FORWARDED_FOR]),
            (&"gw:8080".parse().unwrap(), &"10.1.2.3:4567".parse().unwrap())
        );
        let mut map = headers(&[
            ("host", "gw"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-host", "first"),
        ]);
        add_forwarded(&mut map, peer);
        assert_eq!(
            (&map[X_FORWARDED_HOST], &map[X_FORWARDED_FOR]),
            (&"first".parse().unwrap(), &"1.1.1.1".parse().unwrap())
        );
    }

    #[test]
    fn event_streams_are_recognised_anywhere_in_accept() {
        assert!(accepts_stream(&headers(&[("accept", "text/html, Text/Event-Stream")])));
        assert!(accepts_stream(&headers(&[("accept", "*/*"), ("accept", "application/x-ndjson")])));
        assert!(!accepts_stream(&headers(&[("accept", "application/json")])));
    }
}
