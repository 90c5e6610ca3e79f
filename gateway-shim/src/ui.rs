//! `/ui/`: the page, and the redirect to it.
//!
//! In: the files of `ui/`, put into the program by the build, plain and compressed. Out: one of them, or 304.
//! Always: nothing from elsewhere is loaded, run or embedded, and the page is embedded nowhere; the browser asks each time
//! whether its copy is the newest, so that a new gateway never meets an old page.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

/// What the page may do: load its own files and talk to this gateway. `form-action` is closed since forms are sent by script. The
/// hash is that of the one script in the page itself: it has to be there when nothing else could be loaded.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self' \
     'sha256-0w6YS1U3I88STLKweu+5SY7uYHa4VVsn3d8FdalTvWs='; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// A file of the page.
#[derive(Debug)]
pub(crate) struct File {
    /// Where it is served.
    pub(crate) path: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    tag: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/ui_files.rs"));

/// `/`: to the page, as OpenFaaS' gateway does.
pub(crate) async fn redirect() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/ui/")]).into_response()
}

/// `file`, compressed for those who understand that, or word that the client's copy is the newest.
pub(crate) fn answer(file: &'static File, headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    let out = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (VARY, HeaderValue::from_static("accept-encoding")),
        (ETAG, HeaderValue::from_static(file.tag)),
        (CONTENT_TYPE, HeaderValue::from_static(file.kind)),
    ] {
        out.insert(name, value);
    }
    if is_known(headers, file.tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let bytes = if takes_gzip(headers) {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        file.gzip
    } else {
        file.plain
    };
    *response.body_mut() = Body::from(Bytes::from_static(bytes));
    response
}

/// Tags are weak: compressed or not, the file is the same.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known
        .flat_map(|value| value.split(','))
        .any(|known| matches!(known.trim(), "*") || known.trim() == tag)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        // A weight of zero means: not this one.
        is_gzip && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest, Sha256};

    use super::*;

    fn headers(name: http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_whole_page_is_below_a_third_of_what_it_may_transfer() {
        assert!(FILES.iter().any(|file| file.path == "/ui/"));
        let size: usize = FILES.iter().map(|file| file.gzip.len()).sum();
        assert!(size < 34_000, "{size} bytes");
    }

    #[test]
    fn the_policy_names_the_only_script_within_the_page() {
        let page = FILES.iter().find(|file| file.path == "/ui/").unwrap();
        let text = std::str::from_utf8(page.plain).unwrap();
        let scripts: Vec<_> = text
            .split("<script>")
            .skip(1)
            .map(|rest| STANDARD.encode(Sha256::digest(rest.split("</script>").next().unwrap())))
            .collect();
        assert_eq!(scripts.len(), 1);
        assert!(
            POLICY.to_str().unwrap().contains(&format!("'sha256-{}'", scripts[0])),
            "{scripts:?}"
        );
    }

    #[test]
    fn files_are_compressed_for_those_who_take_it() {
        for (list, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0, br", false),
            ("identity", false),
        ] {
            assert_eq!(takes_gzip(&headers(ACCEPT_ENCODING, list)), takes, "{list}");
        }
    }

    #[test]
    fn a_copy_is_recognised_by_its_tag() {
        let file = &FILES[0];
        let status = |known| answer(file, &headers(IF_NONE_MATCH, known)).status();
        assert_eq!(status(file.tag), StatusCode::NOT_MODIFIED);
        assert_eq!(status("W/\"other\""), StatusCode::OK);
        assert_eq!(status("*"), StatusCode::NOT_MODIFIED);
    }
}
