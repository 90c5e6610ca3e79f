//! The sample `hello`: greets whom the body or `?name=` names, behind a watchdog in mode `http`.
//!
//! In: any method and path; a name of at most 80 characters as `?name=`, else as the body, else nobody's.
//! Out: one line of text that also tells what was asked, so that a caller sees what reached the function.
//! Port: 8082, hard-coded like the official Go template's.

use std::process::ExitCode;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query},
    http::{Method, StatusCode, Uri},
};
use hyperfaas_samples::{BODY_LIMIT, run};
use serde::Deserialize;

const PORT: u16 = 8082;

/// Longest name that is greeted, in characters.
const NAME_LIMIT: usize = 80;

#[derive(Deserialize)]
struct Whom {
    name: Option<String>,
}

fn main() -> ExitCode {
    run(PORT, router())
}

fn router() -> Router {
    Router::new().fallback(greet).layer(DefaultBodyLimit::max(BODY_LIMIT))
}

async fn greet(
    method: Method,
    uri: Uri,
    Query(whom): Query<Whom>,
    body: Bytes,
) -> (StatusCode, String) {
    let named = whom.name.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    let name = named.trim();
    if name.chars().count() > NAME_LIMIT || name.chars().any(char::is_control) {
        let text = format!("a name has at most {NAME_LIMIT} characters, all of them printable\n");
        return (StatusCode::BAD_REQUEST, text);
    }
    let name = if name.is_empty() { "stranger" } else { name };
    (
        StatusCode::OK,
        format!("Hello, {name}! You asked with {method} {uri} and {} bytes.\n", body.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(uri: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(uri).body(body.into()).unwrap();
        let answer = router().oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn greets_whom_the_query_the_body_or_nobody_names() {
        for (uri, body, line) in [
            ("/a?name=Ada", "", "Hello, Ada! You asked with POST /a?name=Ada and 0 bytes.\n"),
            ("/", "Ada\n", "Hello, Ada! You asked with POST / and 4 bytes.\n"),
            ("/", "", "Hello, stranger! You asked with POST / and 0 bytes.\n"),
        ] {
            assert_eq!(ask(uri, body).await, (StatusCode::OK, line.to_owned()));
        }
    }

    #[tokio::test]
    async fn refuses_long_and_unprintable_names_and_huge_bodies() {
        assert_eq!(ask("/", "x".repeat(NAME_LIMIT + 1)).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask("/?name=a%0Ab", "").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask("/", "x".repeat(BODY_LIMIT + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
