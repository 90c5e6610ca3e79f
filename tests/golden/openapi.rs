//! Real answers of gateway and provider, in one process, against the OpenAPI document that the gateway serves.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_gateway::{
    Backends, CallbackPolicy, GatewayConfig, Queue, QueueSettings, Upstream, Work, routers,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::provider::Provider;

struct Documented {
    provider: Provider,
    gateway: Router,
    work: Option<Work>,
    document: Value,
    _queue: tempfile::TempDir,
}

impl Documented {
    async fn new() -> Self {
        let provider = Provider::new();
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(QueueSettings::new(directory.path().to_owned())).unwrap();
        let config = GatewayConfig {
            auth: Some(provider.auth.clone()),
            users: None,
            upstream_timeout: Some(Duration::from_secs(20)),
            callbacks: CallbackPolicy::default(),
            traces: None,
            cron: false,
        };
        let backends = Backends {
            provider: Upstream::Local(provider.router.clone()),
            logs: None,
            namespace: "openfaas-fn".to_owned(),
            queue: Some(queue),
            prometheus: None,
        };
        let routers = routers(config, backends);
        let (gateway, work) = (routers.api, Some(routers.work));

        let mut documented =
            Self { provider, gateway, work, document: Value::Null, _queue: directory };
        let (_, _, body) = documented.send("GET", "/system/hyperfaas/openapi.json", "").await;
        documented.document = serde_json::from_slice(&body).unwrap();
        documented
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> (StatusCode, String, Vec<u8>) {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("authorization", self.provider.auth.header())
            .body(Body::from(body.to_owned()));
        let response = self.gateway.clone().oneshot(request.unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let kind = parts.headers.get("content-type").map_or("", |v| v.to_str().unwrap());
        let kind = kind.split(';').next().unwrap_or_default().to_owned();
        (parts.status, kind, body.collect().await.unwrap().to_bytes().to_vec())
    }

    /// Sends a request whose path is `template` in the document; the answer, which must have `status` and be documented.
    async fn expect(&mut self, call: (&str, &str, &str), body: &str, status: u16) -> Value {
        let (method, template, target) = call;
        let (answered, kind, bytes) = self.send(method, target, body).await;
        let told =
            format!("{method} {target} → {answered} {kind} {}", String::from_utf8_lossy(&bytes));
        assert_eq!(answered.as_u16(), status, "{told}");
        let operation = &self.document["paths"][template][method.to_ascii_lowercase()];
        assert!(operation.is_object(), "{method} {template} is not documented");
        let mut response = &operation["responses"][status.to_string()];
        if let Some(name) = response["$ref"].as_str() {
            response = self.document.pointer(&name[1..]).unwrap();
        }
        assert!(response.is_object(), "not documented: {told}");
        let Some(content) = response.get("content") else {
            assert!(bytes.is_empty(), "a body that is not documented: {told}");
            return Value::Null;
        };
        let schema = &content[&kind]["schema"];
        assert!(schema.is_object(), "content type not documented: {told}");
        if !kind.ends_with("json") {
            assert_eq!(
                bytes.iter().filter(|byte| **byte == b'\n').count(),
                usize::from(bytes.ends_with(b"\n")),
                "{told}"
            );
            return Value::Null;
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let mut whole = schema.clone();
        whole["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {told}");
        value
    }
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let mut api = Documented::new().await;
    let functions = "/system/functions";
    let deployment =
        json!({"service": "fn1", "image": "a/b:c", "namespace": "", "envProcess": "cat",
        "envVars": {"a": "b"}, "labels": {"c": "d"}, "annotations": null,
        "limits": {"memory": "128Mi"}, "readOnlyRootFilesystem": true})
        .to_string();
    let list = ("GET", functions, functions);
    assert_eq!(api.expect(list, "", 200).await, json!([]));
    api.expect(("POST", functions, functions), &deployment, 202).await;
    api.expect(("POST", functions, functions), &deployment, 409).await;
    api.expect(("POST", functions, functions), "{", 400).await;
    api.expect(("PUT", functions, functions), &deployment, 202).await;
    api.expect(("PUT", functions, functions), r#"{"service":"nobody","image":"x"}"#, 404).await;
    assert_eq!(api.expect(list, "", 200).await[0]["name"], "fn1");
    api.expect(("GET", functions, "/system/functions?namespace=nowhere"), "", 400).await;
    let status = "/system/function/{name}";
    api.expect(("GET", status, "/system/function/fn1?usage=1"), "", 200).await;
    api.expect(("GET", status, "/system/function/nobody"), "", 404).await;
    let scale = "/system/scale-function/{name}";
    api.expect(("POST", scale, "/system/scale-function/fn1"), r#"{"replicas":2}"#, 202).await;
    api.expect(("POST", scale, "/system/scale-function/fn1"), r#"{"replicas":-2}"#, 400).await;
    api.expect(("POST", scale, "/system/scale-function/nobody"), r#"{"replicas":1}"#, 404).await;

    let secrets = "/system/secrets";
    let secret = r#"{"name":"s1","value":"v"}"#;
    api.expect(("POST", secrets, secrets), secret, 202).await;
    api.expect(("POST", secrets, secrets), secret, 409).await;
    api.expect(("PUT", secrets, secrets), secret, 202).await;
    api.expect(("GET", secrets, secrets), "", 200).await;
    api.expect(("DELETE", secrets, secrets), r#"{"name":"s1"}"#, 202).await;
    api.expect(("DELETE", secrets, secrets), r#"{"name":"s1"}"#, 404).await;

    let (spaces, space, new) =
        ("/system/namespaces", "/system/namespace/{name}", "/system/namespace/");
    api.expect(("POST", new, new), r#"{"name":"dev","labels":{"a":"b"}}"#, 201).await;
    api.expect(("POST", new, new), r#"{"name":"dev"}"#, 409).await;
    api.expect(("GET", spaces, spaces), "", 200).await;
    api.expect(("GET", space, "/system/namespace/dev"), "", 200).await;
    api.expect(("PUT", space, "/system/namespace/dev"), r#"{"name":"dev"}"#, 202).await;
    api.expect(("DELETE", space, "/system/namespace/dev"), "", 202).await;
    api.expect(("GET", space, "/system/namespace/dev"), "", 404).await;

    api.expect(("GET", "/system/info", "/system/info"), "", 200).await;
    api.expect(("GET", "/healthz", "/healthz"), "", 200).await;
    let logs = "/system/logs";
    api.expect(("GET", logs, "/system/logs?name=nobody"), "", 404).await;
    api.expect(("GET", logs, "/system/logs?name=fn1&tail=many"), "", 422).await;
    let alert = "/system/alert";
    api.expect(("POST", alert, alert), r#"{"alerts":[]}"#, 200).await;
    api.expect(("POST", alert, alert), "no", 400).await;
    api.expect(("DELETE", functions, functions), r#"{"functionName":"fn1"}"#, 202).await;
    api.expect(("DELETE", functions, functions), r#"{"functionName":"fn1"}"#, 404).await;
}

#[tokio::test]
async fn answers_about_asynchronous_calls_are_what_the_document_says() {
    let mut api = Documented::new().await;
    let stop = CancellationToken::new();
    let work = api.work.take().unwrap();
    let work = tokio::spawn(work.run(stop.clone(), stop.clone(), Duration::from_secs(20)));
    let later = "/async-function/{name}";
    api.provider.call("POST", "/system/functions", r#"{"service":"other","image":"a/b:c"}"#).await;
    for _ in 0..3 {
        api.expect(("POST", later, "/async-function/nobody"), "body", 202).await;
    }
    let (queue, dead) = ("/system/hyperfaas/async", "/system/hyperfaas/async/dead");
    let list = loop {
        api.expect(("GET", queue, queue), "", 200).await;
        let list = api.expect(("GET", dead, dead), "", 200).await;
        if list.as_array().unwrap().len() == 3 {
            break list;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(list[0]["reason"], "gone");
    let (one, again) =
        ("/system/hyperfaas/async/dead/{id}", "/system/hyperfaas/async/dead/{id}/redrive");
    let path = format!("{dead}/{}", list[0]["id"]);
    assert_eq!(api.expect(("GET", one, &path), "", 200).await["body"], "Ym9keQ==");
    api.expect(("DELETE", one, &path), "", 202).await;
    api.expect(("DELETE", one, &path), "", 404).await;
    api.expect(("GET", one, &path), "", 404).await;
    api.expect(("POST", again, &format!("{dead}/{}/redrive", list[1]["id"])), "", 202).await;
    api.expect(("POST", again, &format!("{path}/redrive")), "", 404).await;
    api.expect(("GET", dead, &format!("{dead}?limit=x")), "", 400).await;
    let all = "/system/hyperfaas/async/dead/redrive";
    api.expect(("POST", all, &format!("{all}?function=other")), "", 200).await;
    api.expect(("DELETE", dead, dead), "", 200).await;
    stop.cancel();
    work.await.unwrap();
}

#[tokio::test]
async fn every_documented_operation_is_a_route_and_wants_credentials_as_told() {
    let api = Documented::new().await;
    for (path, operations) in api.document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if method == "parameters" || operation["tags"] == json!(["calls"]) {
                continue;
            }
            let target = path.replace("{name}", "f").replace("{id}", "1");
            let request =
                Request::builder().method(method.to_ascii_uppercase().as_str()).uri(&target);
            let request = request.body(Body::empty()).unwrap();
            let status = api.gateway.clone().oneshot(request).await.unwrap().status();
            let is_open = operation["security"] == json!([]);
            assert_eq!(status == StatusCode::UNAUTHORIZED, !is_open, "{method} {path}: {status}");
            assert!(
                status != StatusCode::NOT_FOUND && status != StatusCode::METHOD_NOT_ALLOWED,
                "{method} {path}: {status}"
            );
        }
    }
}
