//! Standby containers on the page: those that wait, and the one that serves a function, with its name.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::stack::{Stack, probe_http_image};

const SIZES: [(u32, u32); 2] = [(1440, 1000), (390, 844)];

#[tokio::test]
async fn standby_containers_are_drawn_with_the_function_that_they_serve() {
    let stack =
        Stack::start_with(&[("HYPERFAAS_SLOTS", "true"), ("HYPERFAAS_SCALE_COOL", "2s")]).await;
    assert_eq!(stack.info().await["hyperfaas"]["abilities"]["standby"]["on"], true);
    let browser = Browser::start().await;
    browser.open(&stack.page()).await;
    let places = |what: &str| format!("document.querySelectorAll('.container{what}').length");
    let waiting = places("[data-place=standby][data-phase=ready]");
    browser.until(&format!("{waiting} >= 1")).await;
    let roles = "return [...document.querySelectorAll('.container .worker')].every((w) => w.dataset.role === 'generic')";
    assert_eq!(browser.run(roles).await, json!(true), "nobody has a worker of theirs yet");

    stack.deploy("f", probe_http_image(), json!({})).await;
    stack.available("f", 1).await;
    stack
        .eventually("its root is there", async || {
            stack.info().await["hyperfaas"]["roots"]["ready"] == 1
        })
        .await;
    stack.scale("f", 0).await;
    stack.eventually("it is at zero", async || stack.containers("f").is_empty()).await;
    browser.until(&format!("{waiting} >= 1")).await;

    // The call holds its place for as long as it takes to look at it from all sides.
    let held = stack.http.get(stack.gateway("/function/f/sleep?ms=80000")).send();
    let held = tokio::spawn(held);
    let serves = "[...document.querySelectorAll('.container[data-place=standby]')].some((c) => c.querySelector('[data-role=guest] b')?.textContent === 'f.openfaas-fn' && c.textContent.includes('serves f.openfaas-fn'))";
    browser.until(serves).await;
    picture(&browser, "overview").await;
    browser.click("//nav/a[.='System']").await;
    browser.until(serves).await;
    browser.click("//nav/a[.='Functions']").await;
    browser.click("//table//a[.='f']").await;
    let visit = "document.querySelector('.container[data-place=standby] [data-role=guest] b')?.textContent === 'f.openfaas-fn'";
    browser.until(visit).await;
    picture(&browser, "function").await;
    assert!(!held.is_finished(), "it was served there all the time");
    held.abort();
    browser.until(&format!("{} === 0", places("[data-place=standby]"))).await;
    assert_eq!(browser.console().await, Vec::<serde_json::Value>::new(), "the console stays empty");
}

/// Nothing sticks out sideways, and pictures are kept for whoever wants to look.
async fn picture(browser: &Browser, name: &str) {
    for (size, theme) in SIZES.into_iter().flat_map(|size| [(size, "light"), (size, "dark")]) {
        browser.look(size, theme).await;
        browser.until(&format!("innerWidth === {}", size.0)).await;
        let wide = browser.run("return document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64().unwrap() <= 0, "{name} {size:?}: {wide} pixels too wide");
        let file = format!("pool-{name}-{}-{theme}.png", size.0);
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        std::fs::write(path, browser.screenshot().await).unwrap();
    }
    browser.look(SIZES[0], "light").await;
}
