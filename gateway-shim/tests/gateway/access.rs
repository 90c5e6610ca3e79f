//! Credentials, users, TLS and the audit of changes.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyperfaas_gateway::users::hash_password;
use hyperfaas_gateway::{GatewayConfig, Queue, QueueSettings, Upstream, Users, routers};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::program::Program;
use crate::support::{Server, USER, ask, backends, config, provider, start};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A gateway with every route there is, and these users.
fn gateway(users: Option<&str>, directory: &std::path::Path) -> Server {
    let users = users.map(|lines| {
        let path = directory.join("users");
        std::fs::write(&path, lines).unwrap();
        Users::from_file(&path).unwrap()
    });
    let queue = Queue::open(QueueSettings::new(directory.join("queue"))).unwrap();
    let config = GatewayConfig { users, ..config(true) };
    start(routers(config, backends(Upstream::Local(provider()), "openfaas-fn", Some(queue))).api)
}

/// Every route that needs credentials, with its methods.
const ROUTES: [(&str, &str); 21] = [
    ("/system/functions", "GET POST PUT DELETE"),
    ("/system/function/f", "GET"),
    ("/system/scale-function/f", "POST"),
    ("/system/secrets", "GET POST PUT DELETE"),
    ("/system/namespaces", "GET"),
    ("/system/namespaces/n", "GET POST PUT DELETE"),
    ("/system/namespace/", "GET POST PUT DELETE"),
    ("/system/namespace/n", "GET POST PUT DELETE"),
    ("/system/telemetry", "GET"),
    ("/system/logs", "GET"),
    ("/system/info", "GET"),
    ("/system/alert", "POST"),
    ("/system/hyperfaas/functions/f/decisions", "GET"),
    ("/system/hyperfaas/async", "GET"),
    ("/system/hyperfaas/async/dead", "GET DELETE"),
    ("/system/hyperfaas/async/dead/redrive", "POST"),
    ("/system/hyperfaas/async/dead/1", "GET DELETE"),
    ("/system/hyperfaas/async/dead/1/redrive", "POST"),
    ("/system/hyperfaas/openapi.json", "GET"),
    ("/system/hyperfaas/live", "GET"),
    ("/ui/", "GET"),
];

#[tokio::test]
async fn no_route_opens_to_wrong_or_missing_credentials_by_any_method() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = vec![
        None,
        Some("Bearer ".to_owned()),
        Some("Bearer x".into()),
        Some("Basic".into()),
        Some("Basic ???".into()),
    ];
    wrong.extend(
        [("admin", "wrong"), ("wrong", "secret"), ("", "")].map(|(u, p)| Some(basic(u, p))),
    );
    for (path, methods) in ROUTES {
        // A gateway for each route, so that none of its failures counts against the next.
        let directory = directory.path().join(path.replace('/', "_"));
        std::fs::create_dir(&directory).unwrap();
        let gateway = gateway(None, &directory);
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
            let is_known = methods
                .split(' ')
                .any(|known| known == method || (known == "GET" && method == "HEAD"));
            for given in if is_known { &wrong[..] } else { &wrong[..1] } {
                let mut request = Request::builder().method(method).uri(path);
                if let Some(given) = given {
                    request = request.header("authorization", given);
                }
                let answer = ask(&gateway, request, "").await;
                let expected = if is_known {
                    StatusCode::UNAUTHORIZED
                } else {
                    StatusCode::METHOD_NOT_ALLOWED
                };
                assert_eq!(answer.status, expected, "{method} {path} {given:?}");
                if is_known && method != "HEAD" {
                    assert_eq!(answer.body, "invalid credentials");
                    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Restricted\"");
                }
            }
        }
    }
}

#[tokio::test]
async fn who_guesses_is_slowed_and_who_is_not_logged_in_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = gateway(None, directory.path());
    for _ in 0..60 {
        let answer =
            ask(&gateway, Request::get("/system/info").header("authorization", "Bearer "), "")
                .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let mut slowed = None;
    for number in 0..60 {
        let guess = basic("admin", &number.to_string());
        let answer =
            ask(&gateway, Request::get("/system/info").header("authorization", guess), "").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            slowed = Some((number, answer));
            break;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let (number, answer) = slowed.expect("sixty guesses at once are too many");
    assert!(number >= 20, "{number}");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(answer.body.starts_with("too many failed logins"), "{}", answer.body);
    let right = Request::get("/system/info").header("authorization", basic(USER.0, USER.1));
    assert_eq!(
        ask(&gateway, right, "").await.status,
        StatusCode::TOO_MANY_REQUESTS,
        "a right guess tells nothing either"
    );
    assert_eq!(ask(&gateway, Request::get("/function/f"), "").await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn users_do_what_their_roles_allow() {
    let directory = tempfile::tempdir().unwrap();
    let hash = hash_password(b"pw").unwrap();
    let lines = format!("ann:admin:{hash}\nbob:read-only:{hash}\ncarl:namespaces=dev:{hash}\n");
    let gateway = gateway(Some(&lines), directory.path());
    let ok = StatusCode::ACCEPTED;
    for (user, method, target, body, status) in [
        ("ann", Method::POST, "/system/functions", r#"{"service":"f"}"#, ok),
        ("bob", Method::GET, "/system/functions", "", ok),
        ("bob", Method::POST, "/system/functions", r#"{"service":"f"}"#, StatusCode::FORBIDDEN),
        ("bob", Method::DELETE, "/system/hyperfaas/async/dead", "", StatusCode::FORBIDDEN),
        ("carl", Method::GET, "/system/functions?namespace=dev", "", ok),
        ("carl", Method::GET, "/system/functions", "", StatusCode::FORBIDDEN),
        ("carl", Method::PUT, "/system/secrets", r#"{"name":"s","namespace":"dev"}"#, ok),
        (
            "carl",
            Method::PUT,
            "/system/secrets",
            r#"{"name":"s","namespace":"x"}"#,
            StatusCode::FORBIDDEN,
        ),
        ("carl", Method::PUT, "/system/secrets", "{", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::builder()
            .method(&method)
            .uri(target)
            .header("authorization", basic(user, "pw"));
        let answer = ask(&gateway, request, body).await;
        assert_eq!(answer.status, status, "{user} {method} {target}: {}", answer.body);
        if status != ok {
            assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
        }
    }
}

fn secrets(directory: &std::path::Path, password: &str) {
    std::fs::write(directory.join("basic-auth-user"), "admin").unwrap();
    std::fs::write(directory.join("basic-auth-password"), password).unwrap();
}

#[tokio::test]
async fn a_new_password_is_in_force_without_a_restart_and_changes_are_audited() {
    let provider = start(provider());
    let directory = tempfile::tempdir().unwrap();
    secrets(directory.path(), "first");
    let program = Program::start(
        provider.address,
        &[("basic_auth", "true"), ("secret_mount_path", directory.path().to_str().unwrap())],
    );
    let post = async |password: &str| {
        let request =
            Request::post("/system/secrets").header("authorization", basic("admin", password));
        ask(&program.gateway, request, r#"{"name":"s1","namespace":"dev","value":"hush"}"#)
            .await
            .status
    };
    assert_eq!(post("first").await, StatusCode::ACCEPTED);
    let line: serde_json::Value = serde_json::from_str(&program.logged("\"audit\"")).unwrap();
    for (key, value) in [
        ("who", "admin"),
        ("what", "POST /system/secrets"),
        ("name", "s1"),
        ("namespace", "dev"),
        ("from", "127.0.0.1"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(line["status"], 202);
    assert!(!line.to_string().contains("hush"));
    secrets(directory.path(), "second");
    program.logged("credentials reloaded");
    assert_eq!(post("second").await, StatusCode::ACCEPTED);
    assert_eq!(post("first").await, StatusCode::UNAUTHORIZED);
}

/// Writes a new self-signed certificate for `localhost`; the certificate.
fn certify(directory: &std::path::Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

/// `GET /healthz` over TLS, trusting `certificate` alone.
async fn health(
    server: &Server,
    certificate: &CertificateDer<'static>,
) -> std::io::Result<StatusCode> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/healthz")
        .header("host", "localhost")
        .body(axum::body::Body::empty())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    Ok(status)
}

#[tokio::test]
async fn a_new_certificate_is_in_force_without_a_restart() {
    let provider = start(provider());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let first = certify(directory.path());
    let program = Program::start(
        provider.address,
        &[("HYPERFAAS_TLS_CERT", &path("cert.pem")), ("HYPERFAAS_TLS_KEY", &path("key.pem"))],
    );
    assert_eq!(health(&program.gateway, &first).await.unwrap(), StatusCode::ACCEPTED);
    std::fs::write(directory.path().join("cert.pem"), "half written").unwrap();
    program.logged("certificate stays as it was");
    assert_eq!(health(&program.gateway, &first).await.unwrap(), StatusCode::ACCEPTED);
    let second = certify(directory.path());
    program.logged("certificate reloaded");
    assert_eq!(health(&program.gateway, &second).await.unwrap(), StatusCode::ACCEPTED);
    assert!(health(&program.gateway, &first).await.is_err());
}
