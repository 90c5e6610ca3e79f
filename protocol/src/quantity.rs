//! Kubernetes quantities: `"128Mi"` and `"250m"` to bytes and nano-CPUs.
//!
//! In: the strings of `limits` and `requests`. Out: [`Memory`] in bytes, [`Cpu`] in nano-CPUs, both rounded up.
//! Source: Kubernetes resource quantities; lower-case `k`, `m`, `g` are binary units, as old Swarm stacks write them.
//! Always: zero is a valid quantity and means "not set"; negative ones are refused.

use std::fmt;

/// Why a quantity was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid quantity \"{text}\"")]
pub struct QuantityError {
    text: String,
}

impl QuantityError {
    fn of(text: &str) -> Self {
        Self { text: text.chars().filter(|c| !c.is_control()).take(40).collect() }
    }
}

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(pub u64);

/// An amount of processor time in nano-CPUs: 1,000,000,000 is one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(pub u64);

impl Memory {
    /// Reads `128Mi`, `1e6`, `0.5Gi`, `128m` (Swarm: MiB), `1048576`.
    ///
    /// # Errors
    /// [`QuantityError`] for anything else, negative values, or more than 2^63 − 1 bytes.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let unit = |suffix: &str| -> Option<Unit> {
            Some(match suffix {
                "" => Unit::times(1),
                "K" => Unit::times(1_000),
                "M" => Unit::times(1_000_000),
                "G" => Unit::times(1_000_000_000),
                "T" => Unit::times(1_000_000_000_000),
                "P" => Unit::times(1_000_000_000_000_000),
                "E" => Unit::times(1_000_000_000_000_000_000),
                "k" | "Ki" => Unit::times(1 << 10),
                "m" | "Mi" => Unit::times(1 << 20),
                "g" | "Gi" => Unit::times(1 << 30),
                "Ti" => Unit::times(1 << 40),
                "Pi" => Unit::times(1 << 50),
                "Ei" => Unit::times(1 << 60),
                _ => return None,
            })
        };
        parse(text, unit).map(Self)
    }
}

impl Cpu {
    /// Reads `100m`, `0.1`, `1`, `2.5`, `100000n`, `100u`.
    ///
    /// # Errors
    /// [`QuantityError`] for anything else, negative values, or more than 2^63 − 1 nano-CPUs.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let unit = |suffix: &str| -> Option<Unit> {
            Some(match suffix {
                "" => Unit::times(1_000_000_000),
                "m" => Unit::times(1_000_000),
                "u" => Unit::times(1_000),
                "n" => Unit::times(1),
                "k" => Unit::times(1_000_000_000_000),
                _ => return None,
            })
        };
        parse(text, unit).map(Self)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a suffix multiplies with.
struct Unit {
    times: u128,
}

impl Unit {
    const fn times(times: u128) -> Self {
        Self { times }
    }
}

/// `mantissa [exponent | suffix]`, multiplied out and rounded up.
fn parse(text: &str, unit: impl Fn(&str) -> Option<Unit>) -> Result<u64, QuantityError> {
    value(text, unit).ok_or_else(|| QuantityError::of(text))
}

fn value(text: &str, unit: impl Fn(&str) -> Option<Unit>) -> Option<u64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (mantissa, suffix) = unsigned.split_at(end);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if fraction.contains('.')
        || whole.len() + fraction.len() == 0
        || whole.len() + fraction.len() > 19
    {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (exponent, times) = match exponent(suffix) {
        Some(exponent) => (exponent, unit("")?.times),
        None => (0, unit(suffix)?.times),
    };
    let places = exponent - i32::try_from(fraction.len()).ok()?;
    let scale = 10_u128.checked_pow(places.unsigned_abs())?;
    let scaled = digits.checked_mul(times)?;
    let value = if places < 0 { scaled.div_ceil(scale) } else { scaled.checked_mul(scale)? };
    i64::try_from(value).ok().and_then(|value| u64::try_from(value).ok())
}

/// The exponent of `e6`, `E-3`; `None` when the suffix is a unit.
fn exponent(suffix: &str) -> Option<i32> {
    let rest = suffix.strip_prefix(['e', 'E'])?;
    rest.parse().ok().filter(|e| (-30..=30).contains(e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_reads_every_form_openfaas_users_write() {
        for (text, bytes) in [
            ("128Mi", 128 << 20),
            ("5Mi", 5 << 20),
            ("1Gi", 1 << 30),
            ("0.5Gi", 512 << 20),
            ("128m", 128 << 20),
            ("1g", 1 << 30),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("128974848", 128_974_848),
            ("129M", 129_000_000),
            ("0", 0),
            ("1.5Ki", 1536),
            ("0.1", 1),
        ] {
            assert_eq!(Memory::parse(text), Ok(Memory(bytes)), "{text}");
        }
    }

    #[test]
    fn cpu_reads_milli_fractions_and_whole_processors() {
        for (text, nanos) in [
            ("100m", 100_000_000),
            ("0.1", 100_000_000),
            ("1", 1_000_000_000),
            ("2.5", 2_500_000_000),
            ("50000u", 50_000_000),
        ] {
            assert_eq!(Cpu::parse(text), Ok(Cpu(nanos)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_text_named() {
        for bad in [
            "",
            "abc",
            "-1",
            "-5Mi",
            "1..5",
            ".",
            "1 Mi",
            "Mi",
            "1Mib",
            "10Ei5",
            "99999999999999999999",
            "1e99",
            "9Ei",
            "NaN",
        ] {
            assert!(Memory::parse(bad).is_err(), "{bad}");
        }
        assert!(Cpu::parse("half").is_err());
        assert_eq!(Memory::parse("12x").unwrap_err().to_string(), "invalid quantity \"12x\"");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9.eEkKmMiGuTn+-]{0,25}") {
            let _ = (Memory::parse(&text), Cpu::parse(&text));
        }

        #[test]
        fn mebibytes_are_exact(n in 0_u64..1 << 40) {
            prop_assert_eq!(Memory::parse(&format!("{n}Mi")), Ok(Memory(n << 20)));
        }
    }
}
