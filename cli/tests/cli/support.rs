//! A gateway on port 0 that answers by a script and remembers every request, and a runner for the program.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Method and target.
    pub(crate) line: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// What to answer to the nth request with the same method and target.
pub(crate) type Script = fn(&str, usize) -> (StatusCode, String);

pub(crate) struct FakeGateway {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeGateway {
    pub(crate) async fn start(script: Script) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = Arc::clone(&seen);
        let router = Router::new()
            .fallback(move |request: Request| answer(request, Arc::clone(&record), script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, seen, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Method, target and body of all requests but status polls.
    pub(crate) fn writes(&self) -> Vec<String> {
        let seen = self.seen();
        let writes = seen.iter().filter(|seen| !seen.line.starts_with("GET "));
        writes.map(|seen| format!("{} {}", seen.line, seen.body)).collect()
    }
}

async fn answer(request: Request, record: Arc<Mutex<Vec<Seen>>>, script: Script) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let text = |(name, value): (&_, &axum::http::HeaderValue)| -> (String, String) {
        let name: &axum::http::HeaderName = name;
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let headers = parts.headers.iter().map(text).collect();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let number = {
        let mut seen = record.lock().unwrap();
        let number = seen.iter().filter(|seen| seen.line == line).count();
        seen.push(Seen { line: line.clone(), headers, body });
        number
    };
    script(&line, number).into_response()
}

pub(crate) fn ready(name: &str) -> String {
    format!(
        r#"{{"name":"{name}","image":"a","replicas":1,"availableReplicas":1,"createdAt":"2024-01-01T00:00:00Z"}}"#
    )
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program in `folder` with an environment of nothing but `variables`.
pub(crate) async fn run(
    folder: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
    input: &[u8],
) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperfaas"));
    command
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder)
        .args(arguments)
        .kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that ends early does not read everything.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
