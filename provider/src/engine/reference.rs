//! Image references: `[registry/]repository[:tag][@digest]`, completed as Docker completes them.
//!
//! In: what a user wrote. Out: registry, repository and what is asked of them. Touches nothing.
//! Always: a parsed reference is safe inside a URL path (no `?`, `#`, `%`, `..`, blanks).
//! Source: the grammar of the distribution project's reference documentation.

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest registry and repository together, bytes.
const NAME_MAX: usize = 255;
/// Longest tag, bytes.
const TAG_MAX: usize = 128;

/// A valid reference, completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads `text`; `None` when it breaks the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let is_valid = is_host(registry)
            && path.split('/').all(is_component)
            && name.len() <= NAME_MAX
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        let is_short = registry == DEFAULT_REGISTRY && !path.contains('/');
        is_valid.then(|| Self {
            registry: registry.to_owned(),
            repository: if is_short { format!("library/{path}") } else { path.to_owned() },
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Registry and repository: what is pulled from.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What is pulled: the digest, else the tag, else `latest`.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The key under which `docker login` keeps this registry's login.
    pub fn login_server(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY {
            "https://index.docker.io/v1/"
        } else {
            &self.registry
        }
    }
}

/// Whether the part before the first slash is a registry rather than the first part of a repository.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_address =
            !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Lower-case words joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|run| !run.is_empty());
    let is_separator =
        |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    text.bytes().next().is_some_and(is_word)
        && text.bytes().last().is_some_and(is_word)
        && separators.into_iter().all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=TAG_MAX).contains(&tag.len()) && tag.bytes().all(inner) && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && (32..=256).contains(&hex.len())
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_are_completed_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, name, version, server) in [
            ("alpine", "docker.io/library/alpine", "latest", "https://index.docker.io/v1/"),
            ("alpine:3.20", "docker.io/library/alpine", "3.20", "https://index.docker.io/v1/"),
            (
                "functions/alpine:latest",
                "docker.io/functions/alpine",
                "latest",
                "https://index.docker.io/v1/",
            ),
            (
                "docker.io/alpine",
                "docker.io/library/alpine",
                "latest",
                "https://index.docker.io/v1/",
            ),
            ("index.docker.io/a/b", "docker.io/a/b", "latest", "https://index.docker.io/v1/"),
            ("ghcr.io/openfaas/figlet:0.1", "ghcr.io/openfaas/figlet", "0.1", "ghcr.io"),
            ("localhost/x", "localhost/x", "latest", "localhost"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b", "c", "127.0.0.1:5000"),
            (
                "local_host/x__y--z:A.b-c_",
                "docker.io/local_host/x__y--z",
                "A.b-c_",
                "https://index.docker.io/v1/",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.name().as_str(), reference.version()), (name, version), "{text}");
            assert_eq!(reference.login_server(), server, "{text}");
        }
        let pinned = Reference::parse(&format!("ghcr.io/a/b:1@sha256:{hex}")).unwrap();
        assert_eq!(pinned.version(), format!("sha256:{hex}"));
    }

    #[test]
    fn nonsense_is_no_reference() {
        let long = "a/".repeat(128) + "a";
        for bad in [
            "",
            "/",
            ":",
            "@",
            "a:",
            "A",
            "a b",
            "a?b",
            "a/../b",
            "../a",
            "a/",
            "/a",
            "a//b",
            "a%2fb",
            "a#b",
            "a:b:c",
            "http://a/b",
            "a@sha256:1",
            "a:-x",
            "a._b",
            "a---",
            "x:y/z",
            "é",
            "a\nb",
            &long,
            "host:99999/a",
        ] {
            assert_eq!(Reference::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_reference_is_safe_in_a_path(text in "[a-zA-Z0-9.:/@_%?# -]{0,40}") {
            if Reference::parse(&text).is_some() {
                prop_assert!(!text.contains(['?', '#', '%', ' ']) && !text.contains(".."));
            }
        }
    }

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
            assert!(Reference::parse(good).is_some(), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(256);
        for bad in [
            "",
            " ",
            "a b",
            "a\nb",
            "A",
            "x/Y",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a:b:c/d",
            "a@sha256:zz",
            "a@",
            "a___b",
            "a._b",
            "http://x/y",
            "host:99999/x",
            "host:/x",
            "../x",
            "é",
            "a:b c",
            "[::1/x",
            &long,
        ] {
            assert!(Reference::parse(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_references_are_printable_and_bounded(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}|\\PC{0,20}") {
            if Reference::parse(&text).is_some() {
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
