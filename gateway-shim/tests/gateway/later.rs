//! Asynchronous calls: kept, delivered, tried again, given up, driven again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http_body_util::BodyExt;
use hyperfaas_gateway::{Queue, QueueSettings, Upstream, routers};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::keep::{Keep, borrowed, over_both};
use crate::program::Program;
use crate::support::{Answer, Server, ask, backends, config, over_http, start};

/// A call as the function saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    target: String,
    headers: http::HeaderMap,
    pub(crate) body: String,
}

/// A provider with one function, `f`, whose labels and behaviour a test chooses.
pub(crate) struct Lab {
    pub(crate) router: Router,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    /// The function's answers; it answers 200 with the body `done` when nothing else is set.
    pub(crate) answer: watch::Sender<Reply>,
    running_max: Arc<AtomicUsize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) takes: Duration,
    /// Where calls wait for one another.
    pub(crate) pairs: Option<Arc<tokio::sync::Barrier>>,
}

pub(crate) fn reply(status: u16, headers: &[(&'static str, &'static str)]) -> Reply {
    Reply { status, headers: headers.to_vec(), takes: Duration::ZERO, pairs: None }
}

pub(crate) fn lab(labels: &Value) -> Lab {
    let (tell, seen) = mpsc::unbounded_channel();
    let (answer, answers) = watch::channel(reply(200, &[("x-own", "1")]));
    let (running, running_max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let status = serde_json::json!({"name": "f", "labels": labels}).to_string();
    let max = Arc::clone(&running_max);
    let function = move |request: Request| {
        let (tell, answers, running, max) =
            (tell.clone(), answers.clone(), Arc::clone(&running), Arc::clone(&max));
        async move {
            max.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let reply = answers.borrow().clone();
            tokio::time::sleep(reply.takes).await;
            if let Some(pairs) = &reply.pairs {
                pairs.wait().await;
            }
            let body = String::from_utf8_lossy(&body).into_owned();
            let target = parts.uri.to_string();
            running.fetch_sub(1, Ordering::SeqCst);
            let _ = tell.send(Seen { target, headers: parts.headers, body });
            let mut response =
                (StatusCode::from_u16(reply.status).unwrap(), "done").into_response();
            for (name, value) in reply.headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
    };
    let router = Router::new()
        .route("/system/function/f", get(move || async move { status }))
        .route("/function/{*call}", axum::routing::any(function))
        .fallback(async || StatusCode::NOT_FOUND);
    Lab { router, seen, answer, running_max }
}

/// A gateway with a queue; dropping it stops its work.
pub(crate) struct Keeping {
    pub(crate) api: Server,
    metrics: Server,
    _stop: DropGuard,
}

pub(crate) async fn keeping(provider: Upstream, settings: QueueSettings) -> Keeping {
    let queue = Queue::open(settings).unwrap();
    let routers = routers(config(false), backends(provider, "n", Some(queue)));
    let stop = CancellationToken::new();
    tokio::spawn(routers.work.run(stop.clone(), stop.clone(), Duration::from_secs(20)));
    let (api, metrics) = (start(routers.api), start(routers.metrics));
    ready(&api).await;
    Keeping { api, metrics, _stop: stop.drop_guard() }
}

/// Waits until the queue can be used: one in NATS is found a moment after the start.
pub(crate) async fn ready(server: &Server) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while ask(server, http::Request::get("/system/hyperfaas/async"), "").await.status
        != StatusCode::OK
    {
        assert!(tokio::time::Instant::now() < deadline, "the queue is not reached in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn call(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = http::Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    ask(server, request, body).await
}

pub(crate) async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    tokio::time::timeout(Duration::from_secs(30), seen.recv())
        .await
        .expect("delivered in time")
        .unwrap()
}

/// Asks until `is_so` of the JSON at `path`; the last answer.
pub(crate) async fn until(server: &Server, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask(server, http::Request::get(path), "").await;
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        if is_so(&value) {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} stays {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn emptied(server: &Server) {
    until(server, "/system/hyperfaas/async", |queue| queue["depth"] == 0).await;
}

/// A callback receiver.
fn receiver() -> (Server, mpsc::UnboundedReceiver<Seen>) {
    let (tell, told) = mpsc::unbounded_channel();
    let receive = move |request: Request| {
        let tell = tell.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body =
                String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
            let _ = tell.send(Seen { target: parts.uri.to_string(), headers: parts.headers, body });
        }
    };
    (start(Router::new().fallback(receive)), told)
}

over_both! {
    a_call_is_accepted_then_made_then_its_answer_is_sent_back,
    a_healthy_function_gets_every_call_exactly_once,
    what_was_accepted_survives_kill_9_and_is_made_by_the_next_start,
    a_busy_function_is_tried_again_until_it_answers,
    what_fails_too_often_is_kept_shown_driven_again_and_removed,
    a_function_that_is_gone_makes_a_dead_letter_at_once_and_its_own_404_does_not,
    a_function_has_no_more_calls_under_way_than_its_label_says,
    what_cannot_be_accepted_is_refused_and_not_kept,
    a_callback_that_fails_is_tried_again_without_calling_the_function_again,
}

async fn a_call_is_accepted_then_made_then_its_answer_is_sent_back(keep: Keep) {
    for is_local in [true, false] {
        let mut lab = lab(&Value::Null);
        let provider = start(lab.router.clone());
        let upstream = if is_local {
            Upstream::Local(lab.router.clone())
        } else {
            over_http(provider.address)
        };
        let gateway =
            keeping(upstream, keep.settings(if is_local { "local" } else { "http" })).await;
        let (receiver, mut told) = receiver();
        let callback = format!("http://{}/back%2F?y=2", receiver.address);
        let headers =
            [("x-callback-url", callback.as_str()), ("x-mine", "m"), ("authorization", "Bearer t")];
        let answer =
            call(&gateway.api, "/async-function/f.n/a%2Fb//c?x=%20", &headers, "payload").await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::ACCEPTED, ""));
        let call_id = answer.header("x-call-id").to_owned();
        assert_eq!(call_id.len(), 36);
        let seen = next(&mut lab.seen).await;
        assert_eq!(
            (seen.target.as_str(), seen.body.as_str()),
            ("/function/f.n/a%2Fb//c?x=%20", "payload")
        );
        assert_eq!(seen.headers["x-call-id"], call_id);
        assert_eq!(
            (&seen.headers["x-mine"], &seen.headers["authorization"]),
            (&"m".parse().unwrap(), &"Bearer t".parse().unwrap())
        );
        assert_eq!(seen.headers["x-callback-url"], callback.as_str());
        assert_eq!(seen.headers["x-start-time"], answer.header("x-start-time"));
        assert!(seen.headers["x-forwarded-for"].to_str().unwrap().starts_with("127.0.0.1:"));
        let back = next(&mut told).await;
        assert_eq!((back.target.as_str(), back.body.as_str()), ("/back%2F?y=2", "done"));
        for (name, value) in [
            ("x-function-status", "200"),
            ("x-function-name", "f.n"),
            ("x-own", "1"),
            ("x-call-id", &call_id),
        ] {
            assert_eq!(back.headers[name], value, "{name}");
        }
        assert!(
            back.headers["x-duration-seconds"].to_str().unwrap().parse::<f64>().unwrap() >= 0.0
        );
        emptied(&gateway.api).await;
        let text = ask(&gateway.metrics, http::Request::get("/metrics"), "").await.body;
        for line in [
            r#"gateway_async_calls_total{result="accepted"} 1"#,
            r#"gateway_async_attempts_total{result="delivered"} 1"#,
            r#"gateway_async_callbacks_total{result="sent"} 1"#,
            r#"gateway_function_invocation_total{code="200",function_name="f.n"} 1"#,
            "gateway_async_dead_letters 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}

async fn a_healthy_function_gets_every_call_exactly_once(keep: Keep) {
    let mut lab = lab(&Value::Null);
    let gateway =
        Arc::new(keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await);
    let calls = (0..300).map(|number| {
        let gateway = Arc::clone(&gateway);
        async move { call(&gateway.api, "/async-function/f", &[], &number.to_string()).await.status }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::ACCEPTED));
    emptied(&gateway.api).await;
    let mut times: HashMap<String, usize> = HashMap::new();
    while let Ok(seen) = lab.seen.try_recv() {
        *times.entry(seen.body).or_default() += 1;
    }
    assert_eq!(times.len(), 300);
    assert!(times.values().all(|times| *times == 1));
}

async fn what_was_accepted_survives_kill_9_and_is_made_by_the_next_start(keep: Keep) {
    let mut lab = lab(
        &serde_json::json!({"com.openfaas.retry.min_wait": "1ms", "com.openfaas.retry.max_wait": "1ms",
        "com.openfaas.retry.attempts": "1000000"}),
    );
    let provider = start(lab.router.clone());
    let queue = keep.variables("queue");
    // Not one call succeeds before the kill, though all are tried.
    lab.answer.send_replace(reply(503, &[]));
    let program = Program::start(provider.address, &borrowed(&queue));
    ready(&program.gateway).await;
    let calls = (0..100).map(|number| {
        let gateway = &program.gateway;
        async move { call(gateway, "/async-function/f.n", &[], &number.to_string()).await.status }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::ACCEPTED));
    next(&mut lab.seen).await;
    program.kill();
    lab.answer.send_replace(reply(200, &[]));
    while lab.seen.try_recv().is_ok() {}
    let program = Program::start(provider.address, &borrowed(&queue));
    let mut missing: std::collections::BTreeSet<String> =
        (0..100).map(|number| number.to_string()).collect();
    while !missing.is_empty() {
        missing.remove(&next(&mut lab.seen).await.body);
    }
    emptied(&program.gateway).await;
}

async fn a_busy_function_is_tried_again_until_it_answers(keep: Keep) {
    let mut lab = lab(&serde_json::json!({"com.openfaas.retry.min_wait": "1ms"}));
    let gateway = keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await;
    lab.answer.send_replace(reply(429, &[("retry-after", "0")]));
    assert_eq!(
        call(&gateway.api, "/async-function/f", &[], "x").await.status,
        StatusCode::ACCEPTED
    );
    next(&mut lab.seen).await;
    lab.answer.send_replace(reply(503, &[]));
    next(&mut lab.seen).await;
    lab.answer.send_replace(reply(500, &[]));
    emptied(&gateway.api).await;
    let last = loop {
        let seen = next(&mut lab.seen).await;
        if lab.seen.is_empty() {
            break seen;
        }
    };
    assert_eq!(last.body, "x", "the body is the same each time; 500 is an answer like any other");
    let queue = until(&gateway.api, "/system/hyperfaas/async", |_| true).await;
    assert_eq!(queue["dead"], 0);
}

async fn what_fails_too_often_is_kept_shown_driven_again_and_removed(keep: Keep) {
    let mut lab = lab(
        &serde_json::json!({"com.openfaas.retry.attempts": "3", "com.openfaas.retry.min_wait": "1ms"}),
    );
    let gateway = keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await;
    lab.answer.send_replace(reply(503, &[]));
    let (receiver, mut told) = receiver();
    let callback = format!("http://{}/", receiver.address);
    let headers = [
        ("authorization", "Bearer secret"),
        ("x-mine", "m"),
        ("x-callback-url", callback.as_str()),
    ];
    for body in ["one", "two"] {
        call(&gateway.api, "/async-function/f/p?q", &headers, body).await;
    }
    let is_two = |list: &Value| list.as_array().unwrap().len() == 2;
    let list = until(&gateway.api, "/system/hyperfaas/async/dead", is_two).await;
    for letter in list.as_array().unwrap() {
        assert_eq!(
            (&letter["function"], &letter["reason"], &letter["status"], &letter["attempts"]),
            (&"f.n".into(), &"attempts".into(), &503.into(), &3.into()),
            "{letter}"
        );
        assert!(letter.get("body").is_none() && letter.get("headers").is_none());
    }
    for _ in 0..2 {
        assert_eq!(next(&mut told).await.headers["x-function-status"], "503");
    }
    let path = |letter: &Value| format!("/system/hyperfaas/async/dead/{}", letter["id"]);
    let one = ask(&gateway.api, http::Request::get(path(&list[0])), "").await;
    let one: Value = serde_json::from_str(&one.body).unwrap();
    assert!(["b25l", "dHdv"].contains(&one["body"].as_str().unwrap()));
    let text = one["headers"].to_string();
    assert!(text.contains(r#"["x-mine","m"]"#) && !text.contains("secret"), "{text}");
    let page = format!("/system/hyperfaas/async/dead?after={}&function=f", list[0]["id"]);
    assert_eq!(until(&gateway.api, &page, |_| true).await[0]["id"], list[1]["id"]);

    lab.answer.send_replace(reply(200, &[]));
    while lab.seen.try_recv().is_ok() {}
    let again = call(&gateway.api, &format!("{}/redrive", path(&list[0])), &[], "").await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    next(&mut lab.seen).await;
    emptied(&gateway.api).await;
    for (method, suffix) in [("POST", "/redrive"), ("GET", ""), ("DELETE", "")] {
        let request =
            http::Request::builder().method(method).uri(format!("{}{suffix}", path(&list[0])));
        assert_eq!(
            ask(&gateway.api, request, "").await.status,
            StatusCode::NOT_FOUND,
            "{method} of one that is gone"
        );
    }
    let all = http::Request::delete("/system/hyperfaas/async/dead?function=other");
    assert_eq!(ask(&gateway.api, all, "").await.body, r#"{"changed":0}"#);
    let all = http::Request::delete("/system/hyperfaas/async/dead?function=f.n");
    assert_eq!(ask(&gateway.api, all, "").await.body, r#"{"changed":1}"#);
    assert!(
        until(&gateway.api, "/system/hyperfaas/async/dead", |list| list
            .as_array()
            .unwrap()
            .is_empty())
        .await
        .is_array()
    );
}

async fn a_function_that_is_gone_makes_a_dead_letter_at_once_and_its_own_404_does_not(keep: Keep) {
    let mut lab = lab(&Value::Null);
    let gateway = keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await;
    lab.answer.send_replace(reply(404, &[]));
    call(&gateway.api, "/async-function/f", &[], "").await;
    next(&mut lab.seen).await;
    emptied(&gateway.api).await;
    // Another provider's answer for no function, whose status says 404.
    lab.answer.send_replace(reply(503, &[("x-openfaas-internal", "proxy")]));
    call(&gateway.api, "/async-function/nobody", &[], "").await;
    let list = until(&gateway.api, "/system/hyperfaas/async/dead", |list| !list[0].is_null()).await;
    assert_eq!(
        (&list[0]["function"], &list[0]["reason"], &list[0]["attempts"]),
        (&"nobody.n".into(), &"gone".into(), &1.into())
    );
}

async fn a_function_has_no_more_calls_under_way_than_its_label_says(keep: Keep) {
    let lab = lab(&serde_json::json!({"com.hyperfaas.async.concurrency": "2"}));
    let gateway = keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await;
    // A call is answered when another one is under way: were fewer allowed than two, none would be.
    let pairs = Some(Arc::new(tokio::sync::Barrier::new(2)));
    lab.answer.send_replace(Reply { pairs, ..reply(200, &[]) });
    for _ in 0..20 {
        call(&gateway.api, "/async-function/f", &[], "").await;
    }
    emptied(&gateway.api).await;
    assert_eq!(lab.running_max.load(Ordering::SeqCst), 2);
}

async fn what_cannot_be_accepted_is_refused_and_not_kept(keep: Keep) {
    let lab = lab(&Value::Null);
    lab.answer.send_replace(Reply { takes: Duration::from_secs(600), ..reply(200, &[]) });
    let limits =
        QueueSettings { body_max: 1000, depth_max: 2, workers: 1, ..keep.settings("queue") };
    let gateway = keeping(Upstream::Local(lab.router.clone()), limits).await;
    let long = "x".repeat(1001);
    let answer = call(&gateway.api, "/async-function/f", &[], &long).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "request body is larger than 1000 bytes\n")
    );
    assert_eq!(answer.header("x-call-id").len(), 36);
    for url in [
        "ftp://h/",
        "nonsense",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "file:///etc/passwd",
    ] {
        let answer = call(&gateway.api, "/async-function/f", &[("x-callback-url", url)], "").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{url}");
        assert!(
            answer.body.starts_with("X-Callback-Url ") && answer.body.lines().count() == 1,
            "{}",
            answer.body
        );
    }
    let bomb = "x".repeat(70_000);
    let answer = call(&gateway.api, "/async-function/f", &[("x-long", &bomb)], "").await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let answer = call(&gateway.api, "/async-function/a%20b", &[], "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let answer = ask(&gateway.api, http::Request::get("/async-function/f"), "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(until(&gateway.api, "/system/hyperfaas/async", |_| true).await["depth"], 0);
    for _ in 0..2 {
        assert_eq!(
            call(&gateway.api, "/async-function/f", &[], "").await.status,
            StatusCode::ACCEPTED
        );
    }
    let full = call(&gateway.api, "/async-function/f", &[], "").await;
    assert_eq!(
        (full.status, full.body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the queue is full\n")
    );
    assert_eq!(full.header("retry-after"), "1");
}

async fn a_callback_that_fails_is_tried_again_without_calling_the_function_again(keep: Keep) {
    let mut lab = lab(&Value::Null);
    let gateway = keeping(Upstream::Local(lab.router.clone()), keep.settings("queue")).await;
    let times = Arc::new(Mutex::new(0));
    let flaky = Arc::clone(&times);
    let flaky = start(Router::new().fallback(move || async move {
        let mut times = flaky.lock().unwrap();
        *times += 1;
        if *times == 1 { StatusCode::BAD_GATEWAY.into_response() } else { Response::default() }
    }));
    let callback = format!("http://{}/", flaky.address);
    call(&gateway.api, "/async-function/f", &[("x-callback-url", &callback)], "").await;
    emptied(&gateway.api).await;
    assert_eq!(*times.lock().unwrap(), 2);
    next(&mut lab.seen).await;
    assert!(lab.seen.is_empty());
}

#[tokio::test]
async fn a_schedule_calls_its_function_with_and_without_a_queue() {
    for has_queue in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut lab = lab(&Value::Null);
        let list = r#"[{"name":"f","namespace":"n","annotations":{"topic":"cron-function","schedule":"* * * * * *"}}]"#;
        let router = Router::new()
            .route("/system/namespaces", get(async || r#"["n"]"#))
            .route("/system/functions", get(move || async move { list }))
            .fallback_service(lab.router.clone());
        let queue = has_queue
            .then(|| Queue::open(QueueSettings::new(directory.path().to_owned())).unwrap());
        let config = hyperfaas_gateway::GatewayConfig { cron: true, ..config(false) };
        let routers = routers(config, backends(Upstream::Local(router), "n", queue));
        let stop = CancellationToken::new();
        tokio::spawn(routers.work.run(stop.clone(), stop.clone(), Duration::from_secs(20)));
        let _stop = stop.drop_guard();
        let seen = next(&mut lab.seen).await;
        assert_eq!((seen.target.as_str(), seen.body.as_str()), ("/function/f.n", ""));
        assert_eq!(
            (&seen.headers["x-topic"], &seen.headers["x-connector"]),
            (&"cron-function".parse().unwrap(), &"cron-connector".parse().unwrap())
        );
        let text = ask(&start(routers.metrics), http::Request::get("/metrics"), "").await.body;
        assert!(text.contains("gateway_cron_schedules 1\n"), "{text}");
    }
}
