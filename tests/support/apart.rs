//! A gateway in a process of its own, in front of a stack's provider over HTTP, as the compose file runs them.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::stack::{PATIENCE, Stack, binary};

/// A running gateway; dropping it ends it.
pub(crate) struct Apart {
    _child: Child,
    url: String,
}

impl Apart {
    /// Starts one in front of `stack` with further settings, and waits until it listens.
    pub(crate) async fn start(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary("hyperfaas-gateway"))
            .env_clear()
            .env("functions_provider_url", stack.provider("/"))
            .env("bind_address", "127.0.0.1")
            .env("port", "0")
            .env("metrics_port", "0")
            .env("basic_auth", "true")
            .env("secret_mount_path", stack.secrets())
            .env("HYPERFAAS_ASYNC_DIR", "off")
            .env("HYPERFAAS_LOG_FORMAT", "json")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway's binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.expect("readable").expect("it listens");
                let line: Value = serde_json::from_str(&line).expect("JSON");
                if line["message"] == "gateway listening" {
                    break format!("http://{}", line["address"].as_str().expect("an address"));
                }
            }
        };
        let url = timeout(PATIENCE, listening).await.expect("it listens in time");
        // Somebody has to read on, or it could block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _child: child, url }
    }

    /// Its URL with `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}
