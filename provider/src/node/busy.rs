//! How much of the host's CPU is in use, by whatever runs on it.
//!
//! In: the text of `/proc/stat`, which shows the whole host in a container too. Out: parts per thousand of all its CPUs, over the
//! time since the look before.
//! Always: nothing is known of a time that is too short or too long ago to say something about now.
//! Source: proc_stat(5).

use std::time::Duration;

use hyperfaas_protocol::moment::Moment;

/// The kernel's file.
pub(super) const FILE: &str = "/proc/stat";
/// A look sooner than this after the one before keeps what that one saw.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// What lies further back says nothing of now.
const LONGEST: Duration = Duration::from_secs(5);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Busy {
    last: Option<(Moment, Ticks)>,
    permille: Option<u32>,
}

/// Time of all CPUs, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Busy {
    /// Whether a look at `now` would be news.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.last.is_none_or(|(at, _)| now.since(at) >= SHORTEST)
    }

    /// Takes in the file's text.
    pub(super) fn see(&mut self, text: &str, now: Moment) {
        let Some(ticks) = ticks(text) else { return };
        let before = self.last.replace((now, ticks));
        self.permille = before.filter(|(at, _)| now.since(*at) <= LONGEST).and_then(|(_, old)| {
            let all = ticks.all.checked_sub(old.all).filter(|all| *all > 0)?;
            let busy = ticks.busy.checked_sub(old.busy)?.min(all);
            u32::try_from(busy.saturating_mul(1000) / all).ok()
        });
    }

    /// Parts per thousand of all CPUs that were in use, if that is known.
    pub(super) fn permille(&self) -> Option<u32> {
        self.permille
    }
}

/// The line of all CPUs: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice.
fn ticks(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all = fields.iter().fold(0_u64, |sum, part| sum.saturating_add(*part));
    let idle = fields.get(3)?.saturating_add(*fields.get(4)?);
    Some(Ticks { busy: all.saturating_sub(idle), all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_what_is_not_idle_since_the_look_before() {
        let (mut busy, at) = (Busy::default(), Moment::from_millis);
        assert!(busy.is_due(at(0)));
        busy.see("cpu  100 0 0 900 0 0 0 0 7 7\ncpu0 1 1 1 1\n", at(0));
        assert_eq!(busy.permille(), None);
        assert!(!busy.is_due(at(999)) && busy.is_due(at(1000)));
        busy.see("cpu  150 0 25 1000 25 0 0 0 7 7\n", at(1000));
        assert_eq!(busy.permille(), Some(375));
        busy.see("cpu  150 0 25 1200 25 0 0 0\n", at(60_000));
        assert_eq!(busy.permille(), None, "that was long ago");
        busy.see("cpu  1 0 0 1 0 0 0 0\n", at(61_000));
        assert_eq!(busy.permille(), None, "it counts backwards");
        busy.see("intr 5\n", at(62_000));
        busy.see("cpu  x\n", at(62_000));
        assert_eq!(busy.permille(), None);
    }
}
