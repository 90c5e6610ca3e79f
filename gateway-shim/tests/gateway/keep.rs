//! The two stores of the queue: a directory, and a real NATS server. What holds for one is tested with both.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hyperfaas_gateway::QueueSettings;
use hyperfaas_http::config::Settings;
use tempfile::TempDir;

use crate::program::Running;

/// Makes two tests of each function: one with a directory, one with a NATS server.
macro_rules! over_both {
    ($($name:ident,)*) => {
        mod on_disk {
            $(#[tokio::test] async fn $name() { super::$name($crate::keep::Keep::disk()).await; })*
        }
        mod in_nats {
            $(#[tokio::test] async fn $name() { super::$name($crate::keep::Keep::nats()).await; })*
        }
    };
}
pub(crate) use over_both;

/// Where the queues of a test are kept.
pub(crate) enum Keep {
    Disk(TempDir),
    Nats(NatsServer),
}

impl Keep {
    pub(crate) fn disk() -> Self {
        Self::Disk(tempfile::tempdir().unwrap())
    }

    pub(crate) fn nats() -> Self {
        Self::Nats(NatsServer::start(&[]))
    }

    /// Settings of a program whose queue is called `queue`.
    pub(crate) fn variables(&self, queue: &str) -> Vec<(&'static str, String)> {
        match self {
            Self::Disk(directory) => {
                vec![("HYPERFAAS_ASYNC_DIR", directory.path().join(queue).display().to_string())]
            }
            Self::Nats(server) => server.variables(queue),
        }
    }

    /// The same for a gateway in this process.
    pub(crate) fn settings(&self, queue: &str) -> QueueSettings {
        settings(&self.variables(queue))
    }
}

/// A queue's settings as a gateway reads them.
pub(crate) fn settings(variables: &[(&'static str, String)]) -> QueueSettings {
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
    let mut settings = Settings::new(&lookup);
    let queue = hyperfaas_gateway::config::queue(&mut settings, Path::new("/nowhere"));
    settings.finish(queue).unwrap().unwrap()
}

pub(crate) fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// A real NATS server with JetStream on files of its own; ends with the test.
pub(crate) struct NatsServer {
    directory: TempDir,
    more: Vec<String>,
    address: SocketAddr,
    child: Running,
}

impl NatsServer {
    /// Starts one on a free port, with further arguments.
    pub(crate) fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let more: Vec<_> = more.iter().map(|&text| text.to_owned()).collect();
        let (child, address) = run(directory.path(), &more, "-1");
        Self { directory, more, address, child }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Starts it again, with the same files, on the same port.
    pub(crate) fn restart(&mut self) {
        let port = self.address.port().to_string();
        (self.child, self.address) = run(self.directory.path(), &self.more, &port);
    }

    pub(crate) fn variables(&self, queue: &str) -> Vec<(&'static str, String)> {
        vec![
            ("HYPERFAAS_ASYNC_DIR", "/nowhere".to_owned()),
            ("HYPERFAAS_NATS_URL", format!("nats://{}", self.address)),
            ("HYPERFAAS_NATS_STREAM", queue.to_owned()),
            ("HYPERFAAS_NATS_ACK_WAIT", "1s".to_owned()),
            // The server reserves what a stream may take.
            ("HYPERFAAS_ASYNC_BYTES_MAX", (64 << 20).to_string()),
        ]
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

fn run(directory: &Path, more: &[String], port: &str) -> (Running, SocketAddr) {
    let child = Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", port, "-js", "-sd"])
        .arg(directory.join("store"))
        .arg("--ports_file_dir")
        .arg(directory)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect(
            "these tests need nats-server: scripts/ensure.sh tests, or apt-get install nats-server",
        );
    let mut child = Running(child);
    let ports = directory.join(format!("nats-server_{}.ports", child.0.id()));
    // For at least half a minute.
    for _ in 0..6000 {
        let text = std::fs::read_to_string(&ports).unwrap_or_default();
        // The file may be there before all of it is written.
        if let Ok(ports) = serde_json::from_str::<serde_json::Value>(&text) {
            let url = ports["nats"][0].as_str().unwrap();
            return (child, url.rsplit_once('/').unwrap().1.parse().unwrap());
        }
        assert_eq!(child.0.try_wait().unwrap(), None, "nats-server ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nats-server does not start");
}
