//! Plays the stories of the `*.json` files.

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;
use hyperfaas_protocol::go_json;
use hyperfaas_protocol::openfaas::{FunctionDeployment, FunctionStatus};
use serde::Deserialize;
use serde_json::Value;

use super::provider::{Answer, Provider};

/// What stands for a creation time in expected answers.
const TIME: &str = "<time>";

/// One request and its answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// What the client is doing.
    name: String,
    /// Instead of a request: this function gets a ready replica.
    #[serde(default)]
    ready: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    target: String,
    /// Extra headers; `Authorization` here replaces the right credentials, empty removes them.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The body's exact bytes.
    #[serde(default)]
    body: String,
    /// Whether the body comes in pieces and without a length, as through the Go gateway.
    #[serde(default)]
    chunked: bool,
    #[serde(default)]
    status: u16,
    /// The whole body: text, or JSON where it is no string.
    #[serde(default)]
    answer: Value,
    /// Headers the answer must have.
    #[serde(default)]
    answer_headers: Vec<(String, String)>,
}

#[tokio::test]
async fn faas_cli_is_served() {
    play(include_str!("faas-cli.json")).await;
}

#[tokio::test]
async fn the_go_gateway_is_served() {
    play(include_str!("go-gateway.json")).await;
}

#[tokio::test]
async fn go_sdk_and_connectors_are_served() {
    play(include_str!("go-sdk.json")).await;
}

#[tokio::test]
async fn the_certifier_is_served() {
    play(include_str!("certifier.json")).await;
}

#[tokio::test]
async fn the_ui_is_served() {
    play(include_str!("ui.json")).await;
}

/// What faas-cli writes, our types write as well: `deploy` of ours sends the same bytes.
#[test]
fn our_types_write_deployments_as_faas_cli_does() {
    let deployments: Vec<Step> = steps(include_str!("faas-cli.json"))
        .into_iter()
        .filter(|step| {
            step.target == "/system/functions" && matches!(step.method.as_str(), "POST" | "PUT")
        })
        .collect();
    assert!(deployments.len() > 2);
    for step in deployments {
        let decoded: FunctionDeployment = go_json::decode(step.body.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&decoded).unwrap(), step.body, "{}", step.name);
    }
}

fn steps(story: &str) -> Vec<Step> {
    serde_json::from_str(story).expect("a story is a list of steps")
}

async fn play(story: &str) {
    let provider = Provider::new();
    for step in steps(story) {
        if step.ready.is_empty() {
            let answer = provider.send(request(&provider, &step)).await;
            check(&step, &answer);
        } else {
            provider.make_ready(&step.ready, 9);
        }
    }
}

fn request(provider: &Provider, step: &Step) -> Request<Body> {
    let mut request = Request::builder().method(step.method.as_str()).uri(&step.target);
    let is_own = |(name, _): &(String, String)| name.eq_ignore_ascii_case("authorization");
    if !step.headers.iter().any(is_own) {
        request = request.header("authorization", provider.auth.header());
    }
    for (name, value) in step.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(name, value);
    }
    let body = if step.chunked {
        let half = step.body.len() / 2;
        let pieces = [&step.body[..half], &step.body[half..]]
            .map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece.to_owned())));
        Body::from_stream(stream::iter(pieces))
    } else {
        Body::from(step.body.clone())
    };
    request.body(body).expect("a valid request")
}

fn check(step: &Step, answer: &Answer) {
    let name = &step.name;
    assert_eq!(answer.status, step.status, "{name}: {}", answer.text());
    for (header, value) in &step.answer_headers {
        assert_eq!(answer.header(header), value, "{name}: {header}");
    }
    match &step.answer {
        Value::Null => assert_eq!(answer.text(), "", "{name}"),
        Value::String(text) => assert_eq!(answer.text(), text, "{name}"),
        wanted => {
            assert_eq!(answer.header("content-type"), "application/json", "{name}");
            let mut got: Value = serde_json::from_str(answer.text()).expect("JSON");
            check_status_bytes(name, answer);
            hide_times(&mut got);
            assert_eq!(&got, wanted, "{name}");
        }
    }
}

/// Clients decode into Go structs: what our own types write back must be the same bytes, so no `null`, no `1.0`, no extras.
fn check_status_bytes(name: &str, answer: &Answer) {
    if let Ok(status) = serde_json::from_str::<FunctionStatus>(answer.text()) {
        assert_eq!(serde_json::to_string(&status).unwrap(), answer.text(), "{name}");
        assert!(!answer.text().contains("null"), "{name}: {}", answer.text());
    }
}

/// Replaces creation times, which must be RFC 3339, by [`TIME`].
fn hide_times(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_times),
        Value::Object(fields) => {
            if let Some(time) = fields.get_mut("createdAt") {
                let text = time.as_str().expect("a time is text");
                assert!(
                    text.len() > 19 && text.ends_with('Z') && text.as_bytes()[10] == b'T',
                    "{text}"
                );
                *time = Value::String(TIME.to_owned());
            }
        }
        _ => {}
    }
}
