//! `/system/hyperfaas/openapi.json`: the API as an OpenAPI 3.1 document.
//!
//! The document is `openapi.json` beside this file; `tests/golden` holds real answers against it.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

/// The document.
const DOCUMENT: &str = include_str!("openapi.json");

/// Serves the document.
pub(crate) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_document_of_this_version() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], crate::VERSION);
    }
}
