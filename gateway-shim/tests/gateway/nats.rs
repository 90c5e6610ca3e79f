//! What only a shared queue does: several gateways on one stream, servers that go away, credentials, TLS.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use hyperfaas_gateway::Upstream;
use serde_json::{Value, json};

use crate::keep::{NatsServer, borrowed, settings};
use crate::later::{Lab, Reply, call, emptied, keeping, lab, next, ready, reply};
use crate::program::Program;
use crate::support::{Server, ask, start};

/// How often each body was seen, once nothing waits any more.
fn times(lab: &mut Lab) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    while let Ok(seen) = lab.seen.try_recv() {
        *times.entry(seen.body).or_default() += 1;
    }
    times
}

async fn put(server: &Server, bodies: std::ops::Range<usize>) {
    let calls = bodies.map(|number| async move {
        call(server, "/async-function/f", &[], &number.to_string()).await.status
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::ACCEPTED), "{statuses:?}");
}

#[tokio::test]
async fn two_gateways_on_one_stream_deliver_every_call_exactly_once() {
    let server = NatsServer::start(&[]);
    let (mut one, mut two) = (lab(&Value::Null), lab(&Value::Null));
    // Long enough that neither gets all of them done before the other looks at the stream.
    let slow = Reply { takes: Duration::from_millis(200), ..reply(200, &[]) };
    one.answer.send_replace(slow.clone());
    two.answer.send_replace(slow);
    let queue = server.variables("shared");
    let first = keeping(Upstream::Local(one.router.clone()), settings(&queue)).await;
    let second = keeping(Upstream::Local(two.router.clone()), settings(&queue)).await;
    put(&first.api, 0..400).await;
    put(&second.api, 400..410).await;
    emptied(&first.api).await;
    emptied(&second.api).await;
    let (seen_by_one, seen_by_two) = (times(&mut one), times(&mut two));
    assert_eq!(seen_by_one.len() + seen_by_two.len(), 410);
    assert!(seen_by_one.values().chain(seen_by_two.values()).all(|times| *times == 1));
    assert!(seen_by_two.len() > 10, "it helped with what the first had accepted");
}

#[tokio::test]
async fn calls_of_a_gateway_that_is_killed_go_to_another_one() {
    let server = NatsServer::start(&[]);
    let queue = server.variables("shared");
    let mut lab = lab(&Value::Null);
    let provider = start(lab.router.clone());
    lab.answer.send_replace(Reply { takes: Duration::from_secs(600), ..reply(200, &[]) });
    let killed = Program::start(provider.address, &borrowed(&queue));
    ready(&killed.gateway).await;
    put(&killed.gateway, 0..50).await;
    killed.kill();
    lab.answer.send_replace(reply(200, &[]));
    let other = keeping(Upstream::Local(lab.router.clone()), settings(&queue)).await;
    emptied(&other.api).await;
    let times = times(&mut lab);
    assert_eq!(times.len(), 50);
    assert!(times.values().all(|times| *times == 1), "none had ended before: {times:?}");
}

#[tokio::test]
async fn a_call_that_takes_longer_than_the_wait_for_its_acknowledgement_is_made_once() {
    let server = NatsServer::start(&[]);
    let queue = server.variables("shared");
    let (mut one, two) = (lab(&Value::Null), lab(&Value::Null));
    one.answer.send_replace(Reply { takes: Duration::from_secs(4), ..reply(200, &[]) });
    let first = keeping(Upstream::Local(one.router.clone()), settings(&queue)).await;
    put(&first.api, 0..1).await;
    let second = keeping(Upstream::Local(two.router.clone()), settings(&queue)).await;
    next(&mut one.seen).await;
    emptied(&second.api).await;
    assert!(one.seen.is_empty() && two.seen.is_empty());
}

#[tokio::test]
async fn nothing_accepted_is_lost_when_the_server_is_killed_and_calls_are_refused_meanwhile() {
    let mut server = NatsServer::start(&[]);
    // Retried for as long as it takes: the calls are in every state when the server dies.
    let mut lab = lab(&json!({"com.openfaas.retry.min_wait": "20ms",
        "com.openfaas.retry.max_wait": "20ms", "com.openfaas.retry.attempts": "1000000"}));
    lab.answer.send_replace(reply(503, &[]));
    let upstream = Upstream::Local(lab.router.clone());
    let gateway = keeping(upstream, settings(&server.variables("shared"))).await;
    put(&gateway.api, 0..100).await;
    next(&mut lab.seen).await;
    server.kill();
    let refused = loop {
        // Until the gateway has noticed, an answer may take as long as it waits for the acknowledgement.
        let answer = call(&gateway.api, "/async-function/f", &[], "refused").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "nobody can keep it");
        if answer.body == "the queue cannot be reached\n" {
            break answer;
        }
    };
    assert_eq!(refused.header("retry-after"), "1");
    lab.answer.send_replace(reply(200, &[]));
    while lab.seen.try_recv().is_ok() {}
    server.restart();
    ready(&gateway.api).await;
    put(&gateway.api, 100..120).await;
    let mut missing: std::collections::BTreeSet<String> =
        (0..120).map(|number: i32| number.to_string()).collect();
    while !missing.is_empty() {
        missing.remove(&next(&mut lab.seen).await.body);
    }
    emptied(&gateway.api).await;
}

#[tokio::test]
async fn a_gateway_starts_without_the_server_and_uses_it_once_it_is_there() {
    let mut server = NatsServer::start(&[]);
    server.kill();
    let mut lab = lab(&Value::Null);
    let provider = start(lab.router.clone());
    let program = Program::start(provider.address, &borrowed(&server.variables("shared")));
    let answer = call(&program.gateway, "/async-function/f", &[], "").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the queue cannot be reached\n")
    );
    // What cannot be looked at is not said to be absent.
    let dead = "/system/hyperfaas/async/dead";
    for (method, path) in [
        ("GET", dead.to_owned()),
        ("DELETE", dead.to_owned()),
        ("POST", format!("{dead}/redrive")),
        ("GET", format!("{dead}/1")),
        ("DELETE", format!("{dead}/1")),
        ("POST", format!("{dead}/1/redrive")),
    ] {
        let request = http::Request::builder().method(method).uri(&path);
        let answer = ask(&program.gateway, request, "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "the queue cannot be reached\n"),
            "{method} {path}"
        );
    }
    server.restart();
    ready(&program.gateway).await;
    put(&program.gateway, 0..1).await;
    next(&mut lab.seen).await;
    emptied(&program.gateway).await;
    assert!(program.stop());
}

#[tokio::test]
async fn credentials_come_from_a_file_and_wrong_ones_are_refused_without_being_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("login");
    let cases: [(&[&str], &str); 2] =
        [(&["--user", "ann", "--pass", "s3cret"], "ann:s3cret"), (&["--auth", "s3cret"], "s3cret")];
    for (arguments, login) in cases {
        let server = NatsServer::start(arguments);
        let mut queue = server.variables("shared");
        queue.push(("HYPERFAAS_NATS_CREDENTIALS", path.display().to_string()));
        std::fs::write(&path, login).unwrap();
        let mut lab = lab(&Value::Null);
        let gateway = keeping(Upstream::Local(lab.router.clone()), settings(&queue)).await;
        put(&gateway.api, 0..1).await;
        next(&mut lab.seen).await;
        std::fs::write(&path, login.replace("s3cret", "wr0ng")).unwrap();
        let provider = start(lab.router.clone());
        let program = Program::start(provider.address, &borrowed(&queue));
        let line = program.logged("NATS");
        assert!(!line.contains("wr0ng"), "{line}");
        let answer = call(&program.gateway, "/async-function/f", &[], "").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn the_way_to_the_server_may_be_encrypted() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let text = |path: &Path| path.display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (text(&file("cert.pem")), text(&file("key.pem")));
    let server = NatsServer::start(&["--tls", "--tlscert", &cert, "--tlskey", &key]);
    let mut queue = server.variables("shared");
    queue.retain(|(name, _)| *name != "HYPERFAAS_NATS_URL");
    queue.push(("HYPERFAAS_NATS_URL", format!("tls://localhost:{}", server.port())));
    let mut lab = lab(&Value::Null);
    let provider = start(lab.router.clone());
    // Without the certificate's issuer there is nobody to trust.
    let program = Program::start(provider.address, &borrowed(&queue));
    program.logged("NATS");
    let answer = call(&program.gateway, "/async-function/f", &[], "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    queue.push(("HYPERFAAS_NATS_CA", cert));
    let gateway = keeping(Upstream::Local(lab.router.clone()), settings(&queue)).await;
    put(&gateway.api, 0..1).await;
    next(&mut lab.seen).await;
}
