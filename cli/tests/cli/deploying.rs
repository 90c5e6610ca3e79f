//! `deploy` and `remove`.

use axum::http::StatusCode;

use crate::support::{FakeGateway, ready, run};

const STACK: &str = "version: 1.0
provider:
  name: openfaas
  gateway: GATEWAY
functions:
  fn1:
    lang: dockerfile
    handler: ./fn1
    image: a/b:${TAG:-c}
    environment_file: [env.yml]
    limits: {memory: 128Mi}
  fn2:
    image: plain
    namespace: foo
";

fn folder(gateway: &FakeGateway) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stack.yml"), STACK.replace("GATEWAY", &gateway.url()))
        .unwrap();
    std::fs::write(folder.path().join("env.yml"), "environment:\n  e: f\n").unwrap();
    std::fs::write(folder.path().join("password"), "secret\n").unwrap();
    folder
}

const FN1: &str = r#"{"service":"fn1","image":"a/b:c","envVars":{"e":"f"},"labels":{},"annotations":{},"limits":{"memory":"128Mi"}}"#;
const FN2: &str =
    r#"{"service":"fn2","image":"plain:latest","namespace":"foo","labels":{},"annotations":{}}"#;

#[tokio::test]
async fn new_functions_are_put_then_posted_and_waited_for() {
    let gateway = FakeGateway::start(|line, number| match (line, number) {
        ("PUT /system/functions", _) => (StatusCode::NOT_FOUND, "no such function".into()),
        ("POST /system/functions", _) => (StatusCode::ACCEPTED, String::new()),
        ("GET /system/function/fn1", 0) => {
            (StatusCode::OK, r#"{"name":"fn1","replicas":1,"createdAt":null}"#.into())
        }
        ("GET /system/function/fn1", 1) => (StatusCode::BAD_GATEWAY, "wait".into()),
        ("GET /system/function/fn1" | "GET /system/function/fn2?namespace=foo", _) => {
            (StatusCode::OK, ready("x"))
        }
        _ => (StatusCode::IM_A_TEAPOT, line.into()),
    })
    .await;
    let folder = folder(&gateway);
    let outcome =
        run(folder.path(), &[], &["deploy", "-f", "stack.yml", "--password-file", "password"], b"")
            .await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let expected = [FN1, FN2].map(|body| {
        [format!("PUT /system/functions {body}"), format!("POST /system/functions {body}")]
    });
    assert_eq!(gateway.writes(), expected.concat());
    let seen = gateway.seen();
    // base64 of admin:secret
    assert!(seen.iter().all(|seen| seen.headers["authorization"] == "Basic YWRtaW46c2VjcmV0"));
    assert_eq!(seen[0].headers["content-type"], "application/json");
    assert!(
        outcome.stdout.contains(&format!("URL: {}/function/fn2.foo", gateway.url())),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("fn1: starting, 0 of 1 replicas ready\n"),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stdout.contains("fn1: ready after "), "{}", outcome.stdout);
}

#[tokio::test]
async fn existing_functions_are_updated_created_or_replaced_as_asked() {
    let gateway = FakeGateway::start(|_, _| (StatusCode::ACCEPTED, String::new())).await;
    let folder = folder(&gateway);
    let base = ["deploy", "-f", "stack.yml", "--filter", "fn2", "--wait", "0"];
    let delete = r#"DELETE /system/functions {"functionName":"fn2","namespace":"foo"}"#.to_owned();
    let (put, post) =
        (format!("PUT /system/functions {FN2}"), format!("POST /system/functions {FN2}"));
    for (options, expected) in [
        (&[][..], vec![put]),
        (&["--update=false"][..], vec![post.clone()]),
        (&["--update=false", "--replace"][..], vec![delete, post]),
    ] {
        let before = gateway.writes().len();
        let outcome = run(folder.path(), &[], &[&base[..], options].concat(), b"").await;
        assert_eq!((outcome.code, &gateway.writes()[before..]), (0, &expected[..]), "{outcome:?}");
    }
    let both = run(folder.path(), &[], &[&base[..], &["--replace"]].concat(), b"").await;
    assert!(both.code == 1 && both.stderr.contains("exclude each other"), "{both:?}");
}

#[tokio::test]
async fn a_refused_function_is_told_with_the_gateways_words_and_the_others_go_on() {
    let gateway = FakeGateway::start(|line, number| match (line, number) {
        ("PUT /system/functions", 0) => {
            (StatusCode::BAD_REQUEST, "unable to find secret: s1\n".into())
        }
        ("PUT /system/functions", _) => (StatusCode::ACCEPTED, String::new()),
        _ => (StatusCode::OK, ready("fn2")),
    })
    .await;
    let folder = folder(&gateway);
    let outcome = run(folder.path(), &[], &["deploy"], b"").await;
    assert_eq!(outcome.code, 1);
    let expected = "hyperfaas: fn1: the gateway answered 400 Bad Request: unable to find secret: s1\n\
                    hyperfaas: 1 of 2 functions failed\n";
    assert_eq!(outcome.stderr, expected);
    assert!(outcome.stdout.contains("fn2: deployed, 202 Accepted"), "{}", outcome.stdout);
}

#[tokio::test]
async fn a_function_that_never_gets_ready_fails_at_the_deadline() {
    let gateway = FakeGateway::start(|line, _| match line {
        "PUT /system/functions" => (StatusCode::ACCEPTED, String::new()),
        _ => (StatusCode::OK, r#"{"name":"fn1","replicas":2,"availableReplicas":0}"#.into()),
    })
    .await;
    let folder = folder(&gateway);
    let outcome =
        run(folder.path(), &[], &["deploy", "--filter", "fn1", "--wait", "200ms"], b"").await;
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(
        outcome.stderr.contains("fn1: not ready after 0 s (starting, 0 of 2 replicas ready)"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn the_environment_and_options_reach_the_request() {
    let gateway = FakeGateway::start(|_, _| (StatusCode::ACCEPTED, String::new())).await;
    let folder = folder(&gateway);
    let arguments = [
        "deploy",
        "--filter",
        "fn1",
        "--wait",
        "0",
        "-n",
        "dev",
        "-e",
        "x=y",
        "-l",
        "k=v",
        "--annotation",
        "topic=t",
        "--secret",
        "s",
        "--constraint",
        "c==d",
        "--readonly",
        "--username",
        "me",
    ];
    let variables = [("TAG", "9"), ("OPENFAAS_PASSWORD", "pw")];
    let outcome = run(folder.path(), &variables, &arguments, b"").await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let body = r#"{"service":"fn1","image":"a/b:9","namespace":"dev","envVars":{"e":"f","x":"y"},"constraints":["c==d"],"secrets":["s"],"labels":{"k":"v"},"annotations":{"topic":"t"},"limits":{"memory":"128Mi"},"readOnlyRootFilesystem":true}"#;
    assert_eq!(gateway.writes(), [format!("PUT /system/functions {body}")]);
    assert_eq!(gateway.seen()[0].headers["authorization"], "Basic bWU6cHc=");
}

#[tokio::test]
async fn an_image_needs_no_stack_file() {
    let gateway = FakeGateway::start(|_, _| (StatusCode::OK, String::new())).await;
    let folder = tempfile::tempdir().unwrap();
    let url = gateway.url();
    let arguments =
        ["deploy", "--image", "a/b", "--name", "f", "--fprocess", "cat", "--wait", "0", "-g", &url];
    let outcome = run(folder.path(), &[], &arguments, b"").await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let body = r#"{"service":"f","image":"a/b","envProcess":"cat","labels":{},"annotations":{}}"#;
    assert_eq!(gateway.writes(), [format!("PUT /system/functions {body}")]);
    assert!(!gateway.seen()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn removing_names_what_was_not_there() {
    let gateway = FakeGateway::start(|_, number| match number {
        0 => (StatusCode::ACCEPTED, String::new()),
        _ => (StatusCode::NOT_FOUND, "no".into()),
    })
    .await;
    let folder = folder(&gateway);
    let outcome = run(folder.path(), &[], &["remove", "-f", "stack.yml"], b"").await;
    let expected = [
        r#"DELETE /system/functions {"functionName":"fn1"}"#,
        r#"DELETE /system/functions {"functionName":"fn2","namespace":"foo"}"#,
    ];
    assert_eq!(gateway.writes(), expected);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "fn1: removed\n"));
    assert!(outcome.stderr.contains("fn2: there is no such function"), "{outcome:?}");
}
