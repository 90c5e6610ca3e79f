//! The stream of events behind the page, from a gateway in a process of its own in front of our provider over HTTP.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::apart::Apart;
use crate::support::stack::{PATIENCE, Stack, basic_auth};

/// A stream that is read event by event.
struct Events {
    answer: reqwest::Response,
    rest: String,
}

impl Events {
    async fn open(gateway: &Apart) -> Self {
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = request.get(gateway.url("/system/hyperfaas/live"));
        let answer = basic_auth(request).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, rest: String::new() }
    }

    /// The next event and its data, comments left out.
    async fn next(&mut self) -> (String, Value) {
        loop {
            while let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return (name.to_owned(), serde_json::from_str(data).unwrap());
                }
            }
            let chunk = self.answer.chunk().await.unwrap().expect("the stream goes on");
            self.rest += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// Reads on until an event `name` whose data `is_it`.
    async fn until(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = async {
            loop {
                let (event, data) = self.next().await;
                if event == name && is_it(&data) {
                    break data;
                }
            }
        };
        timeout(PATIENCE, find).await.unwrap_or_else(|_| panic!("no such event {name}"))
    }

    /// Reads on until `burn` is told so that it `is_so`.
    async fn burn(&mut self, is_so: impl Fn(&Value) -> bool) -> Value {
        let one = |data: &Value| {
            let all = data.as_array().unwrap();
            all.iter().find(|one| one["name"] == "burn" && is_so(one)).cloned()
        };
        let data = self.until("functions", |data| one(data).is_some()).await;
        one(&data).unwrap()
    }
}

#[tokio::test]
async fn a_gateway_of_its_own_tells_what_the_provider_does_and_what_it_counts_itself() {
    let mut stack = Stack::start().await;
    let gateway = Apart::start(&stack, &[]).await;
    let mut events = Events::open(&gateway).await;
    let (first, whole) = timeout(PATIENCE, events.next()).await.unwrap();
    assert_eq!((first.as_str(), &whole["functions"]), ("state", &json!([])), "{whole}");

    stack.deploy("burn", "hyperfaas/fn-burn:latest", json!({})).await;
    let ready = events.burn(|burn| burn["available"] == 1).await;
    let roles: Vec<_> =
        ready["containers"][0]["workers"].as_array().unwrap().iter().map(|w| &w["role"]).collect();
    assert_eq!(roles, [&json!("owner"), &json!("generic")], "{ready}");

    let called = stack.http.get(gateway.url("/function/burn?ms=1")).send().await.unwrap();
    assert_eq!(called.status(), StatusCode::OK);
    let counted = events.burn(|burn| burn["invocations"] == 1).await;
    assert!(counted["p95_ms"].as_f64().unwrap() > 0.0, "the gateway's own number: {counted}");

    stack.scale("burn", 2).await;
    let made = events.until("decisions", |all| all[0]["phase"] == "out").await;
    assert_eq!(made[0]["function"], "burn.openfaas-fn", "{made}");
    events.burn(|burn| burn["available"] == 2).await;

    let secret = basic_auth(stack.http.get(gateway.url("/system/secrets"))).send().await.unwrap();
    assert_eq!(secret.status(), StatusCode::OK, "the other routes pass as well");

    // The provider goes and comes back where it was; the page hears of both on the stream it has.
    stack.stay();
    stack.kill().await;
    events.until("system", |system| system["trouble"].is_string()).await;
    stack.spawn().await;
    let has_one = |state: &Value| state["functions"].as_array().is_some_and(|all| all.len() == 1);
    let back = events.until("state", has_one).await;
    assert_eq!(back["functions"][0]["replicas"], 2, "{back}");

    stack.delete("burn").await;
    let gone = events.until("gone", |_| true).await;
    assert_eq!(gone, json!(["burn.openfaas-fn"]));
}
