//! A hostile guest in another function's container, and a hostile owner, through the whole product: each row of
//! `docs/security.md` that needs one. What one process can try against another is in the watchdog's own `sys::cage::tests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::sharing::{decisions, guests_only, owner, process, serves, slots, stack, who};
use crate::support::stack::{Stack, docker, probe_http_image};

/// The errors of a port that may not be reached or taken, `EACCES`.
const DENIED: &str = "error 13";

/// The port that the image's server asks for.
const UPSTREAM: u16 = 5000;

/// An owner and a guest in its container, each with a secret of its own.
struct Pair {
    stack: Stack,
    container: String,
    user: u32,
}

impl Pair {
    async fn start(settings: &[(&str, &str)], limits: Value) -> Self {
        let stack = stack(settings).await;
        for name in ["owners", "guests"] {
            let secret = json!({ "name": name, "value": format!("secret-of-{name}") });
            let answer = stack.system(Method::POST, "/system/secrets", Some(secret)).await;
            assert!(answer.status().is_success(), "{}", answer.status());
        }
        let fields = json!({
            "secrets": ["owners"], "limits": limits, "readOnlyRootFilesystem": true
        });
        let container = owner(&stack, "owner", fields).await;
        let fields = json!({ "secrets": ["guests"], "readOnlyRootFilesystem": true });
        let fields = guests_only(fields);
        stack.deploy("guest", probe_http_image(), fields).await;
        serves(&stack, "guest").await;
        let (user, _) = who(&stack, "guest").await;
        Self { stack, container, user }
    }

    async fn ask(&self, who: &str, path: &str) -> (StatusCode, String) {
        let url = self.stack.gateway(&format!("/function/{who}{path}"));
        let answer = self.stack.http.get(url).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("text"))
    }

    /// What a function says to a port of its container.
    async fn say(&self, who: &str, port: u16, bytes: &[u8]) -> String {
        let (status, text) =
            self.stack.invoke(who, &format!("/attack/say?port={port}"), bytes.to_vec()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text
    }

    /// Ports that `user`'s sockets listen on in the container.
    fn ports(&self, user: u32) -> Vec<u16> {
        let pid = process(&self.container);
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("it runs");
        let listening = table.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_it = fields[3] == "0A" && fields[7].parse() == Ok(user);
            is_it.then(|| u16::from_str_radix(fields[1].rsplit(':').next()?, 16).ok()).flatten()
        });
        listening.collect()
    }

    /// The owner serves, in the same container with the same watchdog, and is itself.
    async fn owner_serves(&self, after: &str) {
        let works =
            async || self.stack.invoke("owner", "/sleep?ms=0", "").await.0 == StatusCode::OK;
        self.stack.eventually(&format!("the owner serves after {after}"), works).await;
        assert_eq!(who(&self.stack, "owner").await, (1001, "owner".into()), "after {after}");
        assert_eq!(self.stack.containers("owner"), std::slice::from_ref(&self.container));
        let state = docker(&[
            "inspect",
            "--format",
            "{{.RestartCount}} {{.State.Running}}",
            &self.container,
        ]);
        assert_eq!(state.trim(), "0 true", "after {after}");
    }
}

/// Processes of a user on this machine.
fn processes(user: u32) -> usize {
    let mark = format!("Uid:\t{user}\t");
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let status = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("status"));
    entries.filter_map(|entry| status(entry).ok()).filter(|text| text.contains(&mark)).count()
}

#[tokio::test]
async fn neither_reads_writes_signals_nor_orders_about_what_is_the_others() {
    let pair = Pair::start(&[], json!({})).await;
    let container = &pair.container;
    // Each has its own secrets, and no way to the other's.
    for (name, own, others) in [("guest", "guests", "owners"), ("owner", "owners", "guests")] {
        let (_, listed) = pair.ask(name, "/attack/list?path=/var/openfaas/secrets").await;
        assert!(listed.contains(own) && !listed.contains(others), "{name}: {listed}");
        let (status, _) =
            pair.ask(name, &format!("/read?path=/var/openfaas/secrets/{others}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{name}");
        let (_, text) = pair.ask(name, &format!("/read?path=/var/openfaas/secrets/{own}")).await;
        assert_eq!(text, format!("secret-of-{own}"));
        let (_, reached) = pair.ask(name, "/attack/reach?path=/etc/passwd").await;
        assert_eq!(reached, "", "{name} reads through another process");
        let (_, signalled) = pair.ask(name, "/attack/signal").await;
        assert_eq!(signalled, "", "{name} may signal another process");
    }
    // Temporary files.
    for (writer, reader) in [("guest", "owner"), ("owner", "guest")] {
        let (_, written) = pair.ask(writer, &format!("/write?path=/tmp/of-{writer}")).await;
        assert_eq!(written, "written");
        let (status, _) = pair.ask(reader, &format!("/read?path=/tmp/of-{writer}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{reader} reads {writer}'s");
    }
    for place in ["/.hyperfaas/slots", "/.hyperfaas/slots/1-1/tmp"] {
        let (_, seen) = pair.ask("owner", &format!("/attack/list?path={place}")).await;
        assert!(seen.contains("ermission denied"), "{place}: {seen}");
        let (_, seen) = pair.ask("guest", &format!("/attack/list?path={place}")).await;
        assert!(seen.contains("No such file"), "{place}: {seen}");
    }
    // Ports: the owner's, the watchdog's control port; and orders and lanes with a key that is not the watchdog's.
    let owners = pair.ports(1001);
    assert!(!owners.is_empty(), "the owner listens");
    for port in owners {
        assert_eq!(
            pair.say("guest", port, b"GET /whoami HTTP/1.0\r\n\r\n").await,
            DENIED,
            "{port}"
        );
    }
    let control = hyperfaas_protocol::control::CONTROL_PORT;
    let hello =
        json!({ "version": 1, "key": "guessed", "load": true, "workers": true }).to_string();
    let order = json!({ "order": "release", "worker": 1, "epoch": 1, "grace_ms": 0 }).to_string();
    let forged = format!("{hello}\n{order}\n");
    assert_eq!(pair.say("guest", control, forged.as_bytes()).await, DENIED);
    assert_eq!(pair.say("owner", control, forged.as_bytes()).await, "connected:", "no word back");
    let greeting = hyperfaas_protocol::lane::Greeting::new(1, 1, "guessed").encode();
    let answer = pair.say("owner", control, &greeting).await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    assert_eq!(who(&pair.stack, "guest").await.0, pair.user, "nothing was ordered");
    assert!(slots(container) > 0);
    pair.owner_serves("all of it").await;
    let all = decisions(&pair.stack, "guest").await;
    assert!(all.iter().all(|one| one["action"] != "visit-failed"), "{all:#?}");
}

#[tokio::test]
async fn a_port_of_a_crashed_owner_is_not_taken_and_a_guest_leaves_nothing_behind() {
    let pair = Pair::start(&[], json!({})).await;
    let ports = pair.ports(1001);
    let (_, started) = pair.ask("guest", "/attack/daemons").await;
    assert_eq!(started, "20");
    assert!(processes(pair.user) > 20);
    let watchdogs = [8080, hyperfaas_protocol::control::CONTROL_PORT];
    let wanted: Vec<_> =
        ports.into_iter().filter(|port| *port != UPSTREAM).chain(watchdogs).collect();
    for port in &wanted {
        let (_, text) = pair.ask("guest", &format!("/attack/squat?port={port}&ms=1500")).await;
        assert_eq!(text, "squatting", "{port}");
    }
    // Both believe to have this one: the trap moves it, and what answered there before is asked no more.
    let _ = pair.ask("guest", &format!("/attack/squat?port={UPSTREAM}&ms=1500")).await;
    // It ends in the middle of the request, and is started again while the guest tries to be where it was.
    let _ = pair.stack.invoke("owner", "/exit", "").await;
    pair.owner_serves("its own crash").await;
    for _ in 0..50 {
        assert_eq!(who(&pair.stack, "owner").await, (1001, "owner".into()));
    }
    let squatted = async || {
        let path = "/system/logs?name=guest&follow=false";
        let log = pair.stack.system(Method::GET, path, None).await.text().await.expect("text");
        let lines = log.lines().filter(|line| line.contains("squatted"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    stack_eventually(&pair, async || squatted().await.len() > wanted.len()).await;
    assert!(
        squatted().await.iter().all(|line| line.contains(": 0 times")),
        "{:?}",
        squatted().await
    );

    pair.stack.delete("guest").await;
    stack_eventually(&pair, async || processes(pair.user) == 0 && slots(&pair.container) == 0)
        .await;
    pair.owner_serves("its guest").await;
}

async fn stack_eventually(pair: &Pair, is_so: impl AsyncFnMut() -> bool) {
    pair.stack.eventually("nothing is left, and nothing was taken", is_so).await;
}

#[tokio::test]
async fn a_guest_that_takes_everything_does_not_take_the_owner() {
    let pair = Pair::start(&[], json!({ "memory": "256Mi" })).await;
    let (status, told) = pair.ask("guest", "/hostile/tmp").await;
    assert!(told.contains("No space left"), "{status} {told}");
    pair.owner_serves("a full disk").await;

    let (_, told) = pair.ask("guest", "/hostile/flood").await;
    assert_eq!(told, "flooding");
    pair.owner_serves("a flooded log").await;
    let owners = docker(&["logs", "--tail", "100", &pair.container]);
    assert!(!owners.contains("xxxxxxxx"), "what a guest says is not in the owner's log");

    // It ends at its own limit, or before for the memory that it takes: sent away, or taken by the kernel.
    let (_, told) = pair.ask("guest", "/hostile/forks").await;
    let is_gone = told.is_empty() || pair.stack.log().contains("guest is sent away");
    assert!(told.contains("temporarily unavailable") || is_gone, "{told}");
    pair.owner_serves("a fork bomb").await;

    // Whoever asked gets an error, or its request is cut; the owner is not the one that the kernel takes.
    let before = docker(&["top", &pair.container, "-o", "pid,uid"]);
    let owners: Vec<_> = before.lines().filter(|line| line.ends_with("1001")).collect();
    let _ = pair.ask("guest", "/hostile/memory").await;
    pair.owner_serves("all memory taken").await;
    let after = docker(&["top", &pair.container, "-o", "pid,uid"]);
    assert!(owners.iter().all(|line| after.contains(line)), "{before}{after}");
}

/// Calls `name` with a token of its own each time; how many answers were not for it.
async fn crossed(stack: &Stack, name: &str, made: &AtomicU32) -> u32 {
    let token = format!("{name}-{}", made.fetch_add(1, Ordering::Relaxed));
    let url = stack.gateway(&format!("/function/{name}/echo"));
    let answer = stack.http.post(url).body(token.clone()).send().await.expect("an answer");
    let (status, by) = (answer.status(), answer.headers().get("x-echoed-by").cloned());
    let text = answer.text().await.expect("a body");
    assert_eq!(status, StatusCode::OK, "{name}: {text}");
    u32::from(text != token || by.is_none_or(|by| by != name))
}

/// `HYPERFAAS_SWITCHED_REQUESTS` sets how many requests are made at least; a guest comes and goes every few hundred.
#[tokio::test]
async fn no_answer_goes_to_anothers_caller_while_guests_come_and_go() {
    let least: u32 = crate::support::number("HYPERFAAS_SWITCHED_REQUESTS", 1_500);
    let stack = Arc::new(stack(&[]).await);
    let container = owner(&stack, "owner", json!({})).await;
    let (made, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let owners = {
        let (stack, made, is_over) = (Arc::clone(&stack), Arc::clone(&made), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut wrong = 0;
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    wrong += crossed(&stack, "owner", &made).await;
                }
                // Its worker is lent only while it has nothing to do.
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            wrong
        })
    };
    let (mut wrong, mut visits) = (0, 0);
    while made.load(Ordering::Relaxed) < least || visits < 4 {
        let name = ["one", "two"][visits % 2];
        stack.deploy(name, probe_http_image(), guests_only(json!({}))).await;
        let callers = (0..4).map(|_| {
            let (stack, made) = (Arc::clone(&stack), Arc::clone(&made));
            tokio::spawn(async move {
                let mut wrong = 0;
                for _ in 0..75 {
                    wrong += crossed(&stack, name, &made).await;
                }
                wrong
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            wrong += caller.await.expect("no caller failed");
        }
        // The place is taken from it while the owner is served; the next one gets it.
        stack.delete(name).await;
        visits += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    wrong += owners.await.expect("no caller failed");
    let ready = stack.log().lines().filter(|line| line.contains("\"guest is ready\"")).count();
    println!("{} requests, {visits} guests, {ready} visits", made.load(Ordering::Relaxed));
    assert_eq!(wrong, 0);
    assert!(ready >= visits, "each was a guest: {ready} of {visits}");
    assert_eq!(stack.containers("owner"), [container]);
}
