//! Whether a text is an image reference: `[registry[:port]/]path[/path…][:tag][@digest]`.
//!
//! Source: the grammar of the distribution project's reference documentation.
//! Always: a valid reference holds no white space and no control character, so it is safe in an API path and a log line.

/// Longest repository name, in bytes.
const NAME_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

/// Whether `text` can name an image.
pub(super) fn is_reference(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[after_slash..].rsplit_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    name.len() <= NAME_MAX && is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

/// A path, after a registry where the first part looks like one.
fn is_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((first, path)) if is_registry_like(first) => is_registry(first) && path.split('/').all(is_component),
        _ => name.split('/').all(is_component),
    }
}

/// Docker's rule for telling `host/name` from `user/name`.
fn is_registry_like(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(is_part) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let mut words = 0_usize;
    for byte in text.bytes() {
        if is_word(byte) {
            let is_joined = matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !is_joined || (words == 0 && !separator.is_empty()) {
                return false;
            }
            words += 1;
            separator.clear();
        } else if b"._-".contains(&byte) {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    words > 0 && separator.is_empty()
}

fn is_tag(text: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&text.len())
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|b| is_first(b) || b == b'.' || b == b'-')
}

/// `algorithm:hex`, at least 32 digits.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_algorithm_byte = |b: u8| b.is_ascii_alphanumeric() || b"+._-".contains(&b);
    algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && algorithm.bytes().all(is_algorithm_byte)
        && (32..=256).contains(&hex.len())
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_that_openfaas_users_write_are_accepted() {
        let digest = format!("alpine@sha256:{}", "a".repeat(64));
        let both = format!("ghcr.io/openfaas/nodeinfo:latest@sha256:{}", "0".repeat(64));
        for good in [
            "alpine",
            "functions/alpine:latest",
            "docker.io/functions/alpine:latest",
            "localhost/x",
            "localhost:5000/a/b/c:1.0-rc_1",
            "registry.local:5000/team/fn__x:V1",
            "a/b:c",
            "UPPER.host/x",
            "[::1]:5000/x",
            "a-b--c/d_e.f",
            &digest,
            &both,
        ] {
            assert!(is_reference(good), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(256);
        for bad in [
            "", " ", "a b", "a\nb", "A", "x/Y", "-a", "a-", "a//b", "/a", "a/", "a:", "a:-x", "a:b:c/d", "a@sha256:zz", "a@",
            "a___b", "a._b", "http://x/y", "host:99999/x", "host:/x", "../x", "é", "a:b c", "[::1/x", &long,
        ] {
            assert!(!is_reference(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_references_are_printable_and_bounded(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}|\\PC{0,20}") {
            if is_reference(&text) {
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
