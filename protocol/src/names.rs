//! Names of functions, namespaces and secrets: parsed once, valid from then on.
//!
//! In: text from URLs and JSON. Out: newtypes that hold only valid names.
//! Source: Kubernetes DNS-1123 label and subdomain rules, as faas-netes and faas-cli apply them.
//! Always: a valid name has no `/`, no upper case, and is never `.` or `..`, so it is safe in a path.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The namespace of functions that name none.
pub const DEFAULT_NAMESPACE: &str = "openfaas-fn";

/// Longest DNS-1123 label, in bytes.
const LABEL_MAX: usize = 63;
/// Longest DNS-1123 subdomain, in bytes.
const SUBDOMAIN_MAX: usize = 253;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{what} is required")]
    Missing {
        /// What the name is for.
        what: &'static str,
    },
    /// The text breaks the rules; only a bounded prefix of it is kept.
    #[error("{what} ({text}) is invalid, must be a valid DNS entry")]
    Invalid {
        /// What the name is for.
        what: &'static str,
        /// The offending text, shortened.
        text: String,
    },
}

impl NameError {
    fn of(what: &'static str, text: &str) -> Self {
        if text.is_empty() {
            return Self::Missing { what };
        }
        let mut text: String =
            text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
        if text.len() >= 80 {
            text.push('…');
        }
        Self::Invalid { what, text }
    }
}

/// Whether `text` is a DNS-1123 label: 1–63 of `[a-z0-9-]`, no `-` at either end.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LABEL_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a DNS-1123 subdomain: labels joined by single dots, at most 253 bytes.
fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_label)
}

/// Whether a URL segment can name a function at all; anything else is a router's 404.
///
/// Source: the route pattern `[-a-zA-Z_0-9.]+` of faas-provider.
pub fn is_route_name(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks and keeps `text`.
            ///
            /// # Errors
            /// [`NameError`] when it is empty or breaks the DNS-1123 rule.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $rule(text) { Ok(Self(text.into())) } else { Err(NameError::of($what, text)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    };
}

name_type!(
    /// A function's name: a DNS-1123 label, so it holds no dot.
    FunctionName,
    "service",
    is_label
);
name_type!(
    /// A namespace's name: a DNS-1123 label.
    Namespace,
    "namespace",
    is_label
);
name_type!(
    /// A secret's name: a DNS-1123 subdomain; also its file name.
    SecretName,
    "secret name",
    is_subdomain
);

impl Namespace {
    /// The namespace `text` names, or `default` when it is empty.
    ///
    /// # Errors
    /// [`NameError::Invalid`] when it breaks the DNS-1123 rule.
    pub fn parse_or(text: &str, default: &Self) -> Result<Self, NameError> {
        if text.is_empty() { Ok(default.clone()) } else { Self::parse(text) }
    }
}

/// Which function: its name within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionKey {
    /// Where it lives.
    pub namespace: Namespace,
    /// What it is called there.
    pub name: FunctionName,
}

impl FunctionKey {
    /// The function that `reference` (`name` or `name.namespace`) means; the part after the last dot is the namespace.
    ///
    /// # Errors
    /// [`NameError`] when either part cannot name anything, so no such function can exist.
    pub fn parse_reference(reference: &str, default: &Namespace) -> Result<Self, NameError> {
        let (name, namespace) = match reference.rsplit_once('.') {
            Some((name, namespace)) => (name, Namespace::parse(namespace)?),
            None => (reference, default.clone()),
        };
        Ok(Self { namespace, name: FunctionName::parse(name)? })
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn function_names_follow_the_dns_label_rule() {
        let longest = "a".repeat(63);
        for good in ["a", "figlet", "a-b", "0", "x9-y", &longest] {
            assert!(FunctionName::parse(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "A", "a.b", "a_b", "-a", "a-", "..", "a/b", "a b", "é", "a\0", &too_long] {
            assert!(FunctionName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secret_names_may_hold_single_dots_only() {
        assert!(SecretName::parse("db.password").is_ok());
        for bad in ["", ".", "..", "a..b", ".a", "a.", "../a", "A"] {
            assert!(SecretName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_splits_at_its_last_dot() {
        let default = Namespace::parse("openfaas-fn").unwrap();
        let key = FunctionKey::parse_reference("figlet", &default).unwrap();
        assert_eq!(key.to_string(), "figlet.openfaas-fn");
        let key = FunctionKey::parse_reference("figlet.dev", &default).unwrap();
        assert_eq!((key.name.as_str(), key.namespace.as_str()), ("figlet", "dev"));
        for bad in [".openfaas-fn", "a.b.ns", "figlet.", ""] {
            assert!(FunctionKey::parse_reference(bad, &default).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_text_stays_on_one_short_line() {
        let text = FunctionName::parse(&"A\n".repeat(5000)).unwrap_err().to_string();
        assert!(text.len() < 200 && !text.contains('\n'), "{text}");
    }

    proptest! {
        #[test]
        fn valid_names_are_safe_in_paths_and_survive_a_round_trip(text in "\\PC{0,70}") {
            if let Ok(name) = FunctionName::parse(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(is_route_name(&text) && !text.contains(['/', '.']));
            }
            if let Ok(name) = SecretName::parse(&text) {
                prop_assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
            }
        }
    }
}
