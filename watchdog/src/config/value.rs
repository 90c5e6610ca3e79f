//! How a variable's text becomes a value, by the rules of Go's parsers and of each original.

use hyperfaas_protocol::duration::GoDuration;

use super::Dialect;

/// The environment as a lookup.
pub(super) struct Vars<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    /// The value unless it is empty.
    pub(super) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// Whether the value is exactly `true`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.text(name).as_deref() == Some("true")
    }

    /// For switches that are on by default: on when unset, else only by exactly `true`.
    pub(super) fn is_true_or_unset(&self, name: &str) -> bool {
        self.text(name).is_none_or(|value| value == "true")
    }

    /// of-watchdog also takes `1`.
    pub(super) fn switch(&self, name: &str, dialect: Dialect) -> bool {
        self.is_true(name)
            || (dialect == Dialect::OfWatchdog && self.text(name).as_deref() == Some("1"))
    }

    /// Go's `ParseBool`; `None` when unset or nonsense.
    pub(super) fn go_bool(&self, name: &str) -> Option<bool> {
        match self.text(name)?.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        }
    }

    pub(super) fn int(&self, name: &str) -> Option<i64> {
        int(&self.text(name)?)
    }

    /// Nonsense silently means the default, as in both originals.
    pub(super) fn duration(&self, name: &str, default: GoDuration) -> GoDuration {
        self.text(name).and_then(|text| GoDuration::parse_setting(&text)).unwrap_or(default)
    }
}

/// Go's `Atoi`.
pub(super) fn int(text: &str) -> Option<i64> {
    text.parse().ok()
}
