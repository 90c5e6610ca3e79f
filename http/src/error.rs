//! Error answers: one line of plain text, as Go's `http.Error` writes them.
//!
//! In: a status and a message. Out: a response whose body is one line and a newline.
//! Always: the text has no line breaks of its own, so what clients print stays one line.

use axum::body::Body;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};

/// Content type of every error answer.
pub const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer with `status` and `message` as its one line.
pub fn plain(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut text: String = message.into();
    if text.contains(['\n', '\r']) {
        text = text.trim_end().replace(['\n', '\r'], " ");
    }
    text.push('\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PLAIN_TEXT);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer with `status` and no body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_error_is_one_line_of_plain_text() {
        let response = plain(StatusCode::BAD_REQUEST, "no\nsuch\r\nthing\n");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "no such  thing\n");
    }
}
