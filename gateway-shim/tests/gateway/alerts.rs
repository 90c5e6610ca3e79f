//! AlertManager's webhook scales functions.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;
use http_body_util::BodyExt;
use hyperfaas_gateway::router;

use crate::support::{ask, config, over_http, pair, start};

/// What AlertManager 0.25 sends.
fn webhook(status: &str, functions: &[&str]) -> String {
    let alerts: Vec<_> = functions
        .iter()
        .map(|function| {
            serde_json::json!({"status": status, "labels": {"alertname": "APIHighInvocationRate",
                "function_name": function, "service": "gateway", "severity": "major"},
                "annotations": {}, "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://p/", "fingerprint": "f"})
        })
        .collect();
    serde_json::json!({"receiver": "scale-up", "status": status, "alerts": alerts, "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "version": "4", "groupKey": "k",
        "truncatedAlerts": 0})
    .to_string()
}

/// A provider whose function `f.dev` has `replicas`; notes scale calls.
fn scaling(replicas: u64, scaled: &Arc<Mutex<Vec<String>>>) -> Router {
    let status = format!(
        r#"{{"name":"f","replicas":{replicas},"labels":{{"com.openfaas.scale.max":"10"}}}}"#
    );
    let scaled = Arc::clone(scaled);
    let scale = move |request: Request| {
        let scaled = Arc::clone(&scaled);
        async move {
            let target = request.uri().to_string();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            scaled.lock().unwrap().push(format!("{target} {}", String::from_utf8_lossy(&body)));
            StatusCode::ACCEPTED
        }
    };
    Router::new()
        .route("/system/function/f", get(move || async move { status.into_response() }))
        .route("/system/scale-function/f", post(scale))
        .fallback(async || StatusCode::NOT_FOUND)
}

#[tokio::test]
async fn firing_scales_up_resolved_scales_back_and_others_are_passed_over() {
    for (status, replicas, expected) in [
        ("firing", 4, Some(r#"{"namespace":"dev","replicas":5,"serviceName":"f"}"#)),
        ("resolved", 4, Some(r#"{"namespace":"dev","replicas":1,"serviceName":"f"}"#)),
        ("firing", 10, None),
    ] {
        let scaled = Arc::default();
        let pair = pair(scaling(replicas, &scaled), true);
        for gateway in &pair.gateways {
            let body = webhook(status, &["nobody.dev", "f.dev", "a b"]);
            let request = http::Request::post("/system/alert")
                .header("authorization", crate::system::authorization());
            let answer = ask(gateway, request, &body).await;
            assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
            let calls = std::mem::take(&mut *scaled.lock().unwrap());
            let expected: Vec<_> = expected
                .iter()
                .map(|body| format!("/system/scale-function/f?namespace=dev {body}"))
                .collect();
            assert_eq!(calls, expected);
        }
    }
}

#[tokio::test]
async fn what_is_no_webhook_is_refused_and_a_failing_provider_is_told() {
    let scaled = Arc::default();
    let pair = pair(scaling(1, &scaled), false);
    for gateway in &pair.gateways {
        for body in [
            "",
            "{",
            "[]",
            "null",
            r#"{"alerts":{}}"#,
            r#"{"alerts":[1]}"#,
            r#"{"alerts":[{"labels":{"function_name":7}}]}"#,
            "{}",
        ] {
            let answer = ask(gateway, http::Request::post("/system/alert"), body).await;
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (StatusCode::BAD_REQUEST, "Unable to parse alert, bad format.\n"),
                "{body}"
            );
        }
        let answer = ask(gateway, http::Request::get("/system/alert"), "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert!(scaled.lock().unwrap().is_empty());
    let broken = start(Router::new().fallback(async || StatusCode::INTERNAL_SERVER_ERROR));
    let gateway = start(router(config(false), over_http(broken.address), None));
    let answer =
        ask(&gateway, http::Request::post("/system/alert"), &webhook("firing", &["f"])).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        answer.body.starts_with("[0] f.openfaas-fn: the provider answered 500"),
        "{}",
        answer.body
    );
}
