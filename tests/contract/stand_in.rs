//! Takes the watchdog's place in the engine's contract tests: does and tells what its variables ask for.
//!
//! `STAND_IN_OUT`, `STAND_IN_ERR`: lines to say. `STAND_IN_LONG`: a line of that many letters. `STAND_IN_FACTS`: says what
//! the container is like. `STAND_IN_SECRETS`: says its secrets. `STAND_IN_BURN`: keeps a processor busy.
//! `STAND_IN_SLOT`: says what a guest can do in its slot. `STAND_IN_SERVE`: answers HTTP on that port with its user's number.
//! `STAND_IN_EXIT`: ends with that status. `STAND_IN_BYE`: last line before SIGTERM ends it. `STAND_IN_STUBBORN`: ignores
//! SIGTERM.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tokio::signal::unix::{SignalKind, signal};

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("STAND_IN_{name}")).ok()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the engine reads our output");
}

/// One line for each secret: name, mode, bytes.
fn tell_secrets() -> std::io::Result<()> {
    let dir = "/var/openfaas/secrets";
    let mut files = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let hex: String =
            std::fs::read(file.path())?.iter().map(|byte| format!("{byte:02x}")).collect();
        say(&format!("secret {} {mode:o} {hex}", file.file_name().display()));
    }
    say(&format!("secrets writable {}", std::fs::write(format!("{dir}/x"), "x").is_ok()));
    Ok(())
}

fn tell_facts() -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("Uid")) {
        say(&line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    say(&format!("pid {}", std::process::id()));
    say(&format!("host {}", std::fs::read_to_string("/etc/hostname")?.trim()));
    say(&format!("dir {}", std::env::current_dir()?.display()));
    say(&format!("root writable {}", std::fs::write("/x", "x").is_ok()));
    say(&format!("tmp writable {}", std::fs::write("/tmp/x", "x").is_ok()));
    for (name, value) in std::env::vars().filter(|(name, _)| !name.starts_with("STAND_IN_")) {
        say(&format!("env {name}={value}"));
    }
    Ok(())
}

/// Answers one request, whatever it is, with our user's number.
fn answer(mut connection: std::net::TcpStream) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let body = user.split_whitespace().next().unwrap_or_default();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = std::io::Read::read(&mut connection, &mut [0; 4096]);
    let _ = connection.write_all((head + body).as_bytes());
}

/// What a guest can do with the files of the corner's image, with devices, and see of others.
fn tell_slot() -> std::io::Result<()> {
    let can_write = |path: &str| {
        std::fs::OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"x"))
    };
    say(&format!("own file writable {}", can_write("/srv/own").is_ok()));
    let readable = std::fs::read("/srv/it").is_ok();
    say(&format!("others' file readable {readable} writable {}", can_write("/srv/it").is_ok()));
    let mut others = 0;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
        others += u32::from(number.is_some_and(|number| number != std::process::id()));
    }
    say(&format!("processes of others {others}"));
    say(&format!("kept out of /.hyperfaas {}", std::fs::read_dir("/.hyperfaas").is_err()));
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/dev")? {
        let entry = entry?;
        if std::os::unix::fs::FileTypeExt::is_char_device(&entry.file_type()?) {
            devices.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    devices.sort();
    say(&format!("devices {}", devices.join(" ")));
    say(&format!(
        "null works {}",
        std::fs::write("/dev/null", "x").is_ok() && std::fs::read("/dev/null")?.is_empty()
    ));
    say(&format!("shm writable {}", std::fs::write("/dev/shm/x", "x").is_ok()));
    say(&format!("limited {}", std::fs::write("/tmp/much", vec![1; 16 << 20]).is_err()));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    variable("OUT").iter().flat_map(|lines| lines.lines()).for_each(say);
    for line in variable("ERR").iter().flat_map(|lines| lines.lines()) {
        writeln!(std::io::stderr(), "{line}")?;
    }
    if let Some(length) = variable("LONG").and_then(|text| text.parse().ok()) {
        say(&"x".repeat(length));
    }
    if variable("FACTS").is_some() {
        tell_facts()?;
    }
    if variable("SECRETS").is_some() {
        tell_secrets()?;
    }
    if variable("SLOT").is_some() {
        tell_slot()?;
    }
    if let Some(code) = variable("EXIT").and_then(|text| text.parse().ok()) {
        std::process::exit(code);
    }
    if variable("BURN").is_some() {
        std::thread::spawn(|| {
            loop {
                std::hint::black_box(0);
            }
        });
    }
    if let Some(port) = variable("SERVE").and_then(|text| text.parse::<u16>().ok()) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    }
    say("ready");
    loop {
        term.recv().await;
        if variable("STUBBORN").is_none() {
            variable("BYE").iter().for_each(|line| say(line));
            return Ok(());
        }
    }
}
