//! A watchdog as a real process, a plain HTTP client, and upstreams on loopback.
//!
//! The binary is ours unless `WATCHDOG_UNDER_TEST` names another one, such as one of the originals. Those tell neither the
//! port they picked nor let the metrics port be chosen, so they need `--test-threads=1`.

mod client;
pub(crate) mod lane;
pub(crate) mod tokens;
mod upstream;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Client};
pub(crate) use upstream::Upstream;

/// Longest any step of a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running watchdog; killed when dropped.
pub(crate) struct Watchdog {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stdout: Arc<Mutex<Vec<u8>>>,
    port: u16,
    directory: tempfile::TempDir,
}

/// The path of the binary under test, and whether it is ours.
pub(crate) fn binary() -> (PathBuf, bool) {
    match std::env::var_os("WATCHDOG_UNDER_TEST") {
        Some(path) => (path.into(), false),
        None => (env!("CARGO_BIN_EXE_fwatchdog").into(), true),
    }
}

/// Whether the binary under test is ours; tests of deliberate differences check it.
pub(crate) fn is_ours() -> bool {
    binary().1
}

impl Watchdog {
    /// Starts the watchdog with `vars` and waits until its port is open.
    pub(crate) fn start(vars: &[(&str, &str)]) -> Self {
        Self::listening(Self::launch(vars))
    }

    /// As [`Watchdog::start`], without the right to look into other users' processes.
    pub(crate) fn start_without_tracing(vars: &[(&str, &str)]) -> Self {
        Self::start_with("-sys_ptrace", vars)
    }

    /// As [`Watchdog::start`], with the rights it has in a container whose image is not root's, and no other.
    pub(crate) fn start_as_in_a_container(vars: &[(&str, &str)]) -> Self {
        Self::start_with("-all,+kill,+setgid,+setpcap,+setuid,+sys_chroot,+sys_ptrace", vars)
    }

    fn start_with(capabilities: &str, vars: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={capabilities}")).arg(binary().0);
        Self::listening(Self::launch_as(command, vars))
    }

    fn listening(mut watchdog: Self) -> Self {
        if is_ours() {
            let line = watchdog.line("Listening on port: ");
            watchdog.port = line.rsplit(' ').next().unwrap().parse().unwrap();
        } else {
            let begin = now();
            while TcpStream::connect(("127.0.0.1", watchdog.port)).is_err() {
                assert!(begin.elapsed() < PATIENCE, "never listened");
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        watchdog
    }

    /// Starts the watchdog without waiting for anything.
    pub(crate) fn launch(vars: &[(&str, &str)]) -> Self {
        Self::launch_as(Command::new(binary().0), vars)
    }

    fn launch_as(mut command: Command, vars: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = if is_ours() { 0 } else { free_port() };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TMPDIR", directory.path());
        command.env("port", port.to_string());
        if is_ours() {
            command.env("HYPERFAAS_METRICS_PORT", "off");
        }
        command.envs(vars.iter().copied()).current_dir("/");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let into = kept.clone();
        std::thread::spawn(move || {
            let (mut from, mut chunk) = (stdout, [0; 4096]);
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                into.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self { child, lines, seen: Vec::new(), stdout: kept, port, directory }
    }

    /// The next line of stderr that contains `text`, earlier ones included.
    pub(crate) fn line(&mut self, text: &str) -> String {
        if let Some(at) = self.seen.iter().position(|line| line.contains(text)) {
            return self.seen.remove(at);
        }
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.seen));
            if line.contains(text) {
                return line;
            }
            self.seen.push(line);
        }
    }

    /// Whether any line of stderr read so far contains `text`.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        self.seen.iter().any(|line| line.contains(text))
    }

    /// Everything on stdout, once it satisfies `done`.
    pub(crate) fn stdout(&self, done: impl Fn(&str) -> bool) -> String {
        let begin = now();
        loop {
            let text = String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned();
            if done(&text) {
                return text;
            }
            assert!(begin.elapsed() < PATIENCE, "stdout is {text:?}");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut client = self.client();
        client.send(method, target, headers, body);
        client.answer()
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    pub(crate) fn post(&self, target: &str, body: &[u8]) -> Answer {
        self.ask("POST", target, &[], body)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.directory.path().join(".lock")
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let begin = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "still running");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A script in a directory of its own.
pub(crate) struct Script {
    directory: tempfile::TempDir,
}

impl Script {
    pub(crate) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let script = Self { directory };
        std::fs::write(script.path(), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(script.path(), PermissionsExt::from_mode(0o755)).unwrap();
        script
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("function")
    }

    /// The file `$0.{end}` of the script.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        self.directory.path().join(format!("function.{end}"))
    }

    pub(crate) fn command(&self) -> String {
        self.path().display().to_string()
    }
}

/// Waits until `done` holds.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A port that was free a moment ago; only for binaries that do not tell which one they picked.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
