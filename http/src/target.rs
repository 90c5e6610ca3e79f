//! Request targets, byte for byte.
//!
//! In: a URI as it arrived. Out: the function it names and the target to send on; nothing is decoded or re-encoded, so
//! `%2F`, `%25`, `//` and the query reach the function as the caller wrote them.

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;

/// A function invocation taken from a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionPath<'a> {
    /// The segment after the prefix: `name` or `name.namespace`; matches OpenFaaS' route pattern.
    pub reference: &'a str,
    /// What follows: empty, or starts with `/`.
    pub rest: &'a str,
}

/// The invocation that `path` means under `prefix` (such as `/function/`); `None` when the name cannot be one.
pub fn function_path<'a>(path: &'a str, prefix: &str) -> Option<FunctionPath<'a>> {
    let tail = path.strip_prefix(prefix)?;
    let end = tail.find('/').unwrap_or(tail.len());
    let (reference, rest) = tail.split_at(end);
    hyperfaas_protocol::names::is_route_name(reference).then_some(FunctionPath { reference, rest })
}

/// The target `path` with the query of `uri`; an empty path becomes `/`.
///
/// # Errors
/// [`http::Error`] when `path` is not a valid path, which cannot happen for a piece of a parsed URI.
pub fn with_path(uri: &Uri, path: &str) -> Result<Uri, http::Error> {
    let path = if path.is_empty() { "/" } else { path };
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Ok(Uri::from(PathAndQuery::from_maybe_shared(Bytes::from(text))?))
}

/// The origin form of `uri`: path and query only, as servers expect it.
pub fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_path_keeps_its_bytes() {
        for (path, reference, rest) in [
            ("/function/fn1", "fn1", ""),
            ("/function/fn1/", "fn1", "/"),
            ("/function/fn1.ns//a/../b%2Fc%25", "fn1.ns", "//a/../b%2Fc%25"),
        ] {
            assert_eq!(function_path(path, "/function/"), Some(FunctionPath { reference, rest }));
        }
        for path in [
            "/function/",
            "/function//x",
            "/function/a%20b",
            "/function",
            "/other/x",
            "/function/a:b",
        ] {
            assert_eq!(function_path(path, "/function/"), None, "{path}");
        }
    }

    #[test]
    fn a_new_path_keeps_the_raw_query() {
        let uri: Uri = "/function/f/a?x=%20&y=+?&z".parse().unwrap();
        assert_eq!(with_path(&uri, "/a").unwrap().to_string(), "/a?x=%20&y=+?&z");
        assert_eq!(with_path(&uri, "").unwrap().to_string(), "/?x=%20&y=+?&z");
    }

    #[test]
    fn an_absolute_target_becomes_origin_form() {
        let uri: Uri = "http://gw:8080/function/f?q".parse().unwrap();
        assert_eq!(origin_form(&uri).to_string(), "/function/f?q");
        assert_eq!(origin_form(&Uri::from_static("/a?b")).to_string(), "/a?b");
    }
}
