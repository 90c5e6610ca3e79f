//! What no well-behaved client sends: one clear line, the right status, and nothing changed.

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;

use super::provider::{Answer, BODY_TIMEOUT, Provider};

const FUNCTIONS: &str = "/system/functions";
const SECRETS: &str = "/system/secrets";

/// A refusal is one short line of plain text.
fn assert_refused(answer: &Answer, status: u16, what: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{what}: {text}");
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8", "{what}");
    assert!(
        text.ends_with('\n') && text.lines().count() == 1 && text.len() < 400,
        "{what}: {text:?}"
    );
}

async fn assert_nothing_changed(provider: &Provider) {
    assert_eq!(provider.call("GET", FUNCTIONS, "").await.text(), "[]");
    assert_eq!(provider.call("GET", SECRETS, "").await.text(), "[]");
    assert_eq!(provider.call("GET", "/system/namespaces", "").await.text(), r#"["openfaas-fn"]"#);
}

async fn with_function() -> Provider {
    let provider = Provider::new();
    let answer = provider.call("POST", FUNCTIONS, r#"{"service":"fn1","image":"a/b:c"}"#).await;
    assert_eq!(answer.status, 202);
    provider
}

#[tokio::test]
async fn bodies_that_are_not_the_json_asked_for_are_400() {
    let provider = Provider::new();
    let routes = [
        ("POST", FUNCTIONS),
        ("PUT", FUNCTIONS),
        ("DELETE", FUNCTIONS),
        ("POST", "/system/scale-function/fn1"),
        ("POST", SECRETS),
        ("PUT", SECRETS),
        ("DELETE", SECRETS),
        ("POST", "/system/namespace/"),
        ("PUT", "/system/namespace/n1"),
        ("DELETE", "/system/namespace/n1"),
    ];
    let deep = format!(r#"{{"service":{}"#, "[".repeat(100_000));
    let bodies = [
        "{",
        "nonsense",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{\"service\":",
        "{\"a\":1}}",
        "{} {}",
        "\u{feff}{}",
        "{\"a\":\"\\ud800\"}",
        &deep,
    ];
    for (method, target) in routes {
        for body in bodies {
            let answer = provider.call(method, target, body.to_owned()).await;
            assert_refused(&answer, 400, &format!("{method} {target} {body:.20}"));
        }
        if method != "DELETE" || !target.contains("namespace") {
            assert_refused(
                &provider.call(method, target, "").await,
                400,
                &format!("{method} {target}, empty"),
            );
        }
        assert_refused(&provider.call(method, target, &b"\xff\xfe{}"[..]).await, 400, "not UTF-8");
    }
    assert_nothing_changed(&provider).await;
}

#[tokio::test]
async fn fields_of_the_wrong_type_are_named() {
    let provider = Provider::new();
    for (fields, named) in [
        (r#""service":1,"image":"a""#, "service"),
        (r#""service":"f","image":["a"]"#, "image"),
        (r#""service":"f","image":"a","envVars":["x"]"#, "envVars"),
        (r#""service":"f","image":"a","envVars":{"x":1}"#, "envVars.x"),
        (r#""service":"f","image":"a","labels":{"x":true}"#, "labels.x"),
        (r#""service":"f","image":"a","secrets":"s1""#, "secrets"),
        (r#""service":"f","image":"a","limits":"1Gi""#, "limits"),
        (r#""service":"f","image":"a","limits":{"memory":128}"#, "limits.memory"),
        (r#""service":"f","image":"a","readOnlyRootFilesystem":"true""#, "readOnlyRootFilesystem"),
    ] {
        for method in ["POST", "PUT"] {
            let answer = provider.call(method, FUNCTIONS, format!("{{{fields}}}")).await;
            assert_refused(&answer, 400, fields);
            let expected = format!("failed to unmarshal request: {named}: ");
            assert!(answer.text().starts_with(&expected), "{}", answer.text());
        }
    }
    assert_nothing_changed(&provider).await;
}

#[tokio::test]
async fn names_that_are_none_are_400_in_bodies_and_404_in_paths() {
    let provider = Provider::new();
    let long = "a".repeat(64);
    for name in
        ["", "..", "a/b", "../x", "UPPER", "a.b", "a_b", "-a", "a-", "a b", "é", "a\\u0000", &long]
    {
        let body = format!(r#"{{"service":"{name}","image":"a/b:c"}}"#);
        assert_refused(
            &provider.call("POST", FUNCTIONS, body.clone()).await,
            400,
            &format!("POST {name}"),
        );
        assert_refused(&provider.call("PUT", FUNCTIONS, body).await, 400, &format!("PUT {name}"));
        let body = format!(r#"{{"functionName":"{name}"}}"#);
        assert_refused(
            &provider.call("DELETE", FUNCTIONS, body).await,
            400,
            &format!("DELETE {name}"),
        );
        let body = format!(r#"{{"name":"{name}"}}"#);
        assert_refused(
            &provider.call("POST", "/system/namespace/", body).await,
            400,
            &format!("namespace {name}"),
        );
        if !name.is_empty() {
            let body = format!(r#"{{"service":"f","image":"a","namespace":"{name}"}}"#);
            assert_refused(
                &provider.call("POST", FUNCTIONS, body).await,
                400,
                &format!("in namespace {name}"),
            );
        }
    }
    for name in ["..", "a.b", "UPPER", "a_b", "%2e%2e", "a%2Fb", "a%00", &long] {
        assert_refused(
            &provider.call("GET", &format!("/system/function/{name}"), "").await,
            404,
            name,
        );
        let scaled = provider
            .call("POST", &format!("/system/scale-function/{name}"), r#"{"replicas":1}"#)
            .await;
        assert_refused(&scaled, 404, name);
    }
    assert_nothing_changed(&provider).await;
}

#[tokio::test]
async fn secret_names_and_values_are_checked() {
    let provider = Provider::new();
    for name in
        ["", "..", ".", "../../etc/passwd", "a/b", "UPPER", "a..b", "a\\u0000b", &"a".repeat(254)]
    {
        for method in ["POST", "PUT", "DELETE"] {
            let body = format!(r#"{{"name":"{name}","value":"hush"}}"#);
            let answer = provider.call(method, SECRETS, body).await;
            assert_refused(&answer, 400, &format!("{method} {name}"));
            assert!(!answer.text().contains("hush"), "values never come back");
        }
    }
    for body in [
        r#"{"name":"s","value":271828}"#,
        r#"{"name":"s","rawValue":["271828"]}"#,
        r#"{"name":271828}"#,
    ] {
        let answer = provider.call("POST", SECRETS, body).await;
        assert_refused(&answer, 400, body);
        assert!(!answer.text().contains("271828"), "values never come back: {}", answer.text());
    }
    for raw in ["%%%", "a", "aGk", "aGk= ", "-_=="] {
        let answer =
            provider.call("POST", SECRETS, format!(r#"{{"name":"s","rawValue":"{raw}"}}"#)).await;
        assert_refused(&answer, 400, raw);
        assert_eq!(answer.text(), "rawValue is not valid base64\n");
    }
    let too_large = format!(r#"{{"name":"s","value":"{}"}}"#, "x".repeat((1 << 20) + 1));
    assert_refused(&provider.call("POST", SECRETS, too_large).await, 413, "1 MiB + 1");
    assert_nothing_changed(&provider).await;

    let largest = format!(r#"{{"name":"s","value":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(provider.call("POST", SECRETS, largest).await.status, 202, "1 MiB is allowed");
    let nul = provider.call("PUT", SECRETS, r#"{"name":"s","value":"a\u0000b\n"}"#).await;
    assert_eq!(nul.status, 202, "a file may hold any byte");
    let listed = provider.call("GET", SECRETS, "").await;
    assert_eq!(
        listed.text(),
        r#"[{"name":"s","namespace":"openfaas-fn"}]"#,
        "values are never listed"
    );
}

#[tokio::test]
async fn deployments_that_cannot_run_are_400_with_the_field_named() {
    let provider = Provider::new();
    let fields = [
        (r#""image":"""#, "image: is required"),
        (r#""image":"a b""#, "image: (a b) is invalid"),
        (r#""image":"Upper/Case""#, "image: "),
        (r#""image":"a","limits":{"memory":"lots"}"#, "limits.memory: "),
        (r#""image":"a","limits":{"memory":"-1Mi"}"#, "limits.memory: "),
        (r#""image":"a","limits":{"cpu":"half"}"#, "limits.cpu: "),
        (r#""image":"a","requests":{"memory":"99999999999Ei"}"#, "requests.memory: "),
        (r#""image":"a","requests":{"cpu":"1.2.3"}"#, "requests.cpu: "),
        (
            r#""image":"a","limits":{"nvidia.com/gpu":"1"}"#,
            "limits.nvidia.com/gpu: GPUs are not supported",
        ),
        (r#""image":"a","envVars":{"":"x"}"#, "envVars: "),
        (r#""image":"a","envVars":{"a=b":"x"}"#, "envVars: "),
        (r#""image":"a","envVars":{"a":"\u0000"}"#, "envVars: "),
        (r#""image":"a","envVars":{"HYPERFAAS_BOOT":"x"}"#, "envVars: "),
        (r#""image":"a","envProcess":"a\u0000""#, "envProcess: "),
        (r#""image":"a","secrets":["../x"]"#, "secret name: "),
    ];
    for (fields, named) in fields {
        for method in ["POST", "PUT"] {
            let answer =
                provider.call(method, FUNCTIONS, format!(r#"{{"service":"f",{fields}}}"#)).await;
            assert_refused(&answer, 400, fields);
            assert!(
                answer.text().starts_with(&format!("validation failed: {named}")),
                "{}",
                answer.text()
            );
        }
    }
    let labels = format!(
        r#"{{"service":"f","image":"a","labels":{{"l":"{}"}}}}"#,
        "x".repeat((1 << 20) + 1)
    );
    assert_refused(&provider.call("POST", FUNCTIONS, labels).await, 400, "labels of 1 MiB");
    assert_nothing_changed(&provider).await;
}

#[tokio::test]
async fn scaling_takes_whole_numbers_and_clamps_large_ones() {
    let provider = with_function().await;
    for body in [
        r#"{"replicas":-1}"#,
        r#"{"replicas":1.5}"#,
        r#"{"replicas":1e9}"#,
        r#"{"replicas":"1"}"#,
        r#"{"replicas":true}"#,
        r#"{"replicas":99999999999999999999}"#,
        r#"{"replicas":null}"#,
        r#"{"serviceName":"fn1"}"#,
    ] {
        assert_refused(&provider.call("POST", "/system/scale-function/fn1", body).await, 400, body);
        let status = provider.call("GET", "/system/function/fn1", "").await;
        assert!(status.text().contains(r#""replicas":1,"#), "{}", status.text());
    }
    let huge =
        provider.call("POST", "/system/scale-function/fn1", r#"{"replicas":1000000000}"#).await;
    assert_eq!(huge.status, 202);
    let status = provider.call("GET", "/system/function/fn1", "").await;
    assert!(status.text().contains(r#""replicas":100,"#), "{}", status.text());
}

#[tokio::test]
async fn unknown_things_are_told_apart() {
    let provider = with_function().await;
    for (method, target, body, status) in [
        ("GET", "/system/functions?namespace=nope", "", 400),
        ("GET", "/system/function/fn1?namespace=nope", "", 400),
        ("GET", "/system/functions?namespace=../x", "", 400),
        ("GET", "/system/secrets?namespace=nope", "", 400),
        ("GET", "/system/logs?name=fn1&namespace=nope", "", 400),
        ("GET", "/system/logs?name=nope", "", 404),
        ("GET", "/system/logs?name=..", "", 404),
        ("GET", "/system/logs", "", 400),
        ("GET", "/system/logs?name=fn1&tail=x", "", 422),
        ("GET", "/system/logs?name=fn1&since=yesterday", "", 422),
        ("GET", "/system/function/nope", "", 404),
        ("GET", "/system/namespace/nope", "", 404),
        ("GET", "/system/namespace/", "", 400),
        ("DELETE", "/system/functions", r#"{"functionName":"nope"}"#, 404),
        ("DELETE", "/system/functions", "{}", 400),
        ("DELETE", "/system/functions", r#"{"functionName":"fn1","namespace":"nope"}"#, 400),
        (
            "PUT",
            "/system/functions",
            r#"{"service":"nope","image":"a","secrets":["unknown"]}"#,
            404,
        ),
        ("PUT", "/system/functions", r#"{"service":"fn1","image":"a","secrets":["unknown"]}"#, 400),
        ("POST", "/system/functions", r#"{"service":"fn1","image":"a"}"#, 409),
        ("POST", "/system/secrets", r#"{"name":"s","namespace":"nope","value":"v"}"#, 400),
        ("PUT", "/system/secrets", r#"{"name":"s","value":"v"}"#, 404),
        ("DELETE", "/system/secrets", r#"{"name":"s"}"#, 404),
        ("PUT", "/system/namespace/nope", r#"{"name":"nope"}"#, 404),
        ("PUT", "/system/namespace/a", r#"{"name":"b"}"#, 400),
        ("DELETE", "/system/namespace/nope", "", 404),
        ("DELETE", "/system/namespace/openfaas-fn", "", 400),
    ] {
        assert_refused(
            &provider.call(method, target, body).await,
            status,
            &format!("{method} {target} {body}"),
        );
    }
}

#[tokio::test]
async fn routes_are_matched_before_methods_and_methods_before_credentials() {
    let provider = Provider::new();
    let anonymous = |method: &str, target: &str| {
        Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
    };
    for target in [
        "/system",
        "/system/",
        "/system/functions/",
        "/system/telemetry",
        "/system/function/",
        "/system/function/a%20b",
    ] {
        assert_refused(&provider.send(anonymous("GET", target)).await, 404, target);
    }
    for (method, target) in [
        ("PATCH", FUNCTIONS),
        ("POST", "/system/function/fn1"),
        ("GET", "/system/scale-function/fn1"),
        ("POST", "/system/info"),
        ("DELETE", "/system/namespaces"),
        ("POST", "/healthz"),
    ] {
        let answer = provider.send(anonymous(method, target)).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (405, ""), "{method} {target}");
    }
    for target in [
        FUNCTIONS,
        "/system/function/fn1",
        "/system/info",
        SECRETS,
        "/system/logs?name=fn1",
        "/system/namespaces",
        "/system/namespace/openfaas-fn",
        "/system/namespace/",
        "/system/namespaces/openfaas-fn",
    ] {
        let answer = provider.send(anonymous("GET", target)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (401, "invalid credentials"),
            "{target}"
        );
    }
    for target in ["/healthz", "/metrics"] {
        assert_eq!(provider.send(anonymous("GET", target)).await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn a_body_of_ten_mebibytes_is_refused_and_one_that_never_ends_is_given_up() {
    let provider = Provider::new();
    let body = format!(r#"{{"service":"f","image":"{}"}}"#, "a".repeat(10 << 20));
    for (method, target) in
        [("POST", FUNCTIONS), ("PUT", FUNCTIONS), ("POST", SECRETS), ("POST", "/system/namespace/")]
    {
        assert_refused(&provider.call(method, target, body.clone()).await, 413, target);
    }
    let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{\"service\""))]);
    let endless = Body::from_stream(futures_util::StreamExt::chain(begun, stream::pending()));
    let answer = provider.call("POST", FUNCTIONS, endless).await;
    assert_refused(&answer, 408, "a body that stops arriving");
    assert!(answer.text().contains(&format!("{BODY_TIMEOUT:?}")), "{}", answer.text());
    assert_nothing_changed(&provider).await;
}

#[tokio::test]
async fn info_and_metrics_say_what_clients_look_for() {
    let provider = with_function().await;
    let info: serde_json::Value =
        serde_json::from_str(provider.call("GET", "/system/info", "").await.text()).unwrap();
    assert_eq!(
        (&info["provider"], &info["orchestration"]),
        (&"hyperfaas".into(), &"docker".into())
    );
    for field in ["release", "sha"] {
        assert!(info["version"][field].as_str().is_some_and(|text| !text.is_empty()), "{info}");
    }
    for index in 0..50 {
        provider.call("GET", &format!("/system/function/f{index}"), "").await;
        provider.call("GET", &format!("/system/namespace/n{index}"), "").await;
    }
    let metrics = provider.call("GET", "/metrics", "").await;
    for line in [
        r#"provider_http_requests_total{code="202",method="POST",path="/system/functions"} 1"#,
        r#"provider_http_requests_total{code="404",method="GET",path="/system/function"} 50"#,
        r#"provider_http_requests_total{code="404",method="GET",path="/system/namespace"} 50"#,
        r#"provider_http_request_duration_seconds_count{code="202",method="POST",path="/system/functions"} 1"#,
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
}
