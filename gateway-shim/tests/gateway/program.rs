//! The program itself: settings, start, stop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use http::{Request, StatusCode};

use crate::support::{Server, ask, provider, start};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperfaas-gateway"));
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Kills the program if a test ends early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn wrong_settings_are_all_named_and_end_with_64() {
    let output = program()
        .env("port", "x")
        .env("basic_auth", "true")
        .env("secret_mount_path", "/nowhere")
        .output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    for name in ["port", "basic_auth", "functions_provider_url"] {
        assert!(text.contains(&format!("hyperfaas-gateway: {name}: ")), "{text}");
    }
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(program().arg("serve").output().unwrap().status.code(), Some(64));
}

#[tokio::test]
async fn it_serves_until_it_is_asked_to_stop() {
    let provider = start(provider());
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("basic-auth-user"), "admin\n").unwrap();
    std::fs::write(secrets.path().join("basic-auth-password"), "secret\n").unwrap();
    let child = program()
        .env("functions_provider_url", format!("http://{}/", provider.address))
        .env("bind_address", "127.0.0.1")
        .env("port", "0")
        .env("metrics_port", "0")
        .env("basic_auth", "true")
        .env("secret_mount_path", secrets.path())
        .env("HYPERFAAS_LOG_FORMAT", "json")
        .spawn();
    let mut child = Running(child.unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let gateway = Server::at(line["address"].as_str().unwrap().parse().unwrap());
    assert_eq!(ask(&gateway, Request::get("/function/f"), "").await.status, StatusCode::ACCEPTED);
    assert_eq!(
        ask(&gateway, Request::get("/system/functions"), "").await.status,
        StatusCode::UNAUTHORIZED
    );
    let stopped = Command::new("kill").arg(child.0.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(child.0.wait().unwrap().success());
}
