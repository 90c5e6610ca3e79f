//! The programs under test: a provider with the gateway in its process, a gateway of its own; started on free ports.
//!
//! Touches: processes, which end when this is dropped; temporary state. Programs are looked for in HYPERFAAS_BIN_DIR, else beside
//! this program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::corner::Corner;
use crate::failure::{During, Result, failed};
use crate::load::Target;

/// How long anything may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is not announced.
const POLL: Duration = Duration::from_millis(20);
/// The setting that makes the gateway in the provider's process serve its metrics.
pub(crate) const METRICS_PORT: &str = "HYPERFAAS_GATEWAY_METRICS_PORT";
/// Lines of a program's log that are kept for error texts.
const LINES_KEPT: usize = 200;

/// One of our programs, running.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

impl Program {
    /// Starts `name` with these variables and no others.
    pub(crate) fn start(name: &str, variables: &[(String, String)]) -> Result<Self> {
        let mut child = Command::new(binary(name)?)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .during(format!("starting {name}"))?;
        let Some(stderr) = child.stderr.take() else { return failed("no pipe for a log") };
        let (sender, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log: &mut Vec<String>| {
                    if log.len() < LINES_KEPT {
                        log.push(line);
                    }
                });
            }
        });
        Ok(Self { child, log })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The address in the JSON log line `message`, once it is there.
    async fn listening(&mut self, message: &str) -> Result<SocketAddr> {
        let find = |log: &Vec<String>| {
            log.iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == message).then(|| line["address"].as_str()?.parse().ok())?
            })
        };
        let waited = timeout(PATIENCE, self.log.wait_for(|log| find(log).is_some())).await;
        let found = waited.ok().and_then(Result::ok).and_then(|log| find(&log));
        match found {
            Some(address) => Ok(address),
            None => failed(format!("never {message:?}: {}", self.log.borrow().join("\n"))),
        }
    }
}

impl Drop for Program {
    /// Ends it and waits for its end: a provider that still runs would start again what is being removed.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A provider with a gateway in its process, for one corner.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The provider.
    pub(crate) provider: Program,
    /// Its own API, functions too.
    pub(crate) provider_address: SocketAddr,
    /// The gateway in its process.
    pub(crate) gateway_address: SocketAddr,
    /// The gateway's metrics, if `HYPERFAAS_GATEWAY_METRICS_PORT` was set.
    pub(crate) metrics_address: Option<SocketAddr>,
    http: reqwest::Client,
    _state: TempDir,
}

impl Stack {
    /// Starts one with further settings.
    pub(crate) async fn start(corner: &Corner, settings: &[(&str, &str)]) -> Result<Self> {
        let state = tempfile::tempdir().during("making a folder")?;
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut variables = vec![
            own("port", "0"),
            own("HYPERFAAS_GATEWAY_PORT", "0"),
            own("HYPERFAAS_ADDRESS", "0.0.0.0"),
            own("HYPERFAAS_STATE_DIR", &state.path().display().to_string()),
            own("HYPERFAAS_INSTALLATION", corner.name()),
            own("HYPERFAAS_NETWORK", corner.name()),
            own("HYPERFAAS_LOG_FORMAT", "json"),
            own("HYPERFAAS_MAX_REPLICAS", "100"),
        ];
        variables.extend(settings.iter().map(|(k, v)| own(k, v)));
        let mut provider = Program::start("hyperfaas-provider", &variables)?;
        let local = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
        let provider_address = local(provider.listening("provider listening").await?);
        let gateway_address = local(provider.listening("gateway listening").await?);
        let metrics_address = match settings.iter().any(|(key, _)| *key == METRICS_PORT) {
            true => Some(local(provider.listening("gateway metrics listening").await?)),
            false => None,
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .during("making a client")?;
        Ok(Self {
            provider,
            provider_address,
            gateway_address,
            metrics_address,
            http,
            _state: state,
        })
    }

    /// A gateway as its own process in front of this provider, and where it listens.
    pub(crate) async fn gateway(&self) -> Result<(Program, SocketAddr)> {
        let variables = [
            ("port", "0".to_owned()),
            ("bind_address", "127.0.0.1".to_owned()),
            ("metrics_port", "off".to_owned()),
            ("functions_provider_url", format!("http://{}/", self.provider_address)),
            ("HYPERFAAS_LOG_FORMAT", "json".to_owned()),
        ];
        let variables = variables.map(|(key, value)| (key.to_owned(), value));
        let mut gateway = Program::start("hyperfaas-gateway", &variables)?;
        let address = gateway.listening("gateway listening").await?;
        Ok((gateway, address))
    }

    /// Deploys `image` as `name`, with further fields of the deployment.
    pub(crate) async fn deploy(&self, name: &str, image: &str, fields: Value) -> Result<()> {
        let mut body = json!({ "service": name, "image": image });
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
            body.extend(fields);
        }
        self.system(Method::POST, "/system/functions", body).await
    }

    /// Asks for so many replicas.
    pub(crate) async fn scale(&self, name: &str, replicas: u32) -> Result<()> {
        let body = json!({ "serviceName": name, "replicas": replicas });
        self.system(Method::POST, &format!("/system/scale-function/{name}"), body).await
    }

    async fn system(&self, method: Method, path: &str, body: Value) -> Result<()> {
        let url = format!("http://{}{path}", self.provider_address);
        let sent = self.http.request(method, url).body(body.to_string()).send().await;
        let answer = sent.during(format!("calling {path}"))?;
        let status = answer.status();
        if status != StatusCode::ACCEPTED && status != StatusCode::OK {
            let text = answer.text().await.unwrap_or_default();
            return failed(format!("{path} answered {status}: {}", text.trim()));
        }
        Ok(())
    }

    /// `(replicas, availableReplicas)` of `name`.
    pub(crate) async fn replicas(&self, name: &str) -> Result<(u64, u64)> {
        let url = format!("http://{}/system/function/{name}", self.provider_address);
        let what = || format!("reading the status of {name}");
        let answer = self.http.get(url).send().await.during(what())?;
        let status = answer.text().await.during(what())?;
        let status: Value = serde_json::from_str(&status).during(what())?;
        let count = |field: &str| status[field].as_u64().unwrap_or_default();
        Ok((count("replicas"), count("availableReplicas")))
    }

    /// Whether the provider scales by load at all: then it explains its decisions.
    pub(crate) async fn explains(&self, name: &str) -> Result<bool> {
        Ok(self.explained(name).await?.status().is_success())
    }

    /// What has been decided on `name`, oldest first.
    pub(crate) async fn decisions(&self, name: &str) -> Result<Vec<String>> {
        let what = || format!("reading the decisions on {name}");
        let text = self.explained(name).await?.text().await.during(what())?;
        let list: Vec<Value> = serde_json::from_str(&text).during(what())?;
        Ok(list.iter().filter_map(|one| Some(one["action"].as_str()?.to_owned())).collect())
    }

    async fn explained(&self, name: &str) -> Result<reqwest::Response> {
        let path = format!("/system/hyperfaas/functions/{name}/decisions");
        let url = format!("http://{}{path}", self.provider_address);
        self.http.get(url).send().await.during(format!("calling {path}"))
    }

    /// Waits until `name` has `available` replicas that can answer.
    pub(crate) async fn until_available(&self, name: &str, available: u64) -> Result<()> {
        until(format!("{name} has {available} replicas"), async || {
            Ok(self.replicas(name).await?.1 == available)
        })
        .await
    }

    /// Whether no standby container serves, starts or leaves; so too when there are none at all.
    pub(crate) async fn is_standby_settled(&self) -> Result<bool> {
        let url = format!("http://{}/metrics", self.provider_address);
        let answer = self.http.get(url).send().await.during("reading the provider's metrics")?;
        let text = answer.text().await.during("reading the provider's metrics")?;
        let counts = text.lines().filter(|line| line.starts_with("hyperfaas_standby_containers{"));
        let waits = |line: &&str| line.contains("\"ready\"") || line.contains("\"held\"");
        let mut busy = counts.filter(|line| !waits(line) && !line.ends_with(" 0"));
        Ok(busy.next().is_none())
    }

    /// Where calls of `name` go, through the gateway in the provider's process.
    pub(crate) fn function(&self, name: &str, query: &str) -> Target {
        get(self.gateway_address, &format!("/function/{name}{query}"))
    }
}

/// Waits until `is_so`, at most [`PATIENCE`].
pub(crate) async fn until(
    what: String,
    mut is_so: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let wait = async {
        while !is_so().await? {
            sleep(POLL).await;
        }
        Ok(())
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| failed(format!("never true: {what}")))
}

/// A GET of `path` at `address`.
pub(crate) fn get(address: SocketAddr, path: &str) -> Target {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    Target::new(address, request.into_bytes())
}

/// A POST of a few bytes to `path` at `address`.
pub(crate) fn post(address: SocketAddr, path: &str) -> Target {
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5\r\n\r\nhello");
    Target::new(address, request.into_bytes())
}

/// The path of one of our programs.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("HYPERFAAS_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().during("finding this program")?;
            own.parent().map(ToOwned::to_owned).unwrap_or_default()
        }
    };
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    failed(format!("{} is missing: run `make build` first", path.display()))
}
