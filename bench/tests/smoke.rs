//! The program as its user runs it: loader against reference function, both as processes, on a free port.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bench"))
}

fn serve() -> (Server, String) {
    let mut child =
        bench().args(["serve", "--port", "0"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    (Server(child), line.trim().to_owned())
}

#[test]
fn a_load_is_made_counted_and_written_down() {
    let (_server, address) = serve();
    let out = tempfile::tempdir().expect("a folder");
    let done = bench()
        .args(["--out", out.path().to_str().expect("text"), "load"])
        .args(["--phases", "50:1s,200:1s", "--even", "--name", "smoke"])
        .arg(format!("http://{address}/x"))
        .output()
        .expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(out.path().join("smoke.json")).expect("a result");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["result"]["calls"], 250);
    assert_eq!(result["result"]["ends"]["200"], 250);
    assert_eq!(result["result"]["step_s"], 1.0);
    let table = std::fs::read_to_string(out.path().join("smoke.csv")).expect("a table");
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().nth(2).is_some_and(|line| line.starts_with("1,200,0,")), "{table}");
}

#[test]
fn a_trace_is_replayed_with_its_functions() {
    let (_server, address) = serve();
    let out = tempfile::tempdir().expect("a folder");
    let calls = out.path().join("calls.csv");
    std::fs::write(&calls, "at_ms,function\n0,a\n100,b\n200,a\n").expect("written");
    let done = bench()
        .args(["--out", out.path().to_str().expect("text"), "load", "--calls"])
        .arg(&calls)
        .arg(format!("http://{address}/function/{{function}}"))
        .output()
        .expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.starts_with("3 calls, 3 succeeded"), "{said}");
}

#[test]
fn bad_words_are_one_clear_complaint_and_nothing_runs() {
    for (words, complaint) in [
        (vec!["load", "https://x/"], "https://x/ does not begin with http://"),
        (vec!["load", "http://127.0.0.1:1/", "--minutes", "/nowhere"], "opening /nowhere"),
        (vec!["load", "http://127.0.0.1:1/", "--phases", "x"], "must be RATE:LENGTH"),
        (vec!["burst", "--mode", "magic"], "invalid value 'magic'"),
        (vec!["check", "--baseline", "/nowhere"], "reading /nowhere"),
    ] {
        let done = bench().args(&words).output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(complaint), "{words:?}: {said}");
    }
}
