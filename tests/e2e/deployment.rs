//! What a deployment's fields do inside the container.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::stack::{Stack, docker, probe_http_image, probe_image};

async fn whoami(stack: &Stack, name: &str) -> (BTreeMap<String, String>, Value) {
    let (status, body) = whoami_raw(stack, name).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let me: Value = serde_json::from_str(&body).unwrap();
    let fields = me["status"].as_str().unwrap().lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        Some((key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    (fields.collect(), me)
}

async fn whoami_raw(stack: &Stack, name: &str) -> (StatusCode, String) {
    let answer =
        stack.http.get(stack.gateway(&format!("/function/{name}/whoami"))).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_worker_is_the_images_user_with_nothing_more_than_that() {
    let stack = Stack::start().await;
    stack
        .deploy(
            "named",
            probe_http_image(),
            json!({ "envVars": { "GREETING": "hi", "EMPTY": "" } }),
        )
        .await;
    stack.deploy("numbered", probe_image(), json!({})).await;

    let (status, me) = whoami(&stack, "named").await;
    assert_eq!(
        (status["Uid"].as_str(), status["Gid"].as_str()),
        ("1001 1001 1001 1001", "1002 1002 1002 1002")
    );
    assert_eq!(status["Groups"], "1002 1003");
    assert_eq!(
        (status["CapEff"].as_str(), status["CapPrm"].as_str()),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(
        (me["env"]["HOME"].as_str(), me["cwd"].as_str()),
        (Some("/home/app"), Some("/home/app"))
    );
    assert_eq!(
        (me["env"]["GREETING"].as_str(), me["env"]["EMPTY"].as_str()),
        (Some("hi"), Some(""))
    );
    assert_eq!(me["env"]["OPENFAAS_NAME"], "named");
    let env = me["env"].as_object().unwrap();
    assert!(
        !env.keys().any(|name| name.starts_with("HYPERFAAS")),
        "our own variables reached a worker: {env:?}"
    );

    let (status, _) = whoami(&stack, "numbered").await;
    assert_eq!(
        (status["Uid"].as_str(), status["Gid"].as_str()),
        ("12345 12345 12345 12345", "54321 54321 54321 54321")
    );
    assert_eq!(status["CapEff"], "0000000000000000");
}

#[tokio::test]
async fn a_container_gets_no_privilege_no_host_mount_and_bounded_logs() {
    let stack = Stack::start().await;
    stack
        .deploy(
            "f",
            probe_image(),
            json!({ "labels": { "privileged": "true", "com.hyperfaas.function": "other" } }),
        )
        .await;
    stack.available("f", 1).await;
    let [container] = &stack.containers("f")[..] else { panic!("not one container") };
    let inspected: Value = serde_json::from_str(&docker(&["inspect", container])).unwrap();
    let host = &inspected[0]["HostConfig"];
    assert_eq!(
        (host["Privileged"].as_bool(), host["Binds"].as_array().map(Vec::len)),
        (Some(false), None)
    );
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert!(host["LogConfig"]["Config"]["max-size"].is_string());
    let mounts = inspected[0]["Mounts"].as_array().unwrap();
    assert!(
        mounts.iter().all(|mount| mount["Type"] == "volume" && mount["RW"] == false),
        "{mounts:?}"
    );
    assert_eq!(inspected[0]["Config"]["Labels"]["com.hyperfaas.function"], "f");
}

#[tokio::test]
async fn a_read_only_root_keeps_tmp_writable() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({ "readOnlyRootFilesystem": true })).await;
    let write = async |path: &str| {
        let url = stack.gateway(&format!("/function/f/write?path={path}"));
        stack.http.get(url).send().await.unwrap().status()
    };
    assert_eq!(write("/tmp/x").await, StatusCode::OK);
    assert_eq!(write("/home/app/x").await, StatusCode::FORBIDDEN);
    assert_eq!(stack.status("f").await["readOnlyRootFilesystem"], true);
}

#[tokio::test]
async fn limits_are_clamped_for_docker_and_echoed_as_given() {
    let stack = Stack::start().await;
    let limits = json!({ "memory": "5Mi", "cpu": "100" });
    let requests = json!({ "memory": "900Gi", "cpu": "50m" });
    stack.deploy("f", probe_image(), json!({ "limits": limits, "requests": requests })).await;
    stack.available("f", 1).await;
    let status = stack.status("f").await;
    assert_eq!((&status["limits"], &status["requests"]), (&limits, &requests));
}

#[tokio::test]
async fn secrets_are_exact_read_only_and_renewed_by_an_update() {
    let stack = Stack::start().await;
    let path = "/read?path=/var/openfaas/secrets/api-key";
    let read = async || {
        let answer =
            stack.http.get(stack.gateway(&format!("/function/f{path}"))).send().await.unwrap();
        (answer.status(), answer.bytes().await.unwrap().to_vec())
    };
    let value =
        json!({ "name": "api-key", "value": "ignored", "rawValue": "AP8KIHRvcCBzZWNyZXQK" });
    let created = stack.system(Method::POST, "/system/secrets", Some(value)).await;
    assert_eq!(created.status(), StatusCode::ACCEPTED);
    let fields = json!({ "secrets": ["api-key"] });
    stack.deploy("f", probe_image(), fields.clone()).await;
    assert_eq!(read().await, (StatusCode::OK, b"\x00\xff\n top secret\n".to_vec()));
    let write =
        stack.http.get(stack.gateway("/function/f/write?path=/var/openfaas/secrets/api-key"));
    assert_eq!(write.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    let renewed = json!({ "name": "api-key", "value": "second" });
    assert_eq!(
        stack.system(Method::PUT, "/system/secrets", Some(renewed)).await.status(),
        StatusCode::ACCEPTED
    );
    stack.update("f", probe_image(), fields).await;
    stack.eventually("the new value is read", async || read().await.1 == b"second").await;

    let [container] = &stack.containers("f")[..] else { return };
    let inspected = docker(&["inspect", container]);
    assert!(
        !inspected.contains("second") && !stack.log().contains("top secret"),
        "a secret leaked"
    );
}
