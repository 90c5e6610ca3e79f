//! A real browser without a window: Debian's Chromium behind its ChromeDriver, by the W3C's WebDriver protocol.
//!
//! Each browser has a profile and a process group of its own; dropping it ends all of its processes.

use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use super::stack::PATIENCE;

/// The key under which WebDriver names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// What ChromeDriver says once it listens, before the port.
const STARTED: &str = "started successfully on port ";

/// Keys as WebDriver names them.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";

/// One browser at a time: each takes all processors for seconds.
static TURN: Semaphore = Semaphore::const_new(1);

/// A running browser with one page.
pub(crate) struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Browser {
    /// Starts one, once there is no other.
    pub(crate) async fn start() -> Self {
        let turn = TURN.acquire().await.expect("never closed");
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut driver = AsyncCommand::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", profile.path())
            .env("HOME", profile.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts; scripts/ensure.sh installs it");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("readable").expect("it says its port");
            if let Some((_, port)) = line.split_once(STARTED) {
                break port.trim_end_matches('.').to_owned();
            }
        };
        // Somebody has to read on, or it could block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http =
            reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, http, session, _profile: profile, _turn: turn };
        // Tests may run as root, where Chromium's own sandbox does not; it opens nothing but the gateway under test.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--window-size=1440,1000",
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let answer = browser.send(Method::POST, "", Some(wanted)).await;
        let id = answer["sessionId"].as_str().expect("a session");
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("the driver answers");
        let status = answer.status();
        let mut answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].take()
    }

    /// Opens `url` and waits until it has loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.send(Method::POST, "/url", Some(json!({ "url": url }))).await;
    }

    /// Runs `script`; what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.send(Method::POST, "/execute/sync", Some(body)).await
    }

    /// Waits until `expression` is true; panics with the page's text when that takes too long.
    pub(crate) async fn until(&self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.run(&format!("return Boolean({expression})")).await != json!(true) {
            if Instant::now() >= end {
                let text = self.run("return document.body.innerText").await;
                panic!("never true: {expression}; the page says:\n{text}");
            }
            sleep(Duration::from_millis(50)).await; // polls a condition that nothing announces
        }
    }

    /// The element at `xpath`, once it is there.
    async fn element(&self, xpath: &str) -> String {
        let quoted = Value::from(xpath).to_string();
        self.until(&format!(
            "document.evaluate({quoted}, document, null, 9, null).singleNodeValue"
        ))
        .await;
        let body = json!({ "using": "xpath", "value": xpath });
        let element = self.send(Method::POST, "/element", Some(body)).await;
        element[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// Clicks on the element at `xpath` as a pointer does: it must be visible and uncovered.
    pub(crate) async fn click(&self, xpath: &str) {
        let element = self.element(xpath).await;
        self.send(Method::POST, &format!("/element/{element}/click"), Some(json!({}))).await;
    }

    /// Types `text` into the element at `xpath`.
    pub(crate) async fn fill(&self, xpath: &str, text: &str) {
        let element = self.element(xpath).await;
        let body = json!({ "text": text });
        self.send(Method::POST, &format!("/element/{element}/value"), Some(body)).await;
    }

    /// Presses the keys of `text`, one after the other, wherever the focus is.
    pub(crate) async fn press(&self, text: &str) {
        let keys = text.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let keys: Vec<_> = keys.collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] });
        self.send(Method::POST, "/actions", Some(actions)).await;
    }

    /// Moves the focus on by the tab key until it is on what `expression` is true of, called `it`.
    pub(crate) async fn tab_to(&self, expression: &str) {
        for _ in 0..40 {
            self.press(TAB).await;
            let is_there =
                format!("const it = document.activeElement; return Boolean({expression})");
            if self.run(&is_there).await == json!(true) {
                return;
            }
        }
        panic!("the tab key does not lead to {expression}");
    }

    /// Sets the window's size in CSS pixels, and which theme the system is said to have.
    pub(crate) async fn look(&self, (width, height): (u32, u32), theme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        for (command, parameters) in
            [("Emulation.setDeviceMetricsOverride", size), ("Emulation.setEmulatedMedia", features)]
        {
            let body = json!({ "cmd": command, "params": parameters });
            self.send(Method::POST, "/goog/cdp/execute", Some(body)).await;
        }
    }

    /// Lets loads of URLs that match one of `patterns` fail from now on, and no others.
    pub(crate) async fn block(&self, patterns: &[&str]) {
        for (command, parameters) in
            [("Network.enable", json!({})), ("Network.setBlockedURLs", json!({ "urls": patterns }))]
        {
            let body = json!({ "cmd": command, "params": parameters });
            self.send(Method::POST, "/goog/cdp/execute", Some(body)).await;
        }
    }

    /// What is to be seen, as a PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        let image = self.send(Method::GET, "/screenshot", None).await;
        STANDARD.decode(image.as_str().expect("text")).expect("base64")
    }

    /// What the console has been told since the last call, errors and broken policies among it; without what Chromium says of
    /// loads that it gave up because an address of the host came or went, as with every container network: the page loads again.
    pub(crate) async fn console(&self) -> Vec<Value> {
        let lines = self.send(Method::POST, "/se/log", Some(json!({ "type": "browser" }))).await;
        let is_the_hosts = |line: &Value| {
            line["message"].as_str().is_some_and(|text| text.contains("net::ERR_NETWORK_CHANGED"))
        };
        let all = lines.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|line| !is_the_hosts(line)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(id) = self.driver.id() {
            // The driver's whole group: the browser's processes would outlive it.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).status();
        }
    }
}
