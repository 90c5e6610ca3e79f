//! The sample `plain`: an HTTP server without any watchdog, which shows a caller its own request.
//!
//! In: any method, path and headers; the body is counted. Out: the request line and headers as text, one a line.
//! Port: 8080, where the platform expects a plain image to listen. `/_/health` answers as a watchdog would.

use std::{fmt::Write as _, process::ExitCode};

use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::{HeaderMap, Method, Uri, header},
    routing::get,
};
use hyperfaas_samples::{BODY_LIMIT, run};

const PORT: u16 = 8080;

/// Headers whose values are not shown: an echo must not carry a caller's credentials into logs and screenshots.
const HIDDEN: [header::HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

fn main() -> ExitCode {
    run(PORT, router())
}

fn router() -> Router {
    Router::new()
        .route("/_/health", get("OK"))
        .fallback(show)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

async fn show(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> String {
    let mut text = format!("{method} {uri}\n");
    for (name, value) in &headers {
        let value = if HIDDEN.contains(name) {
            "(hidden)".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    }
    let _ = writeln!(text, "({} bytes of body)", body.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(request: Request<Body>) -> (StatusCode, String) {
        let answer = router().oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn shows_the_request_but_no_credentials() {
        let request =
            Request::put("/x/y?z=1").header("X-One", "1").header("Authorization", "Basic c2VjcmV0");
        let (status, text) = ask(request.body("abc".into()).unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text, "PUT /x/y?z=1\nx-one: 1\nauthorization: (hidden)\n(3 bytes of body)\n");
    }

    #[tokio::test]
    async fn is_healthy_and_refuses_huge_bodies() {
        let health = Request::get("/_/health").body(Body::empty()).unwrap();
        assert_eq!(ask(health).await, (StatusCode::OK, "OK".to_owned()));
        let huge = Request::post("/").body("x".repeat(BODY_LIMIT + 1).into()).unwrap();
        assert_eq!(ask(huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
