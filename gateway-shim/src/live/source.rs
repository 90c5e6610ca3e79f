//! Where the state comes from: our provider's own stream, or the lists that every OpenFaaS provider has.
//!
//! In: the provider's answers. Out: changes of the [`Model`]. Always: a provider that breaks off is asked again after a pause, and
//! what was known stays until it answers.

use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::lock;
use super::model::{Model, Object};
use crate::routes::Gateway;
use crate::system::{all_functions, send};

/// Where our provider tells.
const TARGET: &str = "/system/hyperfaas/live";
/// Pause before a provider that broke off is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two lists of a provider that has no stream; its own page asks as often.
const LIST_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for these lists.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Our provider sends something at least every ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest event that is read: the whole state of tens of thousands of functions.
const EVENT_MAX: usize = 64 << 20;
/// Ends an event.
const END: &[u8] = b"\n\n";

/// Follows the provider until dropped.
pub(super) async fn follow(gateway: &Gateway, model: &Mutex<Model>) {
    loop {
        let mut question = Request::new(Body::empty());
        *question.uri_mut() = Uri::from_static(TARGET);
        let answer = send(gateway, &gateway.provider, question).await;
        let reason = match answer.status() {
            StatusCode::OK if is_stream(&answer) => {
                read_stream(answer.into_body(), model).await;
                "the provider broke off".to_owned()
            }
            // Any other provider knows no such route.
            StatusCode::OK
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => read_lists(gateway, model).await,
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                "the provider does not answer".to_owned()
            }
            status => format!("the provider answers {status}"),
        };
        lock(model).silent(reason);
        sleep(PAUSE).await;
    }
}

fn is_stream(answer: &Response) -> bool {
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Reads until the stream ends, breaks, falls silent or makes no sense.
async fn read_stream(body: Body, model: &Mutex<Model>) {
    let mut pieces = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut searched = 0;
    while let Ok(Some(Ok(piece))) = timeout(SILENCE_MAX, pieces.next()).await {
        kept.extend_from_slice(&piece);
        while let Some(at) = kept[searched..].windows(END.len()).position(|bytes| bytes == END) {
            let event = kept.split_to(searched + at);
            kept.advance(END.len());
            searched = 0;
            if let Err(error) = apply(&event, model) {
                return warn!(%error, "the provider's live stream is unreadable");
            }
        }
        searched = kept.len().saturating_sub(END.len() - 1);
        if kept.len() > EVENT_MAX {
            return warn!(limit = EVENT_MAX, "the provider's live stream is too large");
        }
    }
}

#[derive(Deserialize)]
struct Whole {
    system: Object,
    functions: Vec<Object>,
    decisions: Vec<Object>,
}

/// Takes one event over; comments and unknown events are nothing.
fn apply(event: &[u8], model: &Mutex<Model>) -> Result<(), serde_json::Error> {
    let (mut name, mut data) = (&b""[..], &b""[..]);
    for line in event.split(|byte| *byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"event: ") {
            name = value;
        } else if let Some(value) = line.strip_prefix(b"data: ") {
            data = value;
        }
    }
    // What is read is read outside the lock.
    match name {
        b"state" => {
            let Whole { system, functions, decisions } = serde_json::from_slice(data)?;
            lock(model).replace(functions, decisions, system);
        }
        b"functions" => {
            let functions = serde_json::from_slice(data)?;
            lock(model).take(functions);
        }
        b"gone" => {
            let keys = serde_json::from_slice(data)?;
            lock(model).gone(keys);
        }
        b"decisions" => {
            let decisions = serde_json::from_slice(data)?;
            lock(model).decided(decisions);
        }
        b"system" => {
            let system = serde_json::from_slice(data)?;
            lock(model).system(system);
        }
        _ => {}
    }
    Ok(())
}

/// A function as any provider tells of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    name: String,
    namespace: String,
    replicas: u64,
    available_replicas: u64,
    usage: Option<Usage>,
}

/// What it uses, where the provider tells that.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Usage {
    /// Millicores.
    cpu: f64,
    total_memory_bytes: f64,
}

/// Reads lists until the provider gives none; why it then gave none.
async fn read_lists(gateway: &Gateway, model: &Mutex<Model>) -> String {
    let mut is_first = true;
    loop {
        let Ok(Some(all)) = timeout(LIST_TIMEOUT, all_functions::<Status>(gateway)).await else {
            return "the provider does not list its functions".to_owned();
        };
        let functions = all.into_iter().map(function).collect();
        if std::mem::take(&mut is_first) {
            lock(model).replace(functions, Vec::new(), unknown());
        } else {
            lock(model).replace_functions(functions);
        }
        sleep(LIST_PAUSE).await;
    }
}

fn function(status: Status) -> Object {
    let mut function = Object::new();
    function.insert("name".into(), status.name.into());
    function.insert("namespace".into(), status.namespace.into());
    function.insert("replicas".into(), status.replicas.into());
    function.insert("available".into(), status.available_replicas.into());
    if let Some(usage) = status.usage {
        function.insert("cpu_milli".into(), usage.cpu.into());
        function.insert("memory_bytes".into(), usage.total_memory_bytes.into());
    }
    function
}

/// What such a provider does not tell.
fn unknown() -> Object {
    let knows = json!({ "containers": false, "decisions": false, "nodes": false });
    Object::from_iter([("knows".to_owned(), knows)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_read_however_the_stream_is_cut() {
        let text = "event: state\ndata: {\"system\":{},\"functions\":[{\"name\":\"a\",\"namespace\":\"n\"}],\"decisions\":[]}\n\n\
                    :\n\nevent: functions\ndata: [{\"name\":\"b\",\"namespace\":\"n\"}]\n\nevent: gone\ndata: [\"a.n\"]\n\n";
        for size in [1, 2, 3, 7, 64, text.len()] {
            let model = Mutex::default();
            let pieces: Vec<_> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            let pieces =
                futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
            read_stream(Body::from_stream(pieces), &model).await;
            let mut model = model.into_inner().unwrap();
            let samples = crate::live::sample::Samples::default();
            assert!(model.news(&samples, None).is_some());
            let whole = model.whole(None).unwrap();
            assert!(whole.contains("\"b\"") && !whole.contains("\"a\""), "{size}: {whole}");
        }
    }

    #[test]
    fn what_makes_no_sense_ends_the_stream() {
        let model = Mutex::default();
        for event in
            ["event: state\ndata: {}", "event: gone\ndata: [1]", "event: functions\ndata: x"]
        {
            assert!(apply(event.as_bytes(), &model).is_err(), "{event}");
        }
        assert!(apply(b"event: other\ndata: x", &model).is_ok() && apply(b":", &model).is_ok());
    }
}
