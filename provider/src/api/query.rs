//! The query of a request, as Go's handlers read it.
//!
//! In: a URI. Out: the last value of a key, or the empty string; booleans and numbers by Go's rules.

use axum::http::Uri;

/// A decoded query.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// The query of `uri`; what cannot be decoded is replaced, never refused.
    pub(super) fn of(uri: &Uri) -> Self {
        if uri.query().is_none() {
            return Self(Vec::new());
        }
        Self(axum::extract::Query::try_from_uri(uri).map_or_else(|_| Vec::new(), |pairs| pairs.0))
    }

    /// The last value of `key`; empty when there is none.
    pub(super) fn last(&self, key: &str) -> &str {
        self.0.iter().rev().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// Whether `key` is one of the texts that Go's `ParseBool` takes for true.
    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.last(key), "1" | "t" | "T" | "true" | "TRUE" | "True")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn the_last_value_wins_and_absent_is_empty() {
        let query = query("a=1&b=x%20y&a=2&c&=d");
        assert_eq!(
            (query.last("a"), query.last("b"), query.last("c"), query.last("z")),
            ("2", "x y", "", "")
        );
    }

    #[test]
    fn booleans_are_go_booleans() {
        for yes in ["1", "t", "T", "true", "TRUE", "True"] {
            assert!(query(&format!("usage={yes}")).flag("usage"), "{yes}");
        }
        for no in ["0", "f", "false", "yes", "tRue", "", "2"] {
            assert!(!query(&format!("usage={no}")).flag("usage"), "{no}");
        }
    }

    #[test]
    fn broken_encodings_do_not_break_the_request() {
        for text in ["%", "a=%zz", "a=%ff", "&&&", "a=b=c"] {
            query(text).last("a");
        }
    }
}
