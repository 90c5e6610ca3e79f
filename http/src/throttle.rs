//! Slows down who guesses passwords: failed logins by address.
//!
//! In: the address of a caller, and whether it failed. Out: whether it may try now, or how long it has to wait.
//! Units: failures; an address may fail [`BURST`] times at once and once every [`REFILL`] after that.
//! Always: at most [`ADDRESSES_MAX`] addresses are remembered; when they are all busy, the others share one allowance.
//! Source: token bucket. IPv6 callers count by their /64, which is what one of them gets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Failures that are allowed at once: a person who mistypes, a script with an old password that is noticed.
const BURST: u32 = 20;
/// Time after which one more failure is allowed.
const REFILL: Duration = Duration::from_secs(2);
/// Addresses remembered, about 64 bytes each.
const ADDRESSES_MAX: usize = 10_000;

/// Failed logins by address.
#[derive(Debug, Default)]
pub struct Throttle {
    by_address: HashMap<IpAddr, Allowance>,
    /// For addresses that found no room.
    others: Option<Allowance>,
}

/// When an address has all its allowance again; each failure moves that by [`REFILL`].
type Allowance = Instant;

impl Throttle {
    /// Whether `peer` may try to log in at `now`.
    ///
    /// # Errors
    /// How long it has to wait, when it has failed too often.
    pub fn check(&self, peer: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let full_at = peer.and_then(|ip| self.by_address.get(&key(ip))).or(match peer {
            Some(_) if self.by_address.len() < ADDRESSES_MAX => None,
            _ => self.others.as_ref(),
        });
        let Some(full_at) = full_at else { return Ok(()) };
        let debt = full_at.saturating_duration_since(now);
        match debt.checked_sub(REFILL * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// `peer` has failed to log in.
    pub fn failed(&mut self, peer: Option<IpAddr>, now: Instant) {
        let Some(peer) = peer.map(key) else { return spend(&mut self.others, now) };
        if !self.by_address.contains_key(&peer) && self.by_address.len() >= ADDRESSES_MAX {
            self.by_address.retain(|_, full_at| *full_at > now);
            if self.by_address.len() >= ADDRESSES_MAX {
                return spend(&mut self.others, now);
            }
        }
        let full_at = self.by_address.entry(peer).or_insert(now);
        *full_at = (*full_at).max(now) + REFILL;
    }

    /// `peer` has logged in: what it failed before is forgiven.
    pub fn succeeded(&mut self, peer: Option<IpAddr>) {
        if let Some(peer) = peer {
            self.by_address.remove(&key(peer));
        }
    }

    /// Whether anything is remembered, so that a success has something to forgive.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }
}

fn spend(allowance: &mut Option<Allowance>, now: Instant) {
    *allowance = Some(allowance.map_or(now, |full_at| full_at.max(now)) + REFILL);
}

/// What counts as one caller.
fn key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn whoever_fails_too_often_waits_and_others_do_not() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(throttle.check(ip("10.0.0.1"), now), Ok(()));
            throttle.failed(ip("10.0.0.1"), now);
        }
        assert_eq!(throttle.check(ip("10.0.0.1"), now), Err(REFILL));
        assert_eq!(
            throttle.check(ip("::ffff:10.0.0.1"), now),
            Err(REFILL),
            "the same in another spelling"
        );
        assert_eq!(throttle.check(ip("10.0.0.2"), now), Ok(()));
        assert_eq!(throttle.check(ip("10.0.0.1"), now + REFILL), Ok(()));
        throttle.failed(ip("10.0.0.1"), now + REFILL);
        assert!(throttle.check(ip("10.0.0.1"), now + REFILL).is_err(), "one more, not all of them");
        throttle.succeeded(ip("10.0.0.1"));
        assert_eq!(throttle.check(ip("10.0.0.1"), now), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_overflow_is_slowed_too() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for number in 0..40_000_u32 {
            throttle.failed(Some(IpAddr::V4((0x0a00_0000 + number).into())), now);
        }
        assert_eq!(throttle.by_address.len(), ADDRESSES_MAX);
        assert!(throttle.check(ip("192.0.2.1"), now).is_err());
        let later = now + REFILL * 2;
        throttle.failed(ip("192.0.2.2"), later);
        assert_eq!(throttle.by_address.len(), 1, "what is forgiven makes room");
    }

    #[test]
    fn a_v6_caller_is_its_network() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for host in 0..=BURST {
            throttle.failed(ip(&format!("2001:db8::{host:x}")), now);
        }
        assert!(throttle.check(ip("2001:db8::ffff"), now).is_err());
        assert!(throttle.check(ip("2001:db8:0:1::1"), now).is_ok());
    }
}
