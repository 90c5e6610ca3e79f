//! Functions that agreed to share containers, on a real engine: a guest in another function's container, and back; and that nobody
//! else gets in.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::standby::{names, pool};
use crate::support::stack::{Stack, binary, docker, probe_http_image, probe_root_image};

/// A provider without standby containers, so that a guest can only be in another function's.
pub(super) async fn stack(settings: &[(&str, &str)]) -> Stack {
    let all = [
        ("HYPERFAAS_SLOTS", "true"),
        ("HYPERFAAS_STANDBY_MIN", "0"),
        ("HYPERFAAS_STANDBY_MAX", "0"),
        ("HYPERFAAS_START_TIMEOUT", "10m"),
        ("HYPERFAAS_STOP_GRACE", "1s"),
    ];
    let stack = Stack::start_with(&[&all[..], settings].concat()).await;
    let info = stack.info().await;
    assert_eq!(info["hyperfaas"]["abilities"]["sharing"]["on"], true, "{info}");
    stack
}

/// A deployment in share group `team`, with further fields.
pub(super) fn shared(fields: Value) -> Value {
    let mut all = json!({
        "labels": { "com.hyperfaas.share": "team" }, "envVars": { "prefix_logs": "false" }
    });
    let (Some(all_fields), Value::Object(fields)) = (all.as_object_mut(), fields) else {
        panic!("objects")
    };
    for (name, value) in fields {
        match (all_fields.get_mut(&name).and_then(Value::as_object_mut), value) {
            (Some(known), Value::Object(more)) => known.extend(more),
            (_, value) => drop(all_fields.insert(name, value)),
        }
    }
    all
}

/// A function that serves only as a guest: its own container never gets ready.
pub(super) fn guests_only(fields: Value) -> Value {
    let Value::Object(mut all) = shared(fields) else { panic!("an object") };
    all["envVars"]["PROBE_FAIL"] = json!("at-home");
    Value::Object(all)
}

pub(super) async fn decisions(stack: &Stack, name: &str) -> Vec<Value> {
    let path = format!("/system/hyperfaas/functions/{name}/decisions");
    stack.ask_provider(&path).await.json().await.expect("JSON")
}

/// The function's own container and, for an owner that lends, its root there.
pub(super) async fn owner(stack: &Stack, name: &str, fields: Value) -> String {
    stack.deploy(name, probe_http_image(), shared(fields)).await;
    stack.available(name, 1).await;
    stack
        .eventually("its root is there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"].as_u64() > Some(0)
        })
        .await;
    stack.containers(name).remove(0)
}

pub(super) async fn serves(stack: &Stack, name: &str) {
    let (status, text) = stack.invoke(name, "/sleep?ms=0", "").await;
    assert_eq!(status, StatusCode::OK, "{name}: {text}");
}

/// Which user the function that answers runs as, and under which name.
pub(super) async fn who(stack: &Stack, name: &str) -> (u32, String) {
    let url = stack.gateway(&format!("/function/{name}/whoami"));
    let answer = stack.http.get(url).send().await.expect("an answer");
    let told: Value = answer.json().await.expect("JSON");
    let status = told["status"].as_str().expect("text");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
    let user = line.split_whitespace().next().expect("a number").parse().expect("a number");
    (user, told["env"]["OPENFAAS_NAME"].as_str().expect("a name").to_owned())
}

/// The first process of a container, as the host numbers it.
pub(super) fn process(container: &str) -> u32 {
    docker(&["inspect", "--format", "{{.State.Pid}}", container]).trim().parse().expect("a number")
}

/// Mounts of slots in a container.
pub(super) fn slots(container: &str) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", process(container)));
    table.expect("it runs").lines().filter(|line| line.contains("/.hyperfaas/slots/")).count()
}

async fn log(stack: &Stack, name: &str) -> Vec<Value> {
    let path = format!("/system/logs?name={name}&follow=false");
    let text = stack.system(Method::GET, &path, None).await.text().await.expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn lent(stack: &Stack) -> u64 {
    let page = stack.ask_provider("/metrics").await.text().await.expect("text");
    let value = page.lines().find_map(|line| line.strip_prefix("hyperfaas_lent_workers "));
    value.map_or(0, |text| text.parse().expect("a count"))
}

async fn nothing_is_lent(stack: &Stack, container: &str) {
    stack
        .eventually("the place is the owner's again", async || {
            lent(stack).await == 0 && slots(container) == 0
        })
        .await;
}

#[tokio::test]
async fn several_guests_one_after_the_other_in_a_container_that_stays_its_owners() {
    let mut stack = stack(&[]).await;
    let container = owner(&stack, "owner", json!({})).await;
    let name = docker(&["inspect", "--format", "{{.Name}}", &container]);
    let mut users = HashSet::new();
    for guest in ["one", "two"] {
        stack.deploy(guest, probe_http_image(), guests_only(json!({}))).await;
        serves(&stack, guest).await;
        let (user, told) = who(&stack, guest).await;
        assert!(user >= 0x4000_0000 && users.insert(user), "a new user each: {user}");
        assert_eq!(told, guest);
        assert_eq!(who(&stack, "owner").await, (1001, "owner".to_owned()));
        assert_eq!(docker(&["inspect", "--format", "{{.Name}}", &container]), name);
        assert!(slots(&container) > 0 && lent(&stack).await == 1);

        let said =
            stack.http.get(stack.gateway(&format!("/function/{guest}/say?out=from-{guest}")));
        assert_eq!(said.send().await.expect("an answer").status(), StatusCode::OK);
        let has = |lines: Vec<Value>| {
            lines.iter().any(|line| line["text"].as_str().unwrap_or("").contains("from-"))
        };
        stack.eventually("its line is its own", async || has(log(&stack, guest).await)).await;
        assert!(!has(log(&stack, "owner").await), "nor the owner's");

        let all = decisions(&stack, guest).await;
        let is_it = |one: &Value| one["action"] == "specialise" && one["place"] == "guest";
        assert!(all.iter().any(is_it), "{all:#?}");
        stack.delete(guest).await;
        nothing_is_lent(&stack, &container).await;
    }
    let log = stack.log();
    for epoch in ["\"epoch\":1", "\"epoch\":2"] {
        assert!(
            log.lines().any(|line| line.contains("guest is sent away") && line.contains(epoch))
        );
    }
    assert_eq!(stack.containers("owner"), [container]);
    serves(&stack, "owner").await;
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn a_guest_of_a_killed_provider_is_sent_away_and_never_taken_for_the_owner() {
    let mut stack = stack(&[]).await;
    let container = owner(&stack, "owner", json!({})).await;
    stack.deploy("guest", probe_http_image(), guests_only(json!({}))).await;
    serves(&stack, "guest").await;
    let (before, _) = who(&stack, "guest").await;
    stack.kill().await;
    stack.spawn().await;
    stack.available("owner", 1).await;
    for _ in 0..50 {
        assert_eq!(who(&stack, "owner").await, (1001, "owner".to_owned()));
    }
    serves(&stack, "guest").await;
    let (after, name) = who(&stack, "guest").await;
    assert!(after != before && name == "guest", "{before} {after} {name}");
    assert!(stack.log().contains("guest of an earlier run is sent away"));
    assert_eq!(stack.containers("owner"), std::slice::from_ref(&container));
    stack.delete("guest").await;
    nothing_is_lent(&stack, &container).await;
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn no_request_is_lost_whatever_becomes_of_owner_and_guest() {
    let stack = Arc::new(stack(&[("HYPERFAAS_SCALE_COOL", "1s")]).await);
    owner(&stack, "a", json!({})).await;
    owner(&stack, "b", json!({})).await;
    stack.deploy("guest", probe_http_image(), guests_only(json!({}))).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = ["guest", "guest", "b"]
        .map(|name| {
            let (stack, is_over) = (Arc::clone(&stack), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut count = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    let (status, text) = stack.invoke(name, "/sleep?ms=5", "").await;
                    assert_eq!(status, StatusCode::OK, "{name} after {count}: {text}");
                    count += 1;
                }
                count
            })
        })
        .into();
    let update = |version: &str| shared(json!({ "envVars": { "V": version } }));
    let place = async || {
        let all = decisions(&stack, "guest").await;
        all.iter().filter(|one| one["action"] == "specialise").count()
    };
    stack.eventually("a visit", async || place().await > 0).await;
    // Whoever hosts the guest is updated, scaled to none or deleted under it.
    for name in ["a", "b"] {
        let before = stack.containers(name);
        stack.update(name, probe_http_image(), update("2")).await;
        stack
            .eventually("updated", async || {
                let now = stack.containers(name);
                now.len() == 1 && now != before
            })
            .await;
    }
    stack.scale("b", 2).await;
    stack.available("b", 2).await;
    stack.scale("a", 0).await;
    stack.eventually("a is at none", async || stack.containers("a").is_empty()).await;
    stack.delete("a").await;
    stack
        .update("guest", probe_http_image(), guests_only(json!({ "envVars": { "V": "2" } })))
        .await;
    serves(&stack, "guest").await;
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.expect("nothing failed") > 0);
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_once() {
    let stack = stack(&[]).await;
    owner(&stack, "owner", json!({})).await;
    let bad = json!({
        "service": "bad", "image": probe_http_image(), "labels": { "com.hyperfaas.share": "a b" }
    });
    let answer = stack.system(Method::POST, "/system/functions", Some(bad)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let text = answer.text().await.expect("text");
    assert!(text.contains("com.hyperfaas.share: (a b) is invalid") && text.lines().count() == 1);

    let refused = async |name: &str| -> Vec<String> {
        let all = decisions(&stack, name).await;
        let refused = all.iter().filter(|one| one["action"] == "place-refused");
        refused.filter_map(|one| one["trouble"].as_str().map(ToOwned::to_owned)).collect()
    };
    for (name, group, image, reason) in [
        ("root", "team", probe_root_image(), "its image runs as root"),
        (
            "stranger",
            "others",
            probe_http_image(),
            "no other function of its share group has a container",
        ),
    ] {
        let labels = json!({ "com.hyperfaas.share": group });
        let fields = json!({ "labels": labels, "envVars": { "PROBE_FAIL": "at-home" } });
        stack.deploy(name, image, fields).await;
        let request = stack.http.get(stack.gateway(&format!("/function/{name}/sleep?ms=0")));
        let request = tokio::spawn(request.send());
        let is_it = |told: &[String]| told.iter().filter(|text| *text == reason).count() == 1;
        stack.eventually("told why", async || is_it(&refused(name).await)).await;
        request.abort();
        stack.delete(name).await;
    }

    // While its owner has a request, the place is not lent; then it is.
    let busy = stack.http.get(stack.gateway("/function/owner/sleep?ms=4000"));
    let busy = tokio::spawn(busy.send());
    stack
        .eventually("the owner has a request", async || {
            let path = "/system/hyperfaas/live";
            let mut events = stack.ask_provider(path).await;
            let first = events.chunk().await.expect("an event").expect("bytes");
            String::from_utf8_lossy(&first).contains("\"in_flight\":1")
        })
        .await;
    stack.deploy("guest", probe_http_image(), guests_only(json!({}))).await;
    serves(&stack, "guest").await;
    assert_eq!(busy.await.expect("joined").expect("an answer").status(), StatusCode::OK);
    let told = refused("guest").await;
    assert_eq!(told.iter().filter(|text| *text == "its owner has requests").count(), 1, "{told:?}");
}

/// A deployment without a label of its own that serves only as a guest.
fn by_default(labels: &Value) -> Value {
    let variables = json!({ "prefix_logs": "false", "PROBE_FAIL": "at-home" });
    json!({ "labels": labels, "envVars": variables })
}

/// Where it was specialised, by the decisions on it, oldest first.
async fn places(stack: &Stack, name: &str) -> Vec<String> {
    let all = decisions(stack, name).await;
    let taken = all.iter().filter(|one| one["action"] == "specialise");
    taken.filter_map(|one| one["place"].as_str().map(ToOwned::to_owned)).collect()
}

#[tokio::test]
async fn the_operators_group_holds_for_those_who_name_none_and_not_for_those_who_opt_out() {
    let stack = stack(&[("HYPERFAAS_SHARE", "house")]).await;
    let fields = json!({ "envVars": { "prefix_logs": "false" } });
    stack.deploy("owner", probe_http_image(), fields).await;
    stack.available("owner", 1).await;
    stack
        .eventually("its root is there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"].as_u64() > Some(0)
        })
        .await;
    let container = stack.containers("owner").remove(0);

    // Who opts out gets nobody's place, nor does who names another group; each is told why.
    for (name, labels, reason) in [
        ("alone", json!({ "com.hyperfaas.share": "" }), None),
        (
            "elsewhere",
            json!({ "com.hyperfaas.share": "others" }),
            Some("no other function of its share group has a container"),
        ),
    ] {
        stack.deploy(name, probe_http_image(), by_default(&labels)).await;
        let request = stack.http.get(stack.gateway(&format!("/function/{name}/sleep?ms=0")));
        let request = tokio::spawn(request.send());
        stack
            .eventually(
                "its own container was tried, and it is told why there is no other",
                async || {
                    let all = decisions(&stack, name).await;
                    let has = |reason: &str| all.iter().any(|one| one["trouble"] == reason);
                    all.iter().any(|one| one["action"] == "start") && reason.is_none_or(has)
                },
            )
            .await;
        assert_eq!(places(&stack, name).await, [""; 0], "{name}");
        assert_eq!(lent(&stack).await, 0);
        request.abort();
        stack.delete(name).await;
    }

    stack.deploy("guest", probe_http_image(), by_default(&json!({}))).await;
    serves(&stack, "guest").await;
    assert_eq!(places(&stack, "guest").await, ["guest"]);
    assert!(slots(&container) > 0);
    stack.delete("guest").await;
    nothing_is_lent(&stack, &container).await;

    // An owner that opts out lends to nobody.
    let alone = json!({ "labels": { "com.hyperfaas.share": "" } });
    let body = json!({
        "service": "owner", "image": probe_http_image(), "labels": alone["labels"]
    });
    let answer = stack.system(Method::PUT, "/system/functions", Some(body)).await;
    assert!(answer.status().is_success());
    stack
        .eventually("its new container serves", async || {
            stack.containers("owner").len() == 1 && stack.containers("owner")[0] != container
        })
        .await;
    stack.deploy("late", probe_http_image(), by_default(&json!({}))).await;
    let request = stack.http.get(stack.gateway("/function/late/sleep?ms=0"));
    let request = tokio::spawn(request.send());
    stack
        .eventually("it is told that nobody is there", async || {
            let reason = "no other function of its share group has a container";
            decisions(&stack, "late").await.iter().any(|one| one["trouble"] == reason)
        })
        .await;
    assert_eq!(places(&stack, "late").await, [""; 0]);
    request.abort();
}

#[test]
fn a_share_group_that_is_no_name_is_refused_at_start_in_one_line() {
    let state = tempfile::tempdir().expect("a directory");
    for wrong in ["a b", "ä", &"x".repeat(64)] {
        let output = std::process::Command::new(binary("hyperfaas-provider"))
            .env("HYPERFAAS_STATE_DIR", state.path())
            .env("HYPERFAAS_SHARE", wrong)
            .env("basic_auth", "false")
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{wrong}: {output:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).expect("text");
        let about: Vec<_> = said.lines().filter(|line| line.contains("HYPERFAAS_SHARE")).collect();
        assert_eq!(about.len(), 1, "{said}");
        assert!(about[0].contains("must be at most 63 letters, digits"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Two standby containers wait and three functions ask at once: two get those, the third an owner's place; twice, so that what came
/// back serves again.
#[tokio::test]
async fn standby_containers_that_return_come_before_owners_places_and_all_serve_one_after_another()
{
    let settings = [
        ("HYPERFAAS_SHARE", "house"),
        ("HYPERFAAS_STANDBY_MIN", "2"),
        ("HYPERFAAS_STANDBY_MAX", "2"),
        ("HYPERFAAS_STANDBY_RETURN", "true"),
    ];
    let stack = stack(&settings).await;
    stack.deploy("owner", probe_http_image(), json!({})).await;
    // Not "available", which a standby container makes it too.
    let is_ready = |line: &str| {
        let owner = line.contains("\"replica reported\"") && line.contains("\"owner.openfaas-fn\"");
        owner && line.contains("\"state\":\"Ready\"")
    };
    stack
        .eventually("its own container is ready", async || stack.log().lines().any(is_ready))
        .await;
    let container = stack.containers("owner").remove(0);
    let mut users = HashSet::new();
    for round in 1..=2 {
        stack
            .eventually("its root is there, and two wait", async || {
                stack.info().await["hyperfaas"]["roots"]["ready"].as_u64() > Some(0)
                    && (pool(&stack, "ready").await, pool(&stack, "leaving").await) == (2, 0)
                    && (pool(&stack, "taken").await, pool(&stack, "starting").await) == (0, 0)
            })
            .await;
        // Names of their own: what was decided for a function that has gone is told until its last container has.
        let guests = ["one", "two", "three"].map(|name| format!("{name}-{round}"));
        for name in &guests {
            stack.deploy(name, probe_http_image(), by_default(&json!({}))).await;
        }
        let [one, two, three] = &guests;
        let told = tokio::join!(who(&stack, one), who(&stack, two), who(&stack, three));
        let mut taken = Vec::new();
        for ((user, told), name) in [told.0, told.1, told.2].into_iter().zip(&guests) {
            assert_eq!(&told, name);
            assert!(users.insert(user), "a new user each: {user}");
            taken.extend(places(&stack, name).await);
        }
        taken.sort();
        assert_eq!(taken, ["guest", "standby", "standby"]);
        assert_eq!(who(&stack, "owner").await, (1001, "owner".to_owned()));
        for name in &guests {
            stack.delete(name).await;
        }
        nothing_is_lent(&stack, &container).await;
        stack
            .eventually("two wait again", async || {
                (pool(&stack, "ready").await, pool(&stack, "leaving").await) == (2, 0)
                    && (pool(&stack, "taken").await, pool(&stack, "starting").await) == (0, 0)
            })
            .await;
    }
    assert!(stack.log().contains("standby container waits again"));
    for standby in names(&stack) {
        assert_eq!(slots(&standby), 0);
    }
    assert_eq!(stack.containers("owner"), [container]);
}

#[tokio::test]
async fn what_a_guest_uses_is_its_functions_and_not_the_owners() {
    let stack = stack(&[]).await;
    let container = owner(&stack, "owner", json!({})).await;
    stack.deploy("guest", probe_http_image(), guests_only(json!({}))).await;
    serves(&stack, "guest").await;
    let usage = async |name: &str| -> (f64, f64) {
        let path = format!("/system/function/{name}?usage=1");
        let answer = stack.system(Method::GET, &path, None).await;
        let status: Value = answer.json().await.expect("JSON");
        let number = |field: &str| status["usage"][field].as_f64().unwrap_or(0.0);
        (number("cpu"), number("totalMemoryBytes"))
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let caller = {
        let (http, is_over) = (stack.http.clone(), Arc::clone(&is_over));
        let url = stack.gateway("/function/guest/zeros?count=50000000");
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let answer = http.get(&url).send().await.expect("an answer");
                assert_eq!(answer.bytes().await.expect("a body").len(), 50_000_000);
            }
        })
    };
    stack
        .eventually("the guest's part is told", async || {
            let (cpu, memory) = usage("guest").await;
            cpu > 10.0 && memory > 100_000.0
        })
        .await;
    is_over.store(true, Ordering::Relaxed);
    caller.await.expect("every request was answered");
    let (_, guests) = usage("guest").await;
    let (_, owners) = usage("owner").await;
    assert!(guests > 100_000.0 && owners > 0.0, "{guests} {owners}");
    stack.delete("guest").await;
    nothing_is_lent(&stack, &container).await;
}
