//! Requests that are answered before anybody looks at what they want: malformed ones, and paths that need cleaning.
//!
//! In: a request's head. Out: a [`Turn`], or nothing, which lets it pass.
//! Always: what passes names at most one host, a framing everybody agrees on, and a clean path.
//! Source: Go's `net/http` server and `ServeMux`, in front of both originals. None of these is counted or logged.

use hyper::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, StatusCode, Uri, Version};

/// How a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An answer without body; the connection stays open.
    Empty(StatusCode),
    /// An answer with a line of text, after which the connection closes.
    Close(StatusCode, &'static str),
    /// To the same path, cleaned.
    Redirect(String),
}

/// Decides about one request.
pub(crate) fn turn(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Option<Turn> {
    let bad = |text| Some(Turn::Close(StatusCode::BAD_REQUEST, text));
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 {
        return bad("400 Bad Request");
    }
    if hosts == 0 && version == Version::HTTP_11 && uri.authority().is_none() {
        return bad("400 Bad Request: missing required Host header");
    }
    if !headers.get(HOST).is_none_or(is_host) {
        return bad("400 Bad Request: malformed Host header");
    }
    let is_absolute = uri.scheme().is_some();
    if method != Method::CONNECT && uri.authority().is_some() && !is_absolute {
        return bad("400 Bad Request");
    }
    if !headers.get_all(CONTENT_LENGTH).iter().all(is_length) || !is_escaped(uri.path()) {
        return bad("400 Bad Request");
    }
    let encodings = headers.get_all(TRANSFER_ENCODING);
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if encodings.iter().count() > 1 || !encodings.iter().all(is_chunked) {
        return Some(Turn::Close(StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding"));
    }
    if headers
        .get(EXPECT)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Some(Turn::Close(StatusCode::EXPECTATION_FAILED, ""));
    }
    if method == Method::CONNECT && !uri.path().starts_with('/') {
        return Some(Turn::Close(StatusCode::NOT_FOUND, "404 page not found\n"));
    }
    match (uri.path(), method) {
        ("*", &Method::OPTIONS) => Some(Turn::Empty(StatusCode::OK)),
        ("*", _) => Some(Turn::Close(StatusCode::BAD_REQUEST, "")),
        (_, &Method::CONNECT) => None,
        (path, _) => redirect(path, uri.query()),
    }
}

/// Whether a host header holds only what a host and a port can be made of; Go's table.
fn is_host(value: &HeaderValue) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte);
    value.as_bytes().iter().all(is_part)
}

/// Whether a length fits into what Go counts with; digits alone were seen to by the parser.
fn is_length(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| text.trim().parse::<i64>().is_ok())
}

/// Whether every `%` introduces two hexadecimal digits.
fn is_escaped(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| {
        matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

fn redirect(path: &str, query: Option<&str>) -> Option<Turn> {
    if is_surely_clean(path) {
        return None;
    }
    let clean = cleaned(path);
    (clean != path).then(|| match query {
        Some(query) => Turn::Redirect(format!("{clean}?{query}")),
        None => Turn::Redirect(clean),
    })
}

/// Whether no segment can be empty, `.` or `..`; a quick look that nearly all paths pass.
fn is_surely_clean(path: &str) -> bool {
    path.starts_with('/') && !path.as_bytes().windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

/// The path without empty, `.` and `..` segments; a slash at the end stays. Percent-encoded dots are left alone.
fn cleaned(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn of(method: &str, target: &str, headers: &[(&str, &str)]) -> Option<Turn> {
        let builder = Request::builder().method(method).uri(target);
        let builder =
            headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        let parts = builder.body(()).unwrap().into_parts().0;
        turn(&parts.method, &parts.uri, parts.version, &parts.headers)
    }

    const HOST_A: (&str, &str) = ("host", "a");

    #[test]
    fn ordinary_requests_pass() {
        assert_eq!(of("GET", "/a/b/?q=//", &[HOST_A]), None);
        assert_eq!(
            of(
                "POST",
                "/",
                &[HOST_A, ("transfer-encoding", "Chunked"), ("expect", "100-Continue")]
            ),
            None
        );
        assert_eq!(of("GET", "/a%2F..%2Fb", &[HOST_A]), None);
        assert_eq!(of("GET", "http://h/p?q", &[]), None);
    }

    #[test]
    fn malformed_requests_are_turned_away() {
        let status = |turn: Option<Turn>| match turn {
            Some(Turn::Close(status, _) | Turn::Empty(status)) => status.as_u16(),
            _ => 0,
        };
        assert_eq!(status(of("GET", "/", &[])), 400);
        assert_eq!(status(of("GET", "/", &[HOST_A, HOST_A])), 400);
        assert_eq!(status(of("POST", "/", &[HOST_A, ("transfer-encoding", "gzip, chunked")])), 501);
        let twice = [HOST_A, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(status(of("POST", "/", &twice)), 501);
        assert_eq!(status(of("POST", "/", &[HOST_A, ("expect", "foo")])), 417);
        assert_eq!(status(of("CONNECT", "host:80", &[HOST_A])), 404);
        assert_eq!(status(of("GET", "/", &[("host", "a b")])), 400);
        assert_eq!(of("GET", "/", &[("host", "[::1]:80")]), None);
        assert_eq!(of("GET", "/", &[("host", "")]), None);
        assert_eq!(status(of("GET", "foo", &[HOST_A])), 400);
        assert_eq!(status(of("GET", "/%zz", &[HOST_A])), 400);
        assert_eq!(status(of("GET", "/a%4", &[HOST_A])), 400);
        assert_eq!(of("GET", "/%41?%zz", &[HOST_A]), None);
        let length = |text| of("POST", "/", &[HOST_A, ("content-length", text)]);
        assert_eq!(status(length("9223372036854775808")), 400);
        assert_eq!(length("9223372036854775807"), None);
        assert_eq!(status(of("OPTIONS", "*", &[HOST_A])), 200);
        assert_eq!(status(of("GET", "*", &[HOST_A])), 400);
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, clean) in [
            ("//a//b?q", "/a/b?q"),
            ("/./a/../b/", "/b/"),
            ("/..", "/"),
            ("//", "/"),
            ("/a/.", "/a"),
            ("/a/b/..", "/a"),
        ] {
            let target = format!("http://h{path}");
            assert_eq!(of("GET", &target, &[HOST_A]), Some(Turn::Redirect(clean.into())), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_clean(path in "/[a./%2]{0,20}") {
            let once = cleaned(&path);
            prop_assert!(once.starts_with('/') && !once.contains("//"));
            prop_assert_eq!(cleaned(&once), once.as_str());
            if is_surely_clean(&path) {
                prop_assert_eq!(once, path);
            }
        }
    }
}
