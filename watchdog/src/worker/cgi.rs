//! A request described to a forked process: the `Http_*` variables, and the JSON of `marshal_request`.
//!
//! In: the request's head. Out: variables, each name once.
//! Always: a header cannot take the place of a variable that describes the request itself.
//! Source: both watchdogs, which spell header names as Go does: `x-foo_bar` becomes `X-Foo_bar`, then `-` becomes `_`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use serde_json::json;

use crate::config::Dialect;

/// Header names whose variable means something else.
const RESERVED: [&str; 4] = ["host", "method", "path", "query"];

/// One variable for the child.
pub(super) type Variable = (OsString, OsString);

/// The variables for a request with a body of `length` bytes, `None` when the client did not say.
pub(super) fn variables(parts: &Parts, length: Option<u64>, dialect: Dialect) -> Vec<Variable> {
    let mut list = BTreeMap::new();
    let mut set = |name: &str, value: &OsStr| {
        list.insert(OsString::from(format!("Http_{name}")), value.to_owned());
    };
    let is_chunked = parts.headers.contains_key(TRANSFER_ENCODING);
    for name in parts.headers.keys() {
        let framing = name == TRANSFER_ENCODING || (is_chunked && name == CONTENT_LENGTH);
        if framing || RESERVED.contains(&name.as_str()) {
            continue;
        }
        if let Some(value) = parts.headers.get(name) {
            set(&canonical(name.as_str()).replace('-', "_"), OsStr::from_bytes(value.as_bytes()));
        }
    }
    if is_chunked {
        set("Transfer_Encoding", OsStr::new("chunked"));
    }
    set("Method", OsStr::new(parts.method.as_str()));
    if dialect == Dialect::Classic {
        let number = length.map_or_else(|| "-1".to_owned(), |length| length.to_string());
        set("ContentLength", OsStr::new(&number));
        set("Content_Length", OsStr::new(&number));
        let host = parts.headers.get(HOST).map_or(&b""[..], |host| host.as_bytes());
        set("Host", OsStr::from_bytes(host));
    }
    if let Some(query) = parts.uri.query().filter(|query| !query.is_empty()) {
        set("Query", OsStr::new(query));
    }
    let path = percent_decoded(parts.uri.path());
    if !path.is_empty() {
        set("Path", &path);
    }
    list.into_iter().collect()
}

/// stdin of `marshal_request`: headers with all their values, and the body in base64.
pub(super) fn marshalled(parts: &Parts, body: &[u8]) -> Vec<u8> {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in
        parts.headers.iter().filter(|(name, _)| *name != HOST && *name != TRANSFER_ENCODING)
    {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(canonical(name.as_str())).or_default().push(value);
    }
    // Written by hand at the top level, since the original's order is header, then body.
    format!("{{\"header\":{},\"body\":{{\"raw\":\"{}\"}}}}", json!(headers), STANDARD.encode(body))
        .into_bytes()
}

/// A header's name as Go spells it: first letter and every letter after `-` upper, the rest lower.
pub(super) fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let spelled = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            spelled
        })
        .collect()
}

/// The path with `%XX` replaced; a `%` that introduces nothing stays.
pub(super) fn percent_decoded(path: &str) -> OsString {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| Some((hex(pair[0])?, hex(pair[1])?)));
        match pair {
            Some((high, low)) if *byte == b'%' => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn lookup(list: &[Variable], name: &str) -> Option<String> {
        list.iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.to_string_lossy().into_owned())
    }

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(Request::get(target), |b, (name, value)| b.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_is_described_as_the_classic_watchdog_describes_it() {
        let head = parts(
            "/a%20b/c?x=1&y=%20",
            &[
                ("Host", "fn.example:99"),
                ("X-Foo-bar", "one"),
                ("X-Foo-Bar", "two"),
                ("foo_bar", "z"),
                ("X.L_m-n", "q"),
            ],
        );
        let list = variables(&head, Some(0), Dialect::Classic);
        for (name, value) in [
            ("Http_X_Foo_Bar", "one"),
            ("Http_Foo_bar", "z"),
            ("Http_X.l_m_N", "q"),
            ("Http_Method", "GET"),
            ("Http_ContentLength", "0"),
            ("Http_Content_Length", "0"),
            ("Http_Query", "x=1&y=%20"),
            ("Http_Path", "/a b/c"),
            ("Http_Host", "fn.example:99"),
        ] {
            assert_eq!(lookup(&list, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn of_watchdog_leaves_out_host_and_invented_lengths() {
        let list = variables(
            &parts("/", &[("Host", "h"), ("Content-Length", "3")]),
            Some(3),
            Dialect::OfWatchdog,
        );
        assert_eq!(lookup(&list, "Http_Host"), None);
        assert_eq!(lookup(&list, "Http_ContentLength"), None);
        assert_eq!(lookup(&list, "Http_Content_Length").as_deref(), Some("3"));
        assert_eq!(lookup(&list, "Http_Query"), None);
    }

    #[test]
    fn headers_cannot_pose_as_the_request() {
        let head = parts("/real", &[("Query", "spoof"), ("Path", "/spoof"), ("Method", "SPOOF")]);
        let list = variables(&head, Some(0), Dialect::Classic);
        assert_eq!(lookup(&list, "Http_Query"), None);
        assert_eq!(lookup(&list, "Http_Path").as_deref(), Some("/real"));
        assert_eq!(lookup(&list, "Http_Method").as_deref(), Some("GET"));
    }

    #[test]
    fn a_chunked_body_has_no_length() {
        let list =
            variables(&parts("/", &[("Transfer-Encoding", "chunked")]), None, Dialect::Classic);
        assert_eq!(lookup(&list, "Http_ContentLength").as_deref(), Some("-1"));
        assert_eq!(lookup(&list, "Http_Transfer_Encoding").as_deref(), Some("chunked"));
    }

    #[test]
    fn marshalled_requests_are_sorted_and_hide_the_host() {
        let head = parts(
            "/",
            &[("X-A", "1"), ("Content-Length", "3"), ("connection", "close"), ("Host", "h")],
        );
        let text = String::from_utf8(marshalled(&head, b"abc")).unwrap();
        let expected = r#"{"header":{"Connection":["close"],"Content-Length":["3"],"X-A":["1"]},"body":{"raw":"YWJj"}}"#;
        assert_eq!(text, expected);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(path in "[a-z%0-9A-F/é]{0,20}") {
            let _ = percent_decoded(&path);
        }
    }
}
