//! `jwt_auth`: who is let in, alike in both originals, and where ours is stricter.

use std::io::Write;
use std::net::TcpListener;

use crate::support::{Answer, Upstream, Watchdog, is_ours, tokens};

/// An authority that knows the keys of [`tokens`].
fn authority() -> Upstream {
    // The originals ask at a fixed address.
    let address = if is_ours() { "127.0.0.1:0" } else { "127.0.0.1:8000" };
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    Upstream::on(listener, move |seen, stream| {
        let target = seen.lines[0].split(' ').nth(1).unwrap();
        let body = match target {
            "/.well-known/openid-configuration" => {
                let (issuer, keys) = (tokens::ISSUER, format!("http://127.0.0.1:{port}/keys"));
                format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#)
            }
            _ => tokens::KEYS.to_owned(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
    })
}

fn vars(authority: &str) -> Vec<(&str, &str)> {
    let mut vars = vec![
        ("jwt_auth", "true"),
        ("jwt_auth_local", "true"),
        ("OPENFAAS_NAME", "fn"),
        ("OPENFAAS_NAMESPACE", "ns"),
        ("fprocess", "env"),
    ];
    if is_ours() {
        vars.push(("HYPERFAAS_JWT_AUTHORITY", authority));
    }
    vars
}

fn with(watchdog: &Watchdog, token: &str) -> Answer {
    watchdog.ask("GET", "/p", &[("Authorization", token)], b"")
}

#[test]
fn only_valid_tokens_for_this_function_are_let_in() {
    let authority = authority();
    let url = authority.url();
    let mut watchdog = Watchdog::start(&vars(&url));
    for good in [tokens::GOOD, tokens::GOOD_ES256, tokens::GOOD_RS512, tokens::ANY] {
        let answer = with(&watchdog, &format!("Bearer {good}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("Http_X_Auth_Seconds=0."));
    }
    assert_eq!(with(&watchdog, tokens::GOOD).status, 200, "the word Bearer may be missing");
    for bad in [
        tokens::EXPIRED,
        tokens::EARLY,
        tokens::OTHER_ISSUER,
        tokens::OTHER_AUDIENCE,
        tokens::UNKNOWN_KEY,
        tokens::UNSIGNED,
        tokens::MIXED,
        "nonsense",
    ] {
        let answer = with(&watchdog, &format!("Bearer {bad}"));
        assert_eq!(answer.status, 401);
        assert!(answer.text().starts_with("failed to parse JWT token: "), "{}", answer.text());
    }
    let missing = watchdog.get("/p");
    assert_eq!(missing.status, 401);
    assert_eq!(missing.text(), "Bearer must be present in Authorization header\n");
    assert_eq!(missing.header("Www-Authenticate"), Some("Bearer realm=IAM function invoke"));
    assert_eq!(missing.header("X-Openfaas-Internal"), Some("faas-middleware"));
    assert_eq!(missing.header("X-Content-Type-Options"), Some("nosniff"));
    watchdog.line("GET /p - 401 ACCESS DENIED - (");
    let denied = with(&watchdog, tokens::NOT_FOR_US);
    assert_eq!((denied.status, denied.text().as_str()), (403, "insufficient permissions\n"));
    assert_eq!(denied.header("Www-Authenticate"), None);
    if is_ours() {
        assert_eq!(with(&watchdog, tokens::PART_OF_NAME).status, 403, "a part of the name");
    }
    assert_eq!(watchdog.get("/_/health").status, 200);
}

#[test]
fn without_keys_or_a_name_nothing_is_served() {
    let mut nameless = vars("http://127.0.0.1:1");
    nameless.retain(|(name, _)| *name != "OPENFAAS_NAME");
    assert_eq!(Watchdog::launch(&nameless).exit().code(), Some(1));
    if is_ours() {
        for nowhere in ["ftp://127.0.0.1", "http://127.0.0.1:1"] {
            let mut watchdog = Watchdog::launch(&vars(nowhere));
            watchdog.line("error creating JWTAuthMiddleware: ");
            assert_eq!(watchdog.exit().code(), Some(1), "{nowhere}");
        }
    }
}
