//! Durations as OpenFaaS' environment variables write them.
//!
//! In: text. Out: signed nanoseconds, because Go accepts negative durations and the watchdogs give them a meaning.
//! Source: Go's `time.ParseDuration`, and "an integer means seconds" of both watchdogs and the gateway.

use std::fmt;
use std::time::Duration;

/// A signed duration with nanosecond resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    /// The duration of `seconds` whole seconds, saturating.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Go's syntax: `300ms`, `1m30s`, `-1.5h`, `0`; `None` when it is anything else or overflows.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let (nanos, tail) = parse_term(rest)?;
            total = total.checked_add(nanos)?;
            rest = tail;
        }
        Some(Self(if negative { -total } else { total }))
    }

    /// As the variables are read: a non-negative integer means seconds, everything else is Go's syntax.
    pub fn parse_setting(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse::<i64>().ok()?.checked_mul(NANOS_PER_SECOND).map(Self);
        }
        Self::parse(text)
    }

    /// The duration, or `None` when it is zero or negative (which mostly means "no limit").
    pub fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// One `number unit` term; its nanoseconds and what follows.
fn parse_term(text: &str) -> Option<(i64, &str)> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, tail) = text.split_at(digits_end);
    let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_end);
    let scale: i64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3_600 * NANOS_PER_SECOND,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(i64::from(digit - b'0') * place)?;
    }
    Some((nanos, tail))
}

impl fmt::Display for GoDuration {
    /// Go's `Duration.String`: `1m30s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if nanos < NANOS_PER_SECOND.unsigned_abs() {
            let (scale, unit) = match nanos {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            return write!(f, "{}{unit}", Decimal { value: nanos, scale });
        }
        let seconds_scale = NANOS_PER_SECOND.unsigned_abs();
        let minutes = nanos / (60 * seconds_scale);
        let seconds = Decimal { value: nanos % (60 * seconds_scale), scale: seconds_scale };
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, m) => write!(f, "{m}m{seconds}s"),
            (h, m) => write!(f, "{h}h{m}m{seconds}s"),
        }
    }
}

/// `value / scale` without trailing zeros; `scale` is a power of ten.
struct Decimal {
    value: u64,
    scale: u64,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value / self.scale)?;
        let mut rest = self.value % self.scale;
        let mut place = self.scale / 10;
        if rest > 0 {
            f.write_str(".")?;
        }
        while rest > 0 {
            write!(f, "{}", rest / place)?;
            rest %= place;
            place /= 10;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_go_parses() {
        for (text, nanos) in [
            ("300ms", 300_000_000),
            ("1m30s", 90 * NANOS_PER_SECOND),
            ("1.5h", 5400 * NANOS_PER_SECOND),
            ("-5s", -5 * NANOS_PER_SECOND),
            ("0", 0),
            (".5s", NANOS_PER_SECOND / 2),
        ] {
            assert_eq!(GoDuration::parse(text), Some(GoDuration(nanos)), "{text}");
        }
        for bad in ["", "-", "5", "1.5", "abc", "1x", "1s2", "..s", "99999999999h", "."] {
            assert_eq!(GoDuration::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bare_integer_setting_means_seconds() {
        assert_eq!(GoDuration::parse_setting("60"), Some(GoDuration::from_secs(60)));
        assert_eq!(GoDuration::parse_setting("-5"), None);
        assert_eq!(GoDuration::parse_setting("1m"), Some(GoDuration::from_secs(60)));
        assert_eq!(GoDuration::parse_setting("0").and_then(GoDuration::positive), None);
    }

    #[test]
    fn prints_like_go() {
        for text in ["30s", "1m30s", "1h0m0s", "300ms", "1.5s", "0s", "-2s", "1.5ms", "10µs"] {
            assert_eq!(GoDuration::parse(text).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(nanos in i64::MIN / 2..i64::MAX / 2) {
            prop_assert_eq!(GoDuration::parse(&GoDuration(nanos).to_string()), Some(GoDuration(nanos)));
        }

        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = GoDuration::parse_setting(&text);
        }
    }
}
