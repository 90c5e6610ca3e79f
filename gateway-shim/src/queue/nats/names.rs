//! Names of subjects and consumers for functions.
//!
//! In: a function's name, whatever a caller made of it. Out: a token that is safe in a subject and in a file's name.
//! Always: different functions get different tokens, and a token gives its function back.
//! Touches: nothing.

use std::fmt::Write;

/// Longest token: the server takes names of consumers up to 255 bytes, and functions' names are far shorter.
const TOKEN_MAX: usize = 200;

/// The token of `function`; `None` when it is longer than any function's name can be.
pub(super) fn token(function: &str) -> Option<String> {
    let mut token = String::with_capacity(function.len() + 8);
    for byte in function.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            _ => write!(token, "={byte:02X}").ok()?,
        }
        if token.len() > TOKEN_MAX {
            return None;
        }
    }
    (!token.is_empty()).then_some(token)
}

/// The function of `token`; `None` when it is none of ours.
pub(super) fn function(token: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(token.len()), token);
    while let Some((plain, escaped)) = rest.split_once('=') {
        bytes.extend_from_slice(plain.as_bytes());
        let (code, after) = escaped.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok().filter(|function| !function.is_empty())
}

/// Subject of the waiting calls with `token`, or of all with `*`.
pub(super) fn calls(stream: &str, token: &str) -> String {
    format!("{stream}.call.{token}")
}

/// Subject of the dead letters with `token`, or of all with `*`.
pub(super) fn dead(stream: &str, token: &str) -> String {
    format!("{stream}.dead.{token}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_stay_readable() {
        assert_eq!(token("resize-2.openfaas-fn").unwrap(), "resize-2=2Eopenfaas-fn");
        assert_eq!(token(""), None);
        assert_eq!(token(&"x".repeat(201)), None);
        assert_eq!(function("a=2"), None);
        assert_eq!(function("a=€"), None);
    }

    proptest! {
        #[test]
        fn every_name_survives_and_is_safe(name in "\\PC{1,60}|[ .*>=/a\u{0}\r\n]{1,60}") {
            if let Some(token) = token(&name) {
                prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b)));
                let back = function(&token);
                prop_assert_eq!(back.as_deref(), Some(&*name));
            }
        }
    }
}
