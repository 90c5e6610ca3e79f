//! A function that does its worst, in a real container: the watchdog goes on, its port and its link answer, and the function
//! is started again where it ended.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::stack::{Stack, docker, probe_http_image};

/// Most memory that the watchdog may ever hold, in KiB; it holds some 3 MiB when idle.
const WATCHDOG_MAX_KIB: u64 = 16 << 10;

/// The one container of the function, and ways to look at its watchdog from outside.
struct Victim<'a> {
    stack: &'a Stack,
    id: String,
    pid: String,
    health: String,
}

impl<'a> Victim<'a> {
    async fn deploy(stack: &'a Stack) -> Self {
        let fields = json!({ "readOnlyRootFilesystem": true, "limits": { "memory": "256Mi" } });
        stack.deploy("f", probe_http_image(), fields).await;
        stack.available("f", 1).await;
        let id = stack.containers("f").remove(0);
        let format = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let told = docker(&["inspect", "--format", format, &id]);
        let (pid, address) = told.trim().split_once(' ').unwrap();
        Self { stack, id, pid: pid.to_owned(), health: format!("http://{address}:8080/_/health") }
    }

    async fn does(&self, what: &str) -> (StatusCode, String) {
        self.stack.invoke("f", &format!("/hostile/{what}"), "").await
    }

    /// Whether the watchdog's own port answers in time, whatever the function does.
    async fn answers(&self) -> StatusCode {
        self.stack.http.get(&self.health).send().await.unwrap().status()
    }

    /// The function serves, in the same container with the same watchdog, which has not grown.
    async fn serves(&self, after: &str) {
        let works = async || self.stack.invoke("f", "/sleep?ms=0", "").await.0 == StatusCode::OK;
        self.stack.eventually(&format!("serves after {after}"), works).await;
        // What the provider knows came over the control link.
        self.stack.available("f", 1).await;
        assert_eq!(self.answers().await, StatusCode::OK, "after {after}");
        assert_eq!(self.stack.containers("f"), std::slice::from_ref(&self.id), "after {after}");
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &self.id]);
        assert_eq!(pid.trim(), self.pid, "after {after}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak < WATCHDOG_MAX_KIB, "{peak} KiB after {after}");
    }

    /// Processes and threads in the container.
    fn processes(&self) -> usize {
        docker(&["top", &self.id, "-eL", "-o", "pid,lwp"]).lines().count() - 1
    }

    async fn ends_and_serves(&self, after: &str) {
        // The process ends in the middle of this call.
        let _ = self.stack.invoke("f", "/exit", "").await;
        self.serves(after).await;
    }
}

#[tokio::test]
async fn a_function_that_takes_everything_does_not_take_the_watchdog() {
    let stack = Stack::start().await;
    let victim = Victim::deploy(&stack).await;

    // Whichever end it finds, the limit of descriptors or of memory for them.
    let _ = victim.does("descriptors").await;
    assert_eq!(victim.answers().await, StatusCode::OK);
    victim.ends_and_serves("opening every descriptor").await;

    let (status, told) = victim.does("tmp").await;
    assert_eq!((status, told.contains("No space left")), (StatusCode::OK, true), "{told}");
    victim.serves("filling /tmp").await;

    let before = victim.processes();
    docker(&["update", "--pids-limit", "40", &victim.id]);
    let (status, told) = victim.does("forks").await;
    assert_eq!(
        (status, told.contains("temporarily unavailable")),
        (StatusCode::OK, true),
        "{told}"
    );
    assert_eq!(victim.processes(), 40, "nothing more can be forked");
    assert_eq!(victim.answers().await, StatusCode::OK);
    assert_eq!(stack.invoke("f", "/sleep?ms=0", "").await.0, StatusCode::OK);
    victim.ends_and_serves("forking until nobody can").await;
    assert!(victim.processes() <= before, "its processes are gone");

    let (status, _) = victim.does("memory").await;
    assert!(status.is_server_error(), "{status}");
    victim.serves("taking all memory").await;
}

#[tokio::test]
async fn a_function_that_will_not_be_read_or_stopped_is_read_and_stopped() {
    let stack = Stack::start().await;
    let victim = Victim::deploy(&stack).await;

    assert_eq!(victim.does("flood").await, (StatusCode::OK, "flooding".to_owned()));
    for _ in 0..100 {
        assert_eq!(stack.invoke("f", "/sleep?ms=1", "").await.0, StatusCode::OK);
    }
    assert_eq!(victim.answers().await, StatusCode::OK);
    victim.ends_and_serves("flooding its output").await;

    assert_eq!(victim.does("streams").await, (StatusCode::OK, "closed".to_owned()));
    victim.serves("closing its streams").await;

    assert_eq!(victim.does("term").await, (StatusCode::OK, "deaf".to_owned()));
    stack.delete("f").await;
    stack.eventually("the container is gone", async || stack.containers("f").is_empty()).await;
}
