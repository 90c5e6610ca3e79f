//! A provider with its gateway in the same process, started as a user would, on free ports and its own containers.
//!
//! Each stack has its own installation name, network and state, so that tests run side by side on one engine. Dropping it
//! ends the process and removes every container, volume and network it made, whether the test passed or not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// How long anything on a busy two-core machine may take before a test calls it failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The user of the stacks' basic auth.
const USER: &str = "admin";
/// The password of the stacks' basic auth.
const PASSWORD: &str = "correct horse battery staple";

/// A running provider and gateway.
pub(crate) struct Stack {
    child: Option<Child>,
    directory: TempDir,
    installation: String,
    settings: Vec<(String, String)>,
    provider: String,
    gateway: String,
    log: watch::Receiver<Vec<String>>,
    /// Keeps connections alive between requests, as callers do.
    pub(crate) http: reqwest::Client,
}

impl Stack {
    /// Starts a stack and waits until both servers listen.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a stack with further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("basic-auth-user"), USER).expect("written");
        std::fs::write(directory.path().join("basic-auth-password"), PASSWORD).expect("written");
        let http =
            reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
        let mut stack = Self {
            child: None,
            directory,
            installation: new_installation(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            provider: String::new(),
            gateway: String::new(),
            log: watch::channel(Vec::new()).1,
            http,
        };
        stack.spawn().await;
        stack
    }

    /// Starts the provider (again) on its kept state.
    pub(crate) async fn spawn(&mut self) {
        let state = self.directory.path().join("state");
        let mut child = AsyncCommand::new(binary("hyperfaas-provider"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("port", "0")
            .env("HYPERFAAS_GATEWAY_PORT", "0")
            .env("HYPERFAAS_ADDRESS", "127.0.0.1")
            .env("HYPERFAAS_STATE_DIR", &state)
            .env("HYPERFAAS_INSTALLATION", &self.installation)
            .env("HYPERFAAS_NETWORK", &self.installation)
            .env("HYPERFAAS_LOG_FORMAT", "json")
            .env("HYPERFAAS_STOP_GRACE", "5s")
            .env("RUST_LOG", "info,hyperfaas_provider=debug")
            .env("basic_auth", "true")
            .env("secret_mount_path", self.directory.path())
            .envs(self.settings.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the provider's binary starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log: &mut Vec<String>| log.push(line));
            }
        });
        self.child = Some(child);
        self.log = log;
        self.provider = format!("http://{}", self.logged("provider listening", "address").await);
        self.gateway = format!("http://{}", self.logged("gateway listening", "address").await);
    }

    /// Waits for the log line `message` and returns its `field`.
    pub(crate) async fn logged(&mut self, message: &str, field: &str) -> String {
        let find = |log: &Vec<String>| {
            log.iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == message)
                    .then(|| line[field].as_str().unwrap_or_default().to_owned())
            })
        };
        let found = timeout(PATIENCE, self.log.wait_for(|log| find(log).is_some()))
            .await
            .map(|r| r.map(|log| find(&log)));
        match found {
            Ok(Ok(Some(value))) => value,
            _ => panic!("the provider never logged {message:?}; its log:\n{}", self.log()),
        }
    }

    /// Everything the provider has logged.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("the provider runs");
        child.kill().await.expect("killed");
    }

    /// SIGTERM; returns whether it exited with success.
    pub(crate) async fn terminate(&mut self) -> bool {
        let mut child = self.child.take().expect("the provider runs");
        let pid = child.id().expect("it runs").to_string();
        assert!(Command::new("kill").arg(pid).status().expect("kill runs").success());
        timeout(PATIENCE, child.wait()).await.expect("it ends").expect("awaited").success()
    }

    /// The name that everything this stack makes carries.
    pub(crate) fn installation(&self) -> &str {
        &self.installation
    }

    /// The provider's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("the provider runs")
    }

    /// The gateway's URL with `path`.
    pub(crate) fn gateway(&self, path: &str) -> String {
        format!("{}{path}", self.gateway)
    }

    /// The page's URL, with the right password in it.
    pub(crate) fn page(&self) -> String {
        let place = self.gateway.trim_start_matches("http://");
        format!("http://{USER}:{}@{place}/ui/", PASSWORD.replace(' ', "%20"))
    }

    /// Where the files with the user and the password are.
    pub(crate) fn secrets(&self) -> &Path {
        self.directory.path()
    }

    /// From now on the provider listens where it listens now, also when it is started again.
    pub(crate) fn stay(&mut self) {
        let port = self.provider.rsplit(':').next().expect("a port").to_owned();
        self.settings.push(("port".to_owned(), port));
    }

    /// The provider's URL with `path`.
    pub(crate) fn provider(&self, path: &str) -> String {
        format!("{}{path}", self.provider)
    }

    /// A management call through the gateway, with the right password.
    pub(crate) async fn system(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request =
            self.http.request(method, self.gateway(path)).basic_auth(USER, Some(PASSWORD));
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.expect("an answer")
    }

    /// What the provider tells of itself.
    pub(crate) async fn info(&self) -> Value {
        self.ask_provider("/system/info").await.json().await.expect("JSON")
    }

    /// Asks the provider itself, with the right password.
    pub(crate) async fn ask_provider(&self, path: &str) -> Response {
        let request = self.http.get(self.provider(path)).basic_auth(USER, Some(PASSWORD));
        request.send().await.expect("an answer")
    }

    /// Deploys `image` under `name` with further fields of a deployment.
    pub(crate) async fn deploy(&self, name: &str, image: &str, fields: Value) {
        let answer = self
            .system(Method::POST, "/system/functions", Some(deployment(name, image, fields)))
            .await;
        let status = answer.status();
        assert_eq!(status, StatusCode::ACCEPTED, "{}", answer.text().await.unwrap_or_default());
    }

    /// Updates `name`.
    pub(crate) async fn update(&self, name: &str, image: &str, fields: Value) {
        let answer = self
            .system(Method::PUT, "/system/functions", Some(deployment(name, image, fields)))
            .await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }

    /// Deletes `name`.
    pub(crate) async fn delete(&self, name: &str) {
        let body = json!({ "functionName": name });
        let answer = self.system(Method::DELETE, "/system/functions", Some(body)).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }

    /// Scales `name`.
    pub(crate) async fn scale(&self, name: &str, replicas: u32) {
        let body = json!({ "serviceName": name, "replicas": replicas });
        let answer =
            self.system(Method::POST, &format!("/system/scale-function/{name}"), Some(body)).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }

    /// The status of `name`.
    pub(crate) async fn status(&self, name: &str) -> Value {
        let answer = self.system(Method::GET, &format!("/system/function/{name}"), None).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json().await.expect("JSON")
    }

    /// Waits until `name` has exactly `count` replicas able to answer.
    pub(crate) async fn available(&self, name: &str, count: u64) {
        self.eventually(&format!("{name} has {count} available"), async || {
            self.status(name).await["availableReplicas"] == count
        })
        .await;
    }

    /// Calls `name` through the gateway.
    pub(crate) async fn invoke(
        &self,
        name: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, String) {
        let request = self.http.post(self.gateway(&format!("/function/{name}{path}"))).body(body);
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a body"))
    }

    /// Waits until `is_so`; panics with the provider's log when that takes too long.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !is_so().await {
                sleep(Duration::from_millis(25)).await; // polls a condition that nothing announces
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("never true: {what}; the provider's log:\n{}", self.log());
        }
    }

    /// The ids of this stack's containers of `name`, running or not.
    pub(crate) fn containers(&self, name: &str) -> Vec<String> {
        let filter = |label: &str, value: &str| {
            ["--filter".to_owned(), format!("label=com.hyperfaas.{label}={value}")]
        };
        let mut arguments = vec!["ps".to_owned(), "-aq".to_owned(), "--no-trunc".to_owned()];
        arguments.extend(filter("installation", &self.installation));
        arguments.extend(filter("function", name));
        docker(&arguments).split_whitespace().map(ToOwned::to_owned).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the provider's log:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.start_kill();
        }
        let label = format!("label=com.hyperfaas.installation={}", self.installation);
        for (list, remove) in [
            (vec!["ps", "-aq"], vec!["rm", "-fv"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm", "-f"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
        ] {
            let listed = Command::new("docker").args(&list).args(["--filter", &label]).output();
            let ids =
                listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            if !ids.trim().is_empty() {
                let _ = Command::new("docker").args(&remove).args(ids.split_whitespace()).output();
            }
        }
    }
}

/// A name of its own, with the run of the tests in it: what the engine still makes for a provider that was killed comes after the
/// test has cleaned up, and is removed with all of the run's at its end.
fn new_installation() -> String {
    let run = std::env::var("HYPERFAAS_TEST_RUN").unwrap_or_default();
    format!("test-{run}{}", &Uuid::new_v4().simple().to_string()[..10])
}

/// `request` with the stacks' user and password.
pub(crate) fn basic_auth(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.basic_auth(USER, Some(PASSWORD))
}

fn deployment(name: &str, image: &str, fields: Value) -> Value {
    let mut body = json!({ "service": name, "image": image });
    if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
        body.extend(fields);
    }
    body
}

/// Runs docker's command line; panics when it fails.
pub(crate) fn docker<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> String {
    try_docker(arguments).unwrap_or_else(|error| panic!("docker failed: {error}"))
}

/// The same; what it says where it fails, as for a container that has just gone.
pub(crate) fn try_docker<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Result<String, String> {
    let output = Command::new("docker").args(arguments).output().expect("the docker command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// One of the workspace's programs, built beside this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let directory = match std::env::var_os("HYPERFAAS_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe().expect("this test has a path");
            test.ancestors().nth(2).expect("tests run from the build's deps folder").to_owned()
        }
    };
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// The image of the probe, built once a run: a scratch image with nothing but the program.
pub(crate) fn probe_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        build_image(
            "probe",
            "FROM scratch\nCOPY probe /probe\nUSER 12345:54321\nENTRYPOINT [\"/probe\"]\n",
        )
    })
}

/// The probe behind watchdog mode `http`, with a named user, as templates have it.
pub(crate) fn probe_http_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        build_image(
            "probe-http",
            "FROM scratch\nCOPY probe /home/app/probe\nCOPY passwd /etc/passwd\nCOPY group /etc/group\nUSER app\n\
             WORKDIR /home/app\nENV mode=http upstream_url=http://127.0.0.1:5000 fprocess=./probe PROBE_PORT=5000\n\
             CMD [\"fwatchdog\"]\n",
        )
    })
}

/// The probe in an image that names no user.
pub(crate) fn probe_root_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        build_image("probe-root", "FROM scratch\nCOPY probe /probe\nENTRYPOINT [\"/probe\"]\n")
    })
}

fn build_image(name: &str, dockerfile: &str) -> String {
    let context = tempfile::tempdir().expect("a temporary directory");
    let files: HashMap<&str, &str> = HashMap::from([
        ("Dockerfile", dockerfile),
        ("passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002:app:/home/app:/bin/sh\n"),
        ("group", "root:x:0:\napp:x:1002:\nextra:x:1003:app\n"),
    ]);
    for (file, text) in files {
        std::fs::write(context.path().join(file), text).expect("written");
    }
    std::fs::copy(Path::new(env!("CARGO_BIN_EXE_probe")), context.path().join("probe"))
        .expect("copied");
    let tag = format!("hyperfaas-test/{name}:latest");
    let context = context.path().to_str().expect("a readable path");
    let output = Command::new("docker")
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", "-q", "--label", "com.hyperfaas.test=true", "-t", &tag, context])
        .output()
        .expect("the docker command runs");
    assert!(
        output.status.success(),
        "docker build failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    tag
}
