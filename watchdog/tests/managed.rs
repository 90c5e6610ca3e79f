//! The watchdog under a provider: the boot variable, the control link, the worker's user, crashes.

use std::net::TcpStream;
use std::time::Duration;

use std::io::{BufRead, BufReader, Read, Write};

use crate::support::{PATIENCE, Script, Upstream, Watchdog, eventually, now};

pub(crate) const KEY: &str = "open sesame";

/// A boot variable for a function of kind `watchdog`, with `user` as the image's user.
pub(crate) fn boot(user: &str) -> String {
    format!(
        "{{\"version\":1,\"key\":\"{KEY}\",\"control_port\":0,\"http_port\":0,\"kind\":\"watchdog\",\"user\":\"{user}\"}}"
    )
}

/// The provider's end of the control link.
pub(crate) struct Link {
    reader: BufReader<TcpStream>,
}

impl Link {
    pub(crate) fn open(watchdog: &mut Watchdog, hello: &str) -> Self {
        let line = watchdog.line("Control link listening on port: ");
        let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
        Self::dial(port, hello)
    }

    pub(crate) fn dial(port: u16, hello: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(hello.as_bytes()).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    /// Whether nothing comes for this long.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.reader.get_ref().set_read_timeout(Some(time)).unwrap();
        let read = self.reader.fill_buf().map(<[u8]>::len);
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Whether the other side closes without a byte.
    pub(crate) fn is_refused(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset && rest.is_empty(),
        }
    }
}

fn hello(key: &str) -> String {
    format!("{{\"version\":1,\"key\":\"{key}\"}}\n")
}

fn state(name: &str) -> String {
    format!("{{\"event\":\"state\",\"state\":\"{name}\"}}\n")
}

#[test]
fn the_provider_is_told_the_present_state_and_every_change() {
    let boot = boot("");
    let mut watchdog = Watchdog::start(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot)]);
    let mut link = Link::open(&mut watchdog, &hello(KEY));
    assert_eq!(link.line(), state("ready"));
    assert_eq!(watchdog.post("/", b"abc").text(), "abc");
    watchdog.signal("TERM");
    assert_eq!(link.line(), state("draining"));
    assert_eq!(watchdog.exit().code(), Some(0));
}

#[test]
fn strangers_get_nothing() {
    let boot = boot("");
    let mut watchdog = Watchdog::start(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot)]);
    let line = watchdog.line("Control link listening on port: ");
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let endless = "x".repeat(5000);
    let other_version = format!("{{\"version\":2,\"key\":\"{KEY}\"}}\n");
    for greeting in
        [&hello("open sesam"), &hello(""), "nonsense\n", "\n", "{}\n", &endless, &other_version]
    {
        assert!(Link::dial(port, greeting).is_refused(), "{greeting:.60}");
    }
    assert_eq!(
        Link::dial(port, &hello(KEY)).line(),
        state("ready"),
        "and the provider still gets in"
    );
}

#[test]
fn the_number_of_links_is_bounded() {
    let boot = boot("");
    let mut watchdog = Watchdog::start(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot)]);
    let line = watchdog.line("Control link listening on port: ");
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut links: Vec<_> = (0..4).map(|_| Link::dial(port, &hello(KEY))).collect();
    for link in &mut links {
        assert_eq!(link.line(), state("ready"));
    }
    assert!(Link::dial(port, &hello(KEY)).is_refused());
    drop(links);
    eventually("room again", || Link::dial(port, &hello(KEY)).line() == state("ready"));
}

#[test]
fn a_crash_is_told_and_the_function_started_again() {
    let upstream = Upstream::fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (boot, url) = (boot(""), upstream.url());
    let script = Script::new("echo $$ > $0.pid; exec sleep 1000");
    let mut watchdog = Watchdog::start(&[
        ("mode", "http"),
        ("upstream_url", &url),
        ("fprocess", &script.command()),
        ("HYPERFAAS_BOOT", &boot),
    ]);
    eventually("healthy", || {
        watchdog.get("/_/health").status == 200 && script.beside("pid").exists()
    });
    let mut link = Link::open(&mut watchdog, &hello(KEY));
    assert_eq!(link.line(), state("ready"));
    let pid = std::fs::read_to_string(script.beside("pid")).unwrap();
    std::fs::remove_file(script.beside("pid")).unwrap();
    assert!(
        std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success()
    );
    let crashed = "{\"event\":\"state\",\"state\":\"crashed\",\"reason\":\"signal: killed\"}\n";
    assert_eq!(link.line(), crashed);
    assert_eq!(link.line(), state("starting"));
    assert_eq!(link.line(), state("ready"));
    eventually("started again", || script.beside("pid").exists());
    assert_eq!(watchdog.get("/").text(), "ok");
}

#[test]
fn every_end_is_a_crash_under_a_provider() {
    let boot = boot("");
    let url = Upstream::fixed("").url();
    for (fprocess, reason) in [
        ("true", "process exited with status 0"),
        ("false", "exit status 1"),
        ("no-such", "exec: \\\"no-such\\\": executable file not found in $PATH"),
    ] {
        let vars = [
            ("mode", "http"),
            ("upstream_url", url.as_str()),
            ("fprocess", fprocess),
            ("HYPERFAAS_BOOT", &boot),
        ];
        let mut watchdog = Watchdog::start(&vars);
        let mut link = Link::open(&mut watchdog, &hello(KEY));
        let expected =
            format!("{{\"event\":\"state\",\"state\":\"crashed\",\"reason\":\"{reason}\"}}\n");
        let told = (0..6).any(|_| link.line() == expected);
        assert!(told, "{fprocess}");
        watchdog.line("Starting it again in 200ms");
    }
}

#[test]
fn workers_become_the_images_user_and_hold_nothing_of_ours() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root, as the watchdog under a provider does"
    );
    let boot = boot("65534:65533");
    let script = Script::new(
        "id -u; id -g; id -G; echo home=$HOME; env | grep -c HYPERFAAS; ls /proc/self/fd | wc -l; \
         grep -E '^(NoNewPrivs|CapPrm|CapEff|CapInh|CapAmb|SigBlk|SigIgn)' /proc/self/status; \
         cat /proc/$PPID/environ > /dev/null 2>&1 && echo leaked; ps -o pgid= -p $$ | tr -d ' '; echo $$",
    );
    let watchdog = Watchdog::start(&[
        ("fprocess", &script.command()),
        ("HYPERFAAS_BOOT", &boot),
        ("HOME", "/wrong"),
    ]);
    let answer = watchdog.get("/");
    let text = answer.text();
    let mut lines = text.lines();
    for expected in ["65534", "65533", "65533", "home=/nonexistent", "0"] {
        assert_eq!(lines.next(), Some(expected), "{text}");
    }
    assert_eq!(lines.next(), Some("4"), "stdin, stdout, stderr and the listing itself: {text}");
    let zero = "0000000000000000";
    assert_eq!(lines.next(), Some(format!("SigBlk:\t{zero}").as_str()), "{text}");
    let ignored = lines.next().unwrap().trim_start_matches("SigIgn:\t");
    // Signals from 32 on are the C library's own, which cannot be reset.
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff, 0, "{text}");
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(lines.next(), Some(format!("{name}:\t{zero}").as_str()), "{text}");
    }
    assert_eq!(lines.next(), Some("NoNewPrivs:\t1"), "{text}");
    let group = lines.next();
    assert_eq!(group, lines.next(), "first of its own process group, and nothing leaked: {text}");
}

#[test]
fn a_user_that_does_not_exist_ends_it_with_one_line() {
    let boot = boot("no-such-user");
    let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot)]);
    watchdog.line("Error: unable to find user no-such-user: no matching entries in passwd file");
    assert_eq!(watchdog.exit().code(), Some(1));
}

#[test]
fn a_boot_variable_nobody_understands_ends_it_without_telling_the_key() {
    for text in ["", "{\"key\":\"secret\"", "{\"version\":1,\"key\":\"secret\"}"] {
        let mut watchdog = Watchdog::launch(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", text)]);
        let line = watchdog.line("HYPERFAAS_BOOT is not valid");
        assert!(!line.contains("secret"), "{line}");
        assert_eq!(watchdog.exit().code(), Some(1));
    }
}

#[test]
fn the_provider_does_not_wait_for_the_health_check_interval() {
    let boot = boot("");
    let mut watchdog = Watchdog::start(&[("fprocess", "cat"), ("HYPERFAAS_BOOT", &boot)]);
    let begin = now();
    watchdog.signal("TERM");
    assert_eq!(watchdog.exit().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "the interval would be 30 s");
}

#[test]
fn a_worker_of_another_user_opens_its_streams_by_name_as_in_plain_docker() {
    let boot = boot("65534:65533");
    let script =
        Script::new("echo out > /dev/stdout; echo err > /proc/self/fd/2; cat < /dev/stdin");
    let vars = [("fprocess", script.command()), ("HYPERFAAS_BOOT", boot)];
    let vars: Vec<_> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let watchdog = Watchdog::start_as_in_a_container(&vars);
    assert_eq!(watchdog.post("/", b"in\n").text(), "out\nerr\nin\n");
}
