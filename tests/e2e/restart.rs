//! The provider is killed at the worst moments, the engine goes away, containers vanish.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::timeout;

use crate::support::stack::{PATIENCE, Stack, docker, probe_image};

/// Enough for what needs nothing to be started, on a machine that does much else.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_killed_provider_takes_over_what_runs_and_serves_at_once() {
    let mut stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.deploy("g", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    stack.available("g", 1).await;
    let before = stack.containers("f");
    stack.delete("g").await;
    stack.kill().await;
    stack.spawn().await;
    let answer = timeout(SOON, stack.invoke("f", "/sleep?ms=0", "")).await;
    assert_eq!(answer.expect("served at once").0, StatusCode::OK);
    assert_eq!(stack.containers("f"), before);
    stack
        .eventually("the deleted function's container goes", async || {
            stack.containers("g").is_empty()
        })
        .await;
    assert_eq!(stack.invoke("g", "", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_acknowledged_change_survives_a_kill_right_after_it() {
    let mut stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({ "envVars": { "V": "1" } })).await;
    stack.kill().await;
    stack.spawn().await;
    stack.available("f", 1).await;
    stack.update("f", probe_image(), json!({ "envVars": { "V": "2" } })).await;
    stack.kill().await;
    stack.spawn().await;
    assert_eq!(stack.status("f").await["envVars"]["V"], "2");
    stack.scale("f", 2).await;
    stack.kill().await;
    stack.spawn().await;
    assert_eq!(stack.status("f").await["replicas"], 2);
    stack.available("f", 2).await;
    stack
        .eventually("only the new revision is left", async || stack.containers("f").len() == 2)
        .await;
    stack.delete("f").await;
    stack.kill().await;
    stack.spawn().await;
    stack.eventually("nothing is left", async || stack.containers("f").is_empty()).await;
}

#[tokio::test]
async fn containers_that_vanish_or_stop_are_replaced() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    for command in [&["rm", "-f"][..], &["stop", "-t", "0"], &["kill"]] {
        let before = stack.containers("f");
        docker(&[command, &[before[0].as_str()]].concat());
        stack
            .eventually("another container took over", async || {
                let now = stack.containers("f");
                now.len() == 1 && now != before && stack.status("f").await["availableReplicas"] == 1
            })
            .await;
        assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn terminating_the_provider_leaves_functions_running() {
    let mut stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    let before = stack.containers("f");
    assert!(stack.terminate().await);
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &before[0]]).trim(), "true");
    stack.spawn().await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    assert_eq!(stack.containers("f"), before);
}

/// A second way to the engine that can be taken away.
struct Detour {
    listening: Option<std::thread::JoinHandle<()>>,
    path: std::path::PathBuf,
    open: std::sync::Arc<std::sync::Mutex<Vec<UnixStream>>>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Detour {
    fn open(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("bound");
        let open = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (kept, stopped) = (std::sync::Arc::clone(&open), std::sync::Arc::clone(&stop));
        let listening = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let engine = UnixStream::connect("/var/run/docker.sock").expect("the engine runs");
                let pairs = [
                    (client.try_clone(), engine.try_clone()),
                    (engine.try_clone(), client.try_clone()),
                ];
                kept.lock().expect("not poisoned").extend([client, engine]);
                for (from, to) in pairs {
                    let (mut from, mut to) = (from.expect("cloned"), to.expect("cloned"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Self { listening: Some(listening), path: path.to_owned(), open, stop }
    }

    fn close(mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        self.listening.take().expect("once").join().expect("ended");
        std::fs::remove_file(&self.path).expect("removed");
        for stream in self.open.lock().expect("not poisoned").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[tokio::test]
async fn an_engine_that_is_away_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let mut stack = Stack::start_with(&[("DOCKER_HOST", &host)]).await;
    stack.deploy("f", probe_image(), json!({})).await;
    assert_eq!(stack.status("f").await["availableReplicas"], 0);
    stack.logged("container engine lost; waiting for it", "reason").await;

    let detour = Detour::open(&socket);
    stack.available("f", 1).await;
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);

    detour.close();
    assert_eq!(
        stack.invoke("f", "/sleep?ms=0", "").await.0,
        StatusCode::OK,
        "running replicas serve without the engine"
    );
    stack.scale("f", 2).await;
    let detour = Detour::open(&socket);
    stack.available("f", 2).await;
    let losses = stack.log().matches("container engine lost").count();
    assert!((1..=2).contains(&losses), "one message a loss, not {losses}");
    timeout(PATIENCE, async { drop(stack) }).await.unwrap();
    detour.close();
}
