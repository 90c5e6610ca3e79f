//! What a function tries against another one in the same container, and against the watchdog there. Each answer lists what worked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Query;
use axum::routing::any;
use hyperfaas_protocol::moment::{Clock, SystemClock};
use rustix::process::{Pid, getuid, test_kill_process};
use serde::Deserialize;

/// Process numbers that are tried: a container's begin at 1.
const PROCESSES: std::ops::Range<i32> = 1..4000;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/reach", any(reach))
        .route("/signal", any(signal))
        .route("/list", any(list))
        .route("/say", any(say))
        .route("/squat", any(squat))
        .route("/daemons", any(daemons))
}

#[derive(Deserialize)]
struct Path {
    path: String,
}

/// Whether a process is this function's own.
fn is_ours(process: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.contains(&format!("Uid:\t{}\t", getuid().as_raw()))
}

fn others() -> impl Iterator<Item = i32> {
    PROCESSES.filter(|process| !is_ours(*process))
}

/// Reads a file through every other process, and their environment, arguments and memory.
async fn reach(Query(Path { path }): Query<Path>) -> String {
    let mut reached = String::new();
    for process in others() {
        for file in [&format!("root{path}"), "environ", "maps", "mem", "fd/1", "cwd/."] {
            let open = std::fs::File::open(format!("/proc/{process}/{file}"));
            if open.and_then(|mut file| file.read(&mut [0; 1])).is_ok_and(|count| count > 0) {
                reached += &format!("{process} {file}\n");
            }
        }
    }
    reached
}

/// Asks whether it may signal other processes.
async fn signal() -> String {
    let may = |process: &i32| Pid::from_raw(*process).is_some_and(|p| test_kill_process(p).is_ok());
    others().filter(may).map(|process| format!("{process}\n")).collect()
}

/// The names in a directory.
async fn list(Query(Path { path }): Query<Path>) -> String {
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let names = entries.flatten().map(|entry| entry.file_name());
            names.map(|name| format!("{}\n", name.to_string_lossy())).collect()
        }
        Err(error) => error.to_string(),
    }
}

#[derive(Deserialize)]
struct Port {
    port: u16,
    #[serde(default)]
    ms: u64,
}

/// Sends bytes to a port of this container; what comes back.
async fn say(Query(Port { port, .. }): Query<Port>, body: Bytes) -> Vec<u8> {
    let spoken = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&body)?;
        let mut answer = b"connected:".to_vec();
        let mut piece = [0; 4096];
        while let Ok(count) = stream.read(&mut piece) {
            if count == 0 || answer.len() > 65_536 {
                break;
            }
            answer.extend_from_slice(&piece[..count]);
        }
        Ok::<_, std::io::Error>(answer)
    });
    match spoken.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => format!("error {}", error.raw_os_error().unwrap_or(0)).into_bytes(),
        Err(_) => b"panicked".to_vec(),
    }
}

/// Tries to get a port again and again for a while, in the background, and to hold it; says in its log if it did.
async fn squat(Query(Port { port, ms }): Query<Port>) -> &'static str {
    std::thread::spawn(move || {
        let clock = SystemClock::start();
        let (began, long) = (clock.now(), Duration::from_millis(ms));
        let mut held = Vec::new();
        while clock.now().since(began) < long {
            for address in ["127.0.0.1", "0.0.0.0"] {
                held.extend(TcpListener::bind((address, port)).ok().filter(|listener| {
                    listener.local_addr().is_ok_and(|address| address.port() == port)
                }));
            }
        }
        println!("squatted {port}: {} times", held.len());
    });
    "squatting"
}

/// Starts processes that outlive this one and let go of everything.
async fn daemons() -> String {
    let start = || {
        let mut command = Command::new("/proc/self/exe");
        command.env("PROBE_FAIL", "silent").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    (0..20).filter(|_| start().is_ok()).count().to_string()
}
