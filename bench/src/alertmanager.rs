//! OpenFaaS' own autoscaling as it is shipped: Prometheus with its rule, Alertmanager, and the gateway's `/system/alert`.
//!
//! In: the gateway's addresses. Out: two programs that do the rest. The intervals are those of OpenFaaS' charts: scrape 5 s, rule
//! `> 5 calls a second for 5 s`, group wait 5 s, repeat 30 s.
//! Touches: processes, temporary files, two free ports. Programs: Debian's `prometheus` and `prometheus-alertmanager`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::failure::{During, Result, failed};
use crate::hops::answers;
use crate::stack::get;

const RULES: &str = r#"groups:
  - name: load
    rules:
      - alert: APIHighInvocationRate
        expr: sum(rate(gateway_function_invocation_total{code="200"}[10s])) BY (function_name) > 5
        for: 5s
        labels: { service: gateway, severity: major }
"#;

/// Both programs.
#[derive(Debug)]
pub(crate) struct Alerting {
    _programs: [Child; 2],
    _state: TempDir,
}

impl Alerting {
    /// Starts both for a gateway and its metrics; `folder` holds the programs, else they are on the path.
    pub(crate) async fn start(
        gateway: SocketAddr,
        metrics: SocketAddr,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let state = tempfile::tempdir().during("making a folder")?;
        let (prometheus, alertmanager) = (free_port()?, free_port()?);
        let path = |name: &str| state.path().join(name).display().to_string();
        let settings = format!(
            "global: {{ scrape_interval: 15s, evaluation_interval: 15s }}\nrule_files: [ {} ]\n\
             alerting: {{ alertmanagers: [ static_configs: [ targets: [ '127.0.0.1:{alertmanager}' ] ] ] }}\n\
             scrape_configs:\n  - job_name: gateway\n    scrape_interval: 5s\n    static_configs: [ targets: [ '{metrics}' ] ]\n",
            path("rules.yml")
        );
        let route = format!(
            "route: {{ group_by: [ alertname, cluster, service ], group_wait: 5s, group_interval: 10s, \
             repeat_interval: 30s, receiver: scale-up }}\nreceivers:\n  - name: scale-up\n    webhook_configs:\n\
             \x20     - {{ url: 'http://{gateway}/system/alert', send_resolved: true }}\n"
        );
        let files =
            [("rules.yml", RULES), ("prometheus.yml", &settings), ("alertmanager.yml", &route)];
        for (file, text) in files {
            std::fs::write(state.path().join(file), text).during(format!("writing {file}"))?;
        }
        let programs = [
            start(
                folder,
                "prometheus",
                &[
                    format!("--config.file={}", path("prometheus.yml")),
                    format!("--storage.tsdb.path={}", path("tsdb")),
                    format!("--web.listen-address=127.0.0.1:{prometheus}"),
                ],
            )?,
            start(
                folder,
                "prometheus-alertmanager",
                &[
                    format!("--config.file={}", path("alertmanager.yml")),
                    format!("--storage.path={}", path("alerts")),
                    format!("--web.listen-address=127.0.0.1:{alertmanager}"),
                    "--cluster.listen-address=".to_owned(),
                ],
            )?,
        ];
        for port in [prometheus, alertmanager] {
            answers(&get(([127, 0, 0, 1], port).into(), "/-/ready")).await?;
        }
        Ok(Self { _programs: programs, _state: state })
    }
}

fn start(folder: Option<&Path>, name: &str, arguments: &[String]) -> Result<Child> {
    let program = folder.map_or_else(|| Path::new(name).to_owned(), |folder| folder.join(name));
    let started = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    started.during(format!(
        "starting {name} (Debian: apt-get install prometheus prometheus-alertmanager)"
    ))
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").during("finding a free port")?;
    Ok(listener.local_addr().during("reading a port")?.port())
}

/// Whether the gateway takes alerts at all.
pub(crate) async fn check(gateway: SocketAddr) -> Result<()> {
    let url = format!("http://{gateway}/system/alert");
    let client = reqwest::Client::builder().no_proxy().build().during("making a client")?;
    let body = r#"{"receiver":"scale-up","status":"firing","alerts":[]}"#;
    let answer = client.post(url).body(body).send().await.during("calling /system/alert")?;
    if answer.status().is_success() {
        return Ok(());
    }
    failed(format!("the gateway answers /system/alert with {}", answer.status()))
}
