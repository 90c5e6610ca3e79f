//! The page's files and the live stream behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_gateway::{Upstream, router, routers};
use hyperfaas_http::{Pool, PoolSettings};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Server, USER, ask, backends, config, over_http, pair, provider, start};

/// Longest wait for an event that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

fn credentials() -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)))
}

/// An open stream of events.
struct Events {
    body: Body,
    kept: String,
}

impl Events {
    async fn of(server: &Server) -> Self {
        let request = Request::get("/system/hyperfaas/live").header("host", "gateway.example");
        let request = request.header("authorization", credentials()).body(Body::empty()).unwrap();
        let pool = Pool::new(server.address, PoolSettings::default());
        let answer = pool.send(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: Body::new(answer.into_body()), kept: String::new() }
    }

    /// The next event's name and data, comments left out; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.kept.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.kept = rest;
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (line("event: "), line("data: ")) {
                    return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something comes")?;
            let data = frame.unwrap().into_data().unwrap();
            self.kept.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The first event of this name for which `is_it`.
    async fn find(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = async {
            loop {
                let (found, data) = self.next().await.expect("the stream goes on");
                if found == name && is_it(&data) {
                    return data;
                }
            }
        };
        timeout(PATIENCE, find).await.unwrap_or_else(|_| panic!("no such {name}"))
    }
}

/// A provider as others write them: lists, and nothing of ours. It has as many functions as `count` says.
fn plain_provider(count: watch::Receiver<u64>, lists: Arc<AtomicUsize>) -> Router {
    let list = async move || {
        lists.fetch_add(1, Ordering::SeqCst);
        let functions = 0..*count.borrow();
        let status = |n| json!({ "name": format!("f{n}"), "namespace": "fn", "replicas": 2, "availableReplicas": 1 });
        Json(functions.map(status).collect::<Vec<_>>())
    };
    Router::new()
        .route("/system/namespaces", get(async || Json(["fn"])))
        .route("/system/functions", get(list))
        .route("/function/{name}", post(async || StatusCode::INTERNAL_SERVER_ERROR))
}

#[tokio::test]
async fn the_root_leads_to_the_page_and_the_page_asks_for_credentials() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        let answer = ask(gateway, Request::get("/"), "").await;
        assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(answer.header("location"), "/ui/");
        for path in ["/ui/", "/ui/app.js", "/system/hyperfaas/live"] {
            let answer = ask(gateway, Request::get(path), "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Restricted\"", "{path}");
        }
    }
}

#[tokio::test]
async fn the_pages_files_come_with_a_policy_and_are_sent_once() {
    let pair = pair(provider(), true);
    let gateway = &pair.gateways[0];
    let request = |path: &str| Request::get(path).header("authorization", credentials());
    for (path, kind) in [
        ("/ui/", "text/html; charset=utf-8"),
        ("/ui/app.js", "text/javascript; charset=utf-8"),
        ("/ui/style.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ] {
        let answer = ask(gateway, request(path), "").await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, kind));
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let tag = answer.header("etag").to_owned();
        let again = ask(gateway, request(path).header("if-none-match", tag), "").await;
        assert_eq!((again.status, again.body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
    }
}

#[tokio::test]
async fn another_sites_page_may_change_nothing() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        for (site, status) in [
            ("cross-site", StatusCode::FORBIDDEN),
            ("same-site", StatusCode::FORBIDDEN),
            ("same-origin", StatusCode::ACCEPTED),
            ("none", StatusCode::ACCEPTED),
        ] {
            let request = Request::post("/system/functions")
                .header("authorization", credentials())
                .header("sec-fetch-site", site);
            assert_eq!(ask(gateway, request, "{}").await.status, status, "{site}");
        }
    }
}

#[tokio::test]
async fn a_provider_without_a_stream_is_shown_by_its_lists_and_the_gateways_counts() {
    let (sender, count) = watch::channel(1);
    let lists = Arc::new(AtomicUsize::new(0));
    let provider = start(plain_provider(count, Arc::clone(&lists)));
    let gateway = start(router(config(true), over_http(provider.address), None));
    assert_eq!(lists.load(Ordering::SeqCst), 0, "nobody watches, nothing is asked");
    let mut events = Events::of(&gateway).await;
    let state = events.find("state", |_| true).await;
    assert_eq!(state["functions"][0]["name"], "f0");
    assert_eq!(state["functions"][0]["available"], 1);
    assert!(state["functions"][0].get("containers").is_none(), "nobody knows its containers");
    assert_eq!(state["system"]["knows"]["containers"], false);

    let call = ask(&gateway, Request::post("/function/f0.fn"), "x").await;
    assert_eq!(call.status, StatusCode::INTERNAL_SERVER_ERROR);
    let functions = events.find("functions", |all| all[0]["invocations"] == 1).await;
    assert_eq!(functions[0]["errors"], 1.0);
    assert!(functions[0]["p95_ms"].as_f64().unwrap() > 0.0);

    sender.send_replace(2);
    let is_new = |all: &Value| all.as_array().unwrap().iter().any(|f| f["name"] == "f1");
    events.find("functions", is_new).await;
    sender.send_replace(0);
    let gone = events.find("gone", |_| true).await;
    assert_eq!(gone.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_providers_own_stream_is_passed_on_and_its_silence_told() {
    let whole = json!({ "system": { "scaling": "full" }, "decisions": [{ "function": "a.fn", "at": 5 }],
        "functions": [{ "name": "a", "namespace": "fn", "rate": 7.5, "containers": [] }] });
    let text = format!("event: state\ndata: {whole}\n\n");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let live = async move || match count.fetch_add(1, Ordering::SeqCst) {
        0 => ([("content-type", "text/event-stream")], text.clone()).into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let provider = Router::new().route("/system/hyperfaas/live", get(live));
    let gateway = start(router(config(true), Upstream::Local(provider), None));
    let mut events = Events::of(&gateway).await;
    let state = events.find("state", |_| true).await;
    assert_eq!(state["functions"][0]["rate"], 7.5, "the provider sees all callers");
    assert_eq!(state["functions"][0]["invocations"], 0, "the gateway adds what it knows");
    assert_eq!(
        (&state["decisions"][0]["at"], &state["system"]["scaling"]),
        (&json!(5), &json!("full"))
    );
    events
        .find("system", |system| {
            system["trouble"].as_str().is_some_and(|text| text.contains("503"))
        })
        .await;
    let mut late = Events::of(&gateway).await;
    let state = late.find("state", |_| true).await;
    assert_eq!(state["functions"][0]["name"], "a", "what was known stays");
}

#[tokio::test]
async fn watchers_are_bounded_and_let_go_when_the_gateway_stops() {
    let provider = plain_provider(watch::channel(1).1, Arc::default());
    let routers = routers(config(true), backends(Upstream::Local(provider), "fn", None));
    let gateway = start(routers.api);
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(Events::of(&gateway).await);
    }
    let one_more = Request::get("/system/hyperfaas/live").header("authorization", credentials());
    assert_eq!(ask(&gateway, one_more, "").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let (stop, served) = (CancellationToken::new(), CancellationToken::new());
    stop.cancel();
    served.cancel();
    routers.work.run(stop, served, Duration::ZERO).await;
    for mut events in all {
        while events.next().await.is_some() {}
    }
}
