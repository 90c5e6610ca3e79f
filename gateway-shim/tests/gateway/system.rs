//! The `/system` API, health and the front door.

use http::{Method, Request, StatusCode};
use hyperfaas_gateway::router;
use hyperfaas_http::auth::BasicAuth;

use crate::support::{USER, ask, config, over_http, pair, provider, start};

const FORWARDED: [(&str, &str); 18] = [
    ("GET", "/system/functions?namespace=x"),
    ("POST", "/system/functions"),
    ("PUT", "/system/functions"),
    ("DELETE", "/system/functions"),
    ("GET", "/system/function/f?usage=1"),
    ("POST", "/system/scale-function/f"),
    ("GET", "/system/secrets"),
    ("POST", "/system/secrets"),
    ("PUT", "/system/secrets"),
    ("DELETE", "/system/secrets"),
    ("GET", "/system/namespaces"),
    ("POST", "/system/namespace/"),
    ("GET", "/system/namespace/n"),
    ("PUT", "/system/namespace/n"),
    ("DELETE", "/system/namespace/n"),
    ("GET", "/system/namespaces/n"),
    ("GET", "/system/logs?name=f&follow=1"),
    ("GET", "/system/telemetry"),
];

pub(crate) fn authorization() -> String {
    BasicAuth::new(USER.0, USER.1).header().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_route_needs_credentials_and_reaches_the_provider_with_the_gateways_own() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        for (method, target) in FORWARDED {
            let request = || Request::builder().method(method).uri(target);
            for wrong in [None, Some("Bearer "), Some("Basic YWRtaW46d3Jvbmc="), Some("Basic !")] {
                let request =
                    wrong.map_or_else(request, |value| request().header("authorization", value));
                let refused = ask(gateway, request, "").await;
                assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{method} {target} {wrong:?}");
                assert_eq!(refused.body, "invalid credentials");
                assert_eq!(refused.header("www-authenticate"), "Basic realm=\"Restricted\"");
            }
            let authorized = request().header("authorization", authorization());
            let body = if method == "GET" { "" } else { "{\"replicas\":100}" };
            let answer = ask(gateway, authorized, body).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{method} {target}");
            assert!(answer.body.starts_with(&format!("{method} {target}\n")), "{}", answer.body);
            assert!(
                answer.body.contains(&format!("authorization: {}\n", authorization())),
                "{}",
                answer.body
            );
            assert!(
                answer.body.ends_with(&format!("\n\n{body}")),
                "the body passes unchanged: {}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_before_credentials() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        for path in [
            "/system",
            "/system/functions/",
            "/system/nothing",
            "/async-function/f",
            "/function/",
            "/ui",
            "/ui/nothing.js",
            "/x",
        ] {
            let answer = ask(gateway, Request::post(path), "").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::NOT_FOUND, "404 page not found\n"),
                "{path}"
            );
        }
        for (method, path) in [
            (Method::PATCH, "/system/functions"),
            (Method::POST, "/system/function/f"),
            (Method::GET, "/system/scale-function/f"),
            (Method::DELETE, "/system/logs"),
            (Method::POST, "/healthz"),
        ] {
            let answer = ask(gateway, Request::builder().method(method).uri(path), "").await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::METHOD_NOT_ALLOWED, ""),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn without_auth_the_callers_credentials_pass() {
    let pair = pair(provider(), false);
    for gateway in &pair.gateways {
        let answer =
            ask(gateway, Request::get("/system/functions").header("authorization", "Bearer "), "")
                .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        let token =
            ask(gateway, Request::get("/system/functions").header("authorization", "Bearer t"), "")
                .await;
        assert!(token.body.contains("authorization: Bearer t\n"), "{}", token.body);
    }
}

#[tokio::test]
async fn info_wraps_the_providers_and_never_holds_null() {
    let pair = pair(provider(), false);
    for gateway in &pair.gateways {
        let answer = ask(gateway, Request::get("/system/info"), "").await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (StatusCode::OK, "application/json")
        );
        let expected = format!(
            "{{\"provider\":{{\"provider\":\"fake\",\"version\":{{\"sha\":\"abc\",\"release\":\"9.9\"}},\
             \"orchestration\":\"test\"}},\"version\":{{\"sha\":\"{}\",\"release\":\"{}\"}},\"arch\":\"{}\"}}",
            hyperfaas_gateway::SHA,
            hyperfaas_gateway::VERSION,
            std::env::consts::ARCH
        );
        assert_eq!(answer.body, expected);
        assert!(!hyperfaas_gateway::SHA.is_empty());
    }
    let broken = axum::Router::new().fallback(|| async { "null" });
    let broken = start(broken);
    let gateway = start(router(config(false), over_http(broken.address), None));
    let answer = ask(&gateway, Request::get("/system/info"), "").await;
    assert!(
        answer.body.starts_with("{\"provider\":{\"provider\":\"\",\"version\":{"),
        "{}",
        answer.body
    );
    assert!(!answer.body.contains("null"));
}

#[tokio::test]
async fn health_is_the_providers() {
    let pair = pair(provider(), true);
    for gateway in &pair.gateways {
        assert_eq!(ask(gateway, Request::get("/healthz"), "").await.status, StatusCode::ACCEPTED);
        let head = ask(gateway, Request::head("/healthz"), "").await;
        assert_eq!((head.status, head.body.as_str()), (StatusCode::ACCEPTED, ""));
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = start(router(config(false), over_http(gone), None));
    assert_eq!(ask(&gateway, Request::get("/healthz"), "").await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn logs_may_come_from_elsewhere() {
    let (main, other) =
        (start(provider()), start(axum::Router::new().fallback(|| async { "other logs" })));
    let gateway =
        start(router(config(false), over_http(main.address), Some(over_http(other.address))));
    assert_eq!(ask(&gateway, Request::get("/system/logs?name=f"), "").await.body, "other logs");
    assert_eq!(
        ask(&gateway, Request::get("/system/functions"), "").await.status,
        StatusCode::ACCEPTED
    );
}

/// A provider with two functions, of which one can be called.
fn listing() -> axum::Router {
    let list = r#"[{"name":"f","namespace":"n","replicas":2,"labels":null,"own":1.5},{"name":"g","namespace":"n"}]"#;
    axum::Router::new()
        .route("/system/functions", axum::routing::get(move || async move { list }))
        .route("/system/namespaces", axum::routing::get(|| async { r#"["n"]"# }))
        .route("/function/f.n", axum::routing::any(|| async { "hi" }))
        .fallback(|| async { StatusCode::NOT_FOUND })
}

#[tokio::test]
async fn the_list_tells_how_often_functions_were_called() {
    let pair = pair(listing(), false);
    for gateway in &pair.gateways {
        let list = async || {
            ask(gateway, Request::get("/system/functions").header("accept-encoding", "gzip"), "")
                .await
        };
        assert!(!list().await.body.contains("invocationCount"));
        for name in ["f.n", "f.n", "f.n", "g.n"] {
            ask(gateway, Request::get(format!("/function/{name}")), "").await;
        }
        let functions: serde_json::Value = serde_json::from_str(&list().await.body).unwrap();
        assert_eq!(functions[0]["invocationCount"], 3);
        assert_eq!(
            (&functions[0]["labels"], &functions[0]["own"]),
            (&serde_json::Value::Null, &1.5.into())
        );
        assert_eq!(functions[1].get("invocationCount"), None, "a 404 is no call");
    }
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_use() {
    let provider = start(listing());
    let routers = hyperfaas_gateway::routers(
        config(true),
        crate::support::backends(over_http(provider.address), "n", None),
    );
    let (api, metrics) = (start(routers.api), start(routers.metrics));
    ask(&api, Request::get("/function/f.n"), "").await;
    let answer = ask(&metrics, Request::get("/metrics"), "").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, "text/plain; version=0.0.4")
    );
    for line in [
        r#"gateway_function_invocation_total{code="200",function_name="f.n"} 1"#,
        r#"gateway_function_invocation_started{function_name="f.n"} 1"#,
        r#"gateway_service_count{function_name="f.n"} 2"#,
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} in\n{}", answer.body);
    }
    assert_eq!(ask(&metrics, Request::get("/healthz"), "").await.body, "OK");
    assert_eq!(
        ask(&metrics, Request::get("/system/functions"), "").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(ask(&api, Request::get("/metrics"), "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn calls_before_the_start_are_counted_when_a_prometheus_knows_them() {
    let answer = r#"{"status":"success","data":{"resultType":"vector","result":[
        {"metric":{"function_name":"f.n"},"value":[1,"40"]}]}}"#;
    let prometheus = start(
        axum::Router::new()
            .route("/api/v1/query", axum::routing::get(move || async move { answer })),
    );
    let mut backends =
        crate::support::backends(hyperfaas_gateway::Upstream::Local(listing()), "n", None);
    backends.prometheus = Some(over_http(prometheus.address));
    let routers = hyperfaas_gateway::routers(config(false), backends);
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(routers.work.run(stop.clone(), stop.clone(), std::time::Duration::ZERO));
    let _stop = stop.drop_guard();
    let gateway = start(routers.api);
    ask(&gateway, Request::get("/function/f.n"), "").await;
    loop {
        let list = ask(&gateway, Request::get("/system/functions"), "").await;
        let list: serde_json::Value = serde_json::from_str(&list.body).unwrap();
        if list[0]["invocationCount"] == 41 {
            break;
        }
        assert_eq!(list[0]["invocationCount"], 1, "not asked yet");
        tokio::task::yield_now().await;
    }
}
