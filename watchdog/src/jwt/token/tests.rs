use super::*;

#[path = "../../../tests/support/tokens.rs"]
mod tokens;

const NOW: i64 = 1_800_000_000;

fn keys() -> Vec<Key> {
    let set: Value = serde_json::from_str(tokens::KEYS).unwrap();
    set["keys"].as_array().unwrap().iter().filter_map(Key::read).collect()
}

fn check(token: &str) -> Result<Claims, TokenError> {
    verified(token, &keys(), tokens::ISSUER, NOW)
}

fn text(token: &str) -> String {
    check(token).unwrap_err().to_string()
}

#[test]
fn good_tokens_permit_their_function() {
    for token in [tokens::GOOD, tokens::GOOD_ES256, tokens::GOOD_RS512, tokens::ANY] {
        let claims = check(token).unwrap();
        assert!(claims.admit("ns:fn"));
        assert!(!claims.admit("other:fn"));
    }
    assert!(check(tokens::ANY).unwrap().admit("ns:fn2"));
    assert!(!check(tokens::GOOD).unwrap().admit("ns:fn2"));
    assert!(!check(tokens::PART_OF_NAME).unwrap().admit("ns:fn"));
    assert!(!check(tokens::NOT_FOR_US).unwrap().admit("ns:fn"));
    assert!(!Claims::default().admit("ns:fn"));
}

#[test]
fn what_is_not_valid_says_why() {
    assert_eq!(text("a.b"), "token is malformed: token contains an invalid number of segments");
    assert_eq!(text(tokens::EXPIRED), "token has invalid claims: token is expired");
    assert_eq!(text(tokens::EARLY), "token has invalid claims: token is not valid yet");
    assert_eq!(text(tokens::OTHER_ISSUER), "token has invalid claims: token has invalid issuer");
    assert_eq!(
        text(tokens::OTHER_AUDIENCE),
        "token has invalid claims: token has invalid audience"
    );
    assert!(text(tokens::UNKNOWN_KEY).ends_with("invalid kid: x"));
    assert!(text(tokens::UNSIGNED).starts_with("token is unverifiable"));
    assert_eq!(text(tokens::MIXED), "token signature is invalid: key is of invalid type");
}

#[test]
fn every_changed_byte_spoils_a_token() {
    for token in [tokens::GOOD, tokens::GOOD_ES256] {
        // The last digit holds bits that do not count, which makes it malformed or leaves it as it is.
        for at in (0..token.len() - 1).step_by(7) {
            let mut changed = token.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(check(&String::from_utf8(changed).unwrap()).is_err(), "byte {at}");
        }
    }
}

#[test]
fn patterns_fit_the_whole_name() {
    for (pattern, fits) in [
        ("*", true),
        ("ns:fn", true),
        ("ns:*", true),
        ("*:fn", true),
        ("n*:*n", true),
        ("**", true),
        ("*s:*", true),
        ("", false),
        ("s:f", false),
        ("ns:f", false),
        ("ns:fn*x", false),
        ("ns:fn*n", false),
        ("*fn*fn", false),
    ] {
        assert_eq!(matches(pattern, "ns:fn"), fits, "{pattern}");
    }
}
