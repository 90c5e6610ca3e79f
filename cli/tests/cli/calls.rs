//! `invoke`, `list`, `ready`, and how failures look.

use axum::http::StatusCode;

use crate::support::{FakeGateway, run};

#[tokio::test]
async fn a_call_sends_standard_input_and_prints_the_answer() {
    let gateway = FakeGateway::start(|_, _| (StatusCode::OK, "answer".into())).await;
    let folder = tempfile::tempdir().unwrap();
    let variables = [("OPENFAAS_URL", gateway.url()), ("OPENFAAS_PASSWORD", "pw".into())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let outcome = run(
        folder.path(),
        &variables,
        &["invoke", "f", "--query", "a=b c", "-H", "X-A: 1"],
        b"hello",
    )
    .await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "answer"), "{outcome:?}");
    let seen = &gateway.seen()[0];
    assert_eq!(
        (seen.line.as_str(), seen.body.as_str()),
        ("POST /function/f.openfaas-fn?a=b+c", "hello")
    );
    assert_eq!(
        (seen.headers["content-type"].as_str(), seen.headers["content-length"].as_str()),
        ("text/plain", "5")
    );
    assert_eq!(seen.headers["x-a"], "1");
    assert!(
        !seen.headers.contains_key("authorization"),
        "credentials are not the function's business"
    );
}

#[tokio::test]
async fn a_large_body_is_streamed_whole() {
    let gateway = FakeGateway::start(|_, _| (StatusCode::OK, String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    let body = vec![b'x'; 3 << 20];
    let arguments = ["invoke", "f", "-n", "dev", "-m", "PUT", "-g", &gateway.url()];
    assert_eq!(run(folder.path(), &[], &arguments, &body).await.code, 0);
    let seen = &gateway.seen()[0];
    assert_eq!((seen.line.as_str(), seen.body.len()), ("PUT /function/f.dev", body.len()));
    assert_eq!(seen.headers["transfer-encoding"], "chunked");
}

#[tokio::test]
async fn a_failed_call_ends_with_1_and_says_what_came_back() {
    let gateway =
        FakeGateway::start(|_, _| (StatusCode::INTERNAL_SERVER_ERROR, "exit status 1\n".into()))
            .await;
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(folder.path(), &[], &["invoke", "f", "-g", &gateway.url()], b"").await;
    let expected =
        "hyperfaas: exit status 1\nhyperfaas: f.openfaas-fn answered 500 Internal Server Error\n";
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (1, "", expected));
    for bad in ["../system/functions", "a b", "a?b"] {
        assert_eq!(
            run(folder.path(), &[], &["invoke", bad, "-g", &gateway.url()], b"").await.code,
            1
        );
    }
    assert_eq!(gateway.seen().len(), 1, "no request is made for what cannot be a name");
}

#[tokio::test]
async fn a_list_is_sorted_and_uses_the_saved_login() {
    let gateway = FakeGateway::start(|_, _| {
        let list = r#"[{"name":"zeta","image":"z:1","replicas":2,"availableReplicas":1,"invocationCount":7,"createdAt":null},
                       {"name":"alpha","image":"a:1","namespace":"n","labels":null,"createdAt":"2024-01-01T00:00:00Z"}]"#;
        (StatusCode::OK, list.into())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let saved = format!("auths:\n- gateway: {}\n  auth: basic\n  token: YTpi\n", gateway.url());
    std::fs::create_dir(folder.path().join(".openfaas")).unwrap();
    std::fs::write(folder.path().join(".openfaas/config.yml"), saved).unwrap();
    let variables = [("HOME", folder.path().to_str().unwrap())];
    let outcome =
        run(folder.path(), &variables, &["list", "-g", &gateway.url(), "-n", "n"], b"").await;
    let expected = "Function  Invocations  Replicas  Ready\nalpha     0            0         0\nzeta      7            2         1\n";
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, expected), "{outcome:?}");
    let seen = &gateway.seen()[0];
    assert_eq!(
        (seen.line.as_str(), seen.headers["authorization"].as_str()),
        ("GET /system/functions?namespace=n", "Basic YTpi")
    );
    let quiet = run(folder.path(), &variables, &["list", "-q", "-g", &gateway.url()], b"").await;
    assert_eq!(quiet.stdout, "alpha\nzeta\n");
}

#[tokio::test]
async fn the_gateway_is_waited_for() {
    let gateway = FakeGateway::start(|_, number| match number {
        0 => (StatusCode::BAD_GATEWAY, String::new()),
        _ => (StatusCode::OK, "OK".into()),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &[], &["ready", "-g", &gateway.url()], b"").await.code, 0);
    assert_eq!(gateway.seen().len(), 2);
}

#[tokio::test]
async fn failures_are_one_clear_line() {
    let gateway =
        FakeGateway::start(|_, _| (StatusCode::UNAUTHORIZED, "invalid credentials".into())).await;
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &[], &["list", "-g", &gateway.url()], b"").await;
    assert!(refused.code == 1 && refused.stderr.contains("refused the credentials"), "{refused:?}");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable =
        run(folder.path(), &[], &["list", "-g", &format!("http://{gone}")], b"").await;
    assert!(
        unreachable.stderr.starts_with("hyperfaas: cannot reach the gateway at http://127.0.0.1:"),
        "{unreachable:?}"
    );
    assert_eq!(unreachable.stderr.lines().count(), 1, "{unreachable:?}");
    let missing = run(folder.path(), &[], &["deploy", "-f", "none.yml"], b"").await;
    assert!(
        missing.code == 1 && missing.stderr.starts_with("hyperfaas: cannot read none.yml: "),
        "{missing:?}"
    );
    assert_eq!(run(folder.path(), &[], &["deploy", "--nonsense"], b"").await.code, 2);
}
