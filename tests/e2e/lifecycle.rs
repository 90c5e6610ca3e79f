//! Updates, scaling and removal under load, and from zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::stack::{Stack, probe_http_image, probe_image};

/// Callers that ask `name` again and again until told to stop; every answer that is not 200 is kept.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    fn on(stack: &Stack, name: &str, callers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let url = stack.gateway(&format!("/function/{name}/sleep?ms=5"));
        let mut set = JoinSet::new();
        for _ in 0..callers {
            let (stop, answered, http, url) =
                (Arc::clone(&stop), Arc::clone(&answered), stack.http.clone(), url.clone());
            set.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match http.post(&url).body("x").send().await {
                        Ok(answer) if answer.status() == StatusCode::OK => {
                            drop(answer.bytes().await);
                        }
                        Ok(answer) => {
                            failures.push(format!(
                                "{}: {:?}",
                                answer.status(),
                                answer.text().await
                            ));
                        }
                        Err(error) => failures.push(error.to_string()),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        Self { stop, answered, callers: set }
    }

    /// Waits until `more` further answers have come, so that what just happened was under load.
    async fn goes_on(&self, stack: &Stack, more: usize) {
        let target = self.answered.load(Ordering::Relaxed) + more;
        stack
            .eventually("the load goes on", async || {
                self.answered.load(Ordering::Relaxed) >= target
            })
            .await;
    }

    async fn failures(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(failures) = self.callers.join_next().await {
            all.extend(failures.expect("a caller ran"));
        }
        all
    }
}

#[tokio::test]
async fn no_request_fails_through_update_scaling_and_removal_of_another() {
    let stack = Stack::start().await;
    stack.deploy("steady", probe_http_image(), json!({})).await;
    stack.deploy("other", probe_image(), json!({})).await;
    stack.available("steady", 1).await;
    let load = Load::on(&stack, "steady", 4);
    load.goes_on(&stack, 100).await;

    let before = stack.containers("steady");
    stack.update("steady", probe_http_image(), json!({ "envVars": { "VERSION": "2" } })).await;
    stack
        .eventually("the update is through", async || {
            let now = stack.containers("steady");
            now.len() == 1 && now != before
        })
        .await;
    load.goes_on(&stack, 100).await;

    stack.scale("steady", 5).await;
    stack.available("steady", 5).await;
    load.goes_on(&stack, 100).await;
    stack.delete("other").await;
    stack.deploy("other", probe_http_image(), json!({})).await;
    stack.scale("steady", 1).await;
    stack
        .eventually("four replicas are gone", async || stack.containers("steady").len() == 1)
        .await;
    stack.available("other", 1).await;
    load.goes_on(&stack, 100).await;

    let failures = load.failures().await;
    assert!(
        failures.is_empty(),
        "{} requests failed, first: {:?}",
        failures.len(),
        failures.first()
    );
}

#[tokio::test]
async fn first_requests_from_zero_share_one_start_and_all_succeed() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    stack.available("f", 1).await;
    stack.scale("f", 0).await;
    assert_eq!(stack.status("f").await["replicas"], 0);
    stack.eventually("nothing is left", async || stack.containers("f").is_empty()).await;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let request = stack.http.get(stack.gateway("/function/f/sleep?ms=1")).send();
        callers.spawn(async move { request.await.expect("an answer").status() });
    }
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.expect("a caller ran"), StatusCode::OK);
    }
    assert_eq!(
        (stack.containers("f").len(), stack.status("f").await["replicas"].as_u64()),
        (1, Some(1))
    );
}

#[tokio::test]
async fn a_name_is_free_at_once_after_its_removal() {
    let stack = Stack::start().await;
    for round in 0..3 {
        stack
            .deploy("f", probe_image(), json!({ "envVars": { "ROUND": round.to_string() } }))
            .await;
        let (status, body) = stack.invoke("f", "/whoami", "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{body}");
        let answer = stack.http.get(stack.gateway("/function/f/whoami")).send().await.unwrap();
        assert!(answer.text().await.unwrap().contains(&format!("\"ROUND\":\"{round}\"")));
        stack.delete("f").await;
        let gone = stack.system(Method::GET, "/system/function/f", None).await;
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
        assert_eq!(stack.invoke("f", "", "").await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn running_requests_outlive_the_removal_of_their_function() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    let url = stack.gateway("/function/f/sleep?ms=2000");
    let running = tokio::spawn(stack.http.get(url).send());
    stack
        .eventually("the request runs", async || {
            let said = stack.log();
            said.contains("container engine ready")
                && stack.invoke("f", "/sleep?ms=0", "").await.0 == StatusCode::OK
        })
        .await;
    stack.delete("f").await;
    let answer = running.await.unwrap().unwrap();
    assert_eq!((answer.status(), answer.text().await.unwrap().as_str()), (StatusCode::OK, "slept"));
    stack.eventually("the container is gone", async || stack.containers("f").is_empty()).await;
}

#[tokio::test]
async fn the_providers_own_port_serves_calls_and_asks_for_credentials() {
    let stack = Stack::start().await;
    stack.deploy("f", probe_image(), json!({})).await;
    let call = stack.http.get(stack.provider("/function/f/sleep?ms=0")).send().await.unwrap();
    assert_eq!(call.status(), StatusCode::OK);
    for path in
        ["/system/functions", "/system/function/f", "/system/namespaces", "/system/logs?name=f"]
    {
        let open = stack.http.get(stack.provider(path)).send().await.unwrap();
        assert_eq!(open.status(), StatusCode::UNAUTHORIZED, "{path}");
        let wrong = stack
            .http
            .get(stack.provider(path))
            .basic_auth("admin", Some("guess"))
            .send()
            .await
            .unwrap();
        assert_eq!(
            (wrong.status(), wrong.text().await.unwrap().as_str()),
            (StatusCode::UNAUTHORIZED, "invalid credentials")
        );
    }
}
