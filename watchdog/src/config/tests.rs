use hyperfaas_protocol::control::{CONTROL_PORT, RELAY_PORT};

use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    read_with(vars, None, None)
}

fn read_with(
    vars: &[(&str, &str)],
    boot: Option<&Boot>,
    scanned: Option<Dialect>,
) -> Result<Config, ConfigError> {
    let lookup = |name: &str| {
        vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    Config::from_vars(lookup, boot, || scanned)
}

fn server_boot(entrypoint: &[&str], command: &[&str]) -> Boot {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    Boot {
        version: 1,
        key: "k".into(),
        control_port: CONTROL_PORT,
        http_port: RELAY_PORT,
        kind: FunctionKind::Server,
        entrypoint: words(entrypoint),
        command: words(command),
        user: String::new(),
        has_home: false,
        is_standby: false,
        in_flight_max: None,
    }
}

#[test]
fn the_dialect_follows_the_variables_then_the_file_then_the_classic_watchdog() {
    use Dialect::{Classic, OfWatchdog};
    let dialect = |vars: &[(&str, &str)], scanned| read_with(vars, None, scanned).unwrap().dialect;
    assert_eq!(dialect(&[("fprocess", "cat")], None), Classic);
    assert_eq!(dialect(&[("fprocess", "cat")], Some(OfWatchdog)), OfWatchdog);
    assert_eq!(dialect(&[("fprocess", "cat"), ("mode", "")], None), Classic);
    assert_eq!(dialect(&[("fprocess", "cat"), ("mode", "streaming")], Some(Classic)), OfWatchdog);
    assert_eq!(dialect(&[("fprocess", "cat"), ("prefix_logs", "false")], None), OfWatchdog);
    assert_eq!(
        dialect(&[("fprocess", "cat"), ("combine_output", "false")], Some(OfWatchdog)),
        Classic
    );
    assert_eq!(
        dialect(&[("fprocess", "cat"), ("write_debug", "false")], Some(OfWatchdog)),
        OfWatchdog
    );
    assert_eq!(dialect(&[("fprocess", "cat"), ("cgi_headers", "true")], None), Classic);
}

#[test]
fn an_open_dialect_without_mode_is_streaming_only_on_evidence() {
    let config = read_with(&[("fprocess", "cat")], None, Some(Dialect::OfWatchdog)).unwrap();
    assert!(matches!(config.mode, Mode::Fork { kind: ForkKind::Streaming { .. }, .. }));
    assert_eq!(config.timeouts.exec, GoDuration::from_secs(30));
    let config = read(&[("fprocess", "cat")]).unwrap();
    assert!(matches!(config.mode, Mode::Fork { kind: ForkKind::Classic(_), .. }));
    assert_eq!(config.timeouts.exec, GoDuration::from_secs(0));
}

#[test]
fn settings_nothing_can_be_done_with_end_as_in_the_originals() {
    let exit = |vars: &[(&str, &str)]| read(vars).unwrap_err().exit;
    assert_eq!(exit(&[]), 2);
    assert_eq!(exit(&[("fprocess", "")]), 2);
    assert_eq!(exit(&[("mode", "http")]), 1);
    assert_eq!(exit(&[("mode", "http"), ("fprocess", "x")]), 1);
    assert_eq!(exit(&[("mode", "HTTP"), ("fprocess", "x")]), 2);
    assert_eq!(exit(&[("mode", "afterburn"), ("fprocess", "x")]), 2);
    assert_eq!(exit(&[("mode", "inproc"), ("fprocess", "x")]), 2);
    assert_eq!(exit(&[("mode", "streaming"), ("fprocess", "x"), ("function_process", "")]), 1);
    assert_eq!(exit(&[("mode", "streaming"), ("fprocess", "x"), ("write_timeout", "0")]), 1);
    assert_eq!(exit(&[("mode", "streaming"), ("fprocess", "x"), ("log_buffer_size", "")]), 1);
    assert_eq!(exit(&[("fprocess", "x"), ("port", "70000")]), 1);
    assert_eq!(exit(&[("fprocess", "x"), ("jwt_auth", "true")]), 1);
    for url in
        ["127.0.0.1:5000", "localhost", "https://x:1", "http://u:p@x:1", "http://", "http://x:1/?q"]
    {
        assert_eq!(exit(&[("mode", "http"), ("fprocess", "x"), ("upstream_url", url)]), 1, "{url}");
    }
}

#[test]
fn ports_read_as_each_original_reads_them() {
    let port = |vars: &[(&str, &str)]| read(vars).unwrap().port;
    assert_eq!(port(&[("fprocess", "x")]), 8080);
    assert_eq!(port(&[("fprocess", "x"), ("port", "")]), 8080);
    assert_eq!(port(&[("fprocess", "x"), ("port", "-1")]), 8080);
    assert_eq!(port(&[("fprocess", "x"), ("port", "9000")]), 9000);
    assert_eq!(port(&[("fprocess", "x"), ("mode", "streaming"), ("port", "")]), 0);
    assert_eq!(port(&[("fprocess", "x"), ("mode", "streaming"), ("port", "abc")]), 0);
}

#[test]
fn switches_read_as_each_original_reads_them() {
    let classic =
        read(&[("fprocess", "x"), ("suppress_lock", "1"), ("combine_output", "1")]).unwrap();
    assert!(!classic.suppress_lock);
    let Mode::Fork { kind: ForkKind::Classic(settings), .. } = classic.mode else {
        panic!("classic")
    };
    assert!(!settings.combine_output);
    assert!(settings.cgi_headers);
    let of = read(&[
        ("fprocess", "x"),
        ("mode", "streaming"),
        ("suppress_lock", "1"),
        ("prefix_logs", "yes"),
    ])
    .unwrap();
    assert!(of.suppress_lock && of.output.prefix);
    assert_eq!(read(&[("fprocess", "x"), ("max_inflight", "-1")]).unwrap().max_inflight, None);
    assert_eq!(
        read(&[("fprocess", "x"), ("max_inflight", "2")]).unwrap().max_inflight,
        NonZeroUsize::new(2)
    );
}

#[test]
fn the_command_is_split_at_every_space_and_nowhere_else() {
    assert_eq!(words("sh -c \"a b\""), ["sh", "-c", "\"a", "b\""]);
    assert_eq!(words("a  b "), ["a", "", "b", ""]);
    assert_eq!(words(" a"), ["", "a"]);
    assert_eq!(words("a\tb"), ["a\tb"]);
}

#[test]
fn upstreams_keep_what_was_written() {
    let of = |url| Upstream::parse(url).unwrap();
    assert_eq!(
        of("http://127.0.0.1:5000"),
        Upstream { host: "127.0.0.1".into(), port: 5000, base: String::new() }
    );
    assert_eq!(of("http://h/base/").base, "/base/");
    assert_eq!(of("http://h/").base, "/");
    assert_eq!(of("http://h").port, 80);
    assert_eq!(of("http://[::1]:7").authority(), "[::1]:7");
}

#[test]
fn a_plain_server_image_runs_its_own_command_without_metrics_or_prefix() {
    let boot = server_boot(&["/entry.sh"], &["/server", "-v"]);
    let config = read_with(&[("port", "9999"), ("fprocess", "")], Some(&boot), None).unwrap();
    let Mode::Http { upstream, words, settings } = config.mode else { panic!("http") };
    assert_eq!(words, ["/entry.sh", "/server", "-v"]);
    assert_eq!(
        (upstream.authority().as_str(), settings.unreachable_status),
        ("127.0.0.1:8080", 502)
    );
    assert_eq!((config.port, config.metrics_port, config.output.prefix), (RELAY_PORT, None, false));
    assert_eq!(read_with(&[], Some(&server_boot(&[], &[])), None).unwrap_err().exit, 1);
}

#[test]
fn durations_fall_back_silently_and_the_health_interval_follows_the_write_timeout() {
    let config =
        read(&[("fprocess", "x"), ("write_timeout", "5s"), ("read_timeout", "1.5")]).unwrap();
    assert_eq!(config.timeouts.health, GoDuration::from_secs(5));
    assert_eq!(config.timeouts.read, GoDuration::from_secs(30));
    assert_eq!(config.timeouts.drain(), Duration::from_secs(5));
}
