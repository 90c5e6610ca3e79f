//! Interpreters that wait in standby containers, on a real engine: who waits, how a request goes on there, what an update does.

use reqwest::StatusCode;
use serde_json::json;

use super::scaling::decisions;
use super::standby::{names, pool, stack};
use crate::support::stack::{Stack, try_docker};

const PYTHON: &str = "hyperfaas/fn-pyhello:latest";

/// The users of the Python processes in this stack's standby containers.
fn interpreters(stack: &Stack) -> Vec<u32> {
    let mut users = Vec::new();
    for container in names(stack) {
        // The processes as the host sees them; none of a container that does not run.
        let table = try_docker(&["top", &container, "-eo", "pid,uid,comm"]).unwrap_or_default();
        let python = table.lines().filter(|line| line.contains("python"));
        users.extend(python.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok()));
    }
    users
}

/// Has a function called, so that it is known, and then be at zero.
async fn called_and_at_zero(stack: &Stack, name: &str) {
    let (status, text) = stack.invoke(name, "/", "one two").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    stack.scale(name, 0).await;
    stack
        .eventually("nothing is left of it", async || {
            stack.containers(name).is_empty() && pool(stack, "taken").await == 0
        })
        .await;
}

async fn held(stack: &Stack, what: &str) {
    stack
        .eventually(what, async || pool(stack, "held").await == 1 && interpreters(stack).len() == 1)
        .await;
}

#[tokio::test]
async fn a_function_called_lately_goes_on_where_its_interpreter_waits() {
    let mut stack = stack(&[("HYPERFAAS_ZYGOTES", "1")]).await;
    stack.deploy("py", PYTHON, json!({})).await;
    stack.deploy("hello", "hyperfaas/fn-hello:latest", json!({})).await;
    stack.available("py", 1).await;
    stack
        .eventually("their roots are there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"] == 2
        })
        .await;
    called_and_at_zero(&stack, "py").await;
    held(&stack, "its interpreter waits").await;
    // In its cage from the beginning: a user that nobody else has.
    assert!(interpreters(&stack).iter().all(|user| *user >= 0x4000_0000));

    // Another one that is called meanwhile goes elsewhere, and cannot wait.
    called_and_at_zero(&stack, "hello").await;
    let has = async |name: &str, action: &str| {
        decisions(&stack, name).await.iter().any(|(done, _)| done == action)
    };
    assert!(!has("hello", "hold").await && !has("hello", "hold-failed").await);
    held(&stack, "it still waits").await;

    let before = names(&stack);
    let (status, text) = stack.invoke("py", "/greet", "who is there").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("\"words\":3") || text.contains("\"words\": 3"), "{text}");
    assert!(stack.log().contains("guest is ready"));
    let path = "/system/hyperfaas/functions/py/decisions";
    let told = stack.ask_provider(path).await.text().await.expect("text");
    assert!(told.contains(r#""action":"specialise""#) && told.contains("zygote"), "{told}");
    assert!(!told.contains("visit-failed") && !told.contains("hold-failed"), "{told}");

    // Its own container takes over, and it waits again in another one.
    stack.eventually("its own container", async || stack.containers("py").len() == 1).await;
    called_and_at_zero(&stack, "py").await;
    held(&stack, "it waits again").await;
    assert_ne!(names(&stack), before);

    // Of a newer revision nothing old is used.
    let old = interpreters(&stack);
    stack.update("py", PYTHON, json!({ "envVars": { "NEW": "1" } })).await;
    stack
        .eventually("the old one is gone", async || {
            !interpreters(&stack).iter().any(|user| old.contains(user))
        })
        .await;
    called_and_at_zero(&stack, "py").await;
    held(&stack, "the new one waits").await;
    stack.delete("py").await;
    stack
        .eventually("nobody waits for a function that is gone", async || {
            pool(&stack, "held").await == 0 && interpreters(&stack).is_empty()
        })
        .await;
    assert!(!stack.log().contains("panicked"), "{}", stack.log());
    assert!(stack.terminate().await);
}

/// Whoever cannot wait is told so once, and served as ever.
#[tokio::test]
async fn a_function_that_cannot_wait_is_served_as_ever() {
    let mut stack = stack(&[("HYPERFAAS_ZYGOTES", "1")]).await;
    // To Python a script, to its watchdog nothing that could wait: it is started for each request.
    let bare = json!({ "envVars": { "mode": "http" }, "envProcess": "python index.py" });
    stack.deploy("odd", "hyperfaas/fn-shout:latest", bare).await;
    stack
        .eventually("its root is there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"] == 1
        })
        .await;
    // There is no Python in its image: neither a container of its own nor a zygote comes of it.
    let (status, text) = stack.invoke("odd", "/", "").await;
    assert!(status.is_server_error() && text.trim_end().lines().count() <= 1, "{status} {text}");
    stack.scale("odd", 0).await;
    stack
        .eventually("it has been tried and is told", async || {
            decisions(&stack, "odd").await.iter().any(|(done, _)| done == "hold-failed")
        })
        .await;
    stack.eventually("one waits", async || pool(&stack, "ready").await > 0).await;
    let failed = decisions(&stack, "odd").await;
    let failed = failed.iter().filter(|(done, _)| done == "hold-failed").count();
    assert_eq!(failed, 1, "with one revision it is tried once");
    assert!(stack.terminate().await);
}
