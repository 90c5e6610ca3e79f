//! Logs: the query of `GET /system/logs`, and its lines as JSON.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use hyperfaas_protocol::openfaas::LogMessage;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::error::ApiError;
use super::query::Query;
use crate::catalog::CatalogError;
use crate::logs::{LogRequest, Sources, open};

/// `GET /system/logs`; a follower's answer ends when the server begins to stop.
pub(super) async fn stream(
    Extension(stopping): Extension<CancellationToken>,
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    let request = parse(&api, &Query::of(request.uri()))?;
    let sources = Sources {
        catalog: Arc::clone(&api.catalog),
        cluster: Arc::clone(&api.cluster),
        engine: Arc::clone(&api.engine),
    };
    let lines = open(sources, request).await?.take_until(stopping.cancelled_owned());
    let lines = lines.map(|message| Ok::<_, Infallible>(line(&message)));
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CONNECTION, "Keep-Alive")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn parse(api: &Api, query: &Query) -> Result<LogRequest, ApiError> {
    let tail = match query.last("tail") {
        "" => None,
        text => Some(text.parse::<i64>().map_err(|_| ApiError::LogQuery)?),
    };
    let since = match query.last("since") {
        "" => None,
        text => Some(text.parse::<Timestamp>().map_err(|_| ApiError::LogQuery)?),
    };
    let name = query.last("name");
    if name.is_empty() {
        return Err(ApiError::Missing("name"));
    }
    let namespace = api.namespace(["", query.last("namespace")])?;
    let key =
        api.key(name, namespace.clone()).ok_or_else(|| ApiError::NoFunction(shorten(name)))?;
    if api.catalog.function(&key).is_none() {
        return Err(match api.catalog.has_namespace(&namespace) {
            true => CatalogError::FunctionUnknown(key),
            false => CatalogError::NamespaceUnknown(namespace),
        }
        .into());
    }
    Ok(LogRequest {
        key,
        instance: Some(query.last("instance")).filter(|text| !text.is_empty()).map(str::to_owned),
        follow: query.flag("follow"),
        tail: tail.and_then(|tail| u64::try_from(tail).ok()).filter(|tail| *tail > 0),
        since,
    })
}

/// One JSON object and a newline.
fn line(message: &LogMessage) -> Bytes {
    let mut bytes =
        serde_json::to_vec(message).expect("a message is strings and a time, which always encode");
    bytes.push(b'\n');
    bytes.into()
}

fn shorten(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_openfaas_clients_decode() {
        let message = LogMessage {
            name: "fn1".to_owned(),
            namespace: "openfaas-fn".to_owned(),
            instance: "fn1-0".to_owned(),
            timestamp: "2023-11-14T22:13:20.123456789Z".parse().unwrap(),
            text: "2023/11/14 22:13:20 Forking fprocess.".to_owned(),
        };
        let golden = concat!(
            r#"{"name":"fn1","namespace":"openfaas-fn","instance":"fn1-0","#,
            r#""timestamp":"2023-11-14T22:13:20.123456789Z","text":"2023/11/14 22:13:20 Forking fprocess."}"#,
            "\n",
        );
        assert_eq!(line(&message), golden);
    }
}
