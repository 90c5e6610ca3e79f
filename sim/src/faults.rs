//! What goes wrong, and when.

use std::collections::HashMap;

use hyperfaas_protocol::moment::Moment;

use crate::chance::{Chance, Purpose};
use crate::queue::{Nanos, SECOND};
use crate::site::Notice;
use crate::slab::Id;

/// How long a broken control link takes to come back; what holds is told again then.
const RECONNECT: Nanos = SECOND;

/// Something that happens once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A running container, any, ends.
    Kill,
    /// A node works at this share of its speed from now on.
    Health {
        /// Which node.
        node: usize,
        /// 1.0 is unimpaired.
        share: f64,
    },
    /// The provider's clock stands still from now on.
    ClockStops,
    /// The provider's clock goes again, and jumps ahead by so much of what it lacks, plus this.
    ClockJumps(Nanos),
}

/// Everything that goes wrong in a run.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Probability that a start fails.
    pub start_fails: f64,
    /// Probability that a line of a control link is lost: the link breaks and comes back a second later.
    pub link_breaks: f64,
    /// Probability that a line is delivered twice.
    pub doubled: f64,
    /// Most that a line is delayed beyond what is usual.
    pub late: Nanos,
    /// Load reports are multiplied by this in containers with odd numbers; 0 or 1 is the truth.
    pub lie: f64,
    /// What happens once, by time.
    pub at: Vec<(Nanos, Fault)>,
}

impl Faults {
    /// Whether nothing goes wrong.
    pub fn is_none(&self) -> bool {
        self.start_fails == 0.0
            && self.link_breaks == 0.0
            && self.doubled == 0.0
            && self.late == 0
            && self.lie == 0.0
            && self.at.is_empty()
    }

    /// Whether a container may end unasked.
    pub fn kills(&self) -> bool {
        self.at.iter().any(|(_, fault)| *fault == Fault::Kill)
    }
}

/// What becomes of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives.
    At(Nanos),
    /// It arrives twice.
    Twice(Nanos),
    /// It is lost with its link, which is back at this moment.
    Broken(Id, Nanos),
    /// It is lost while the link is down.
    Lost,
}

/// Applies [`Faults`] to what a provider hears. Lines of one container keep their order, as on a connection.
#[derive(Debug)]
pub(crate) struct Links {
    faults: Faults,
    chance: Chance,
    /// When the last line of a container arrives, and until when its link is down.
    lines: HashMap<Id, (Nanos, Nanos)>,
}

impl Links {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, chance: Chance::new(seed, Purpose::Links), lines: HashMap::new() }
    }

    /// What becomes of a line that is sent at `at`; what the engine or a connection of a request tells always arrives.
    pub(crate) fn deliver(&mut self, notice: &mut Notice, at: Nanos) -> Fate {
        let faults = &self.faults;
        let container = match notice {
            Notice::Load(id, _) | Notice::Marked(id, _) | Notice::Owner(id, _) => *id,
            Notice::Worker(id, ..) => *id,
            _ => return Fate::At(at),
        };
        if let Notice::Load(_, load) = &mut *notice
            && faults.lie > 0.0
            && container.serial() % 2 == 1
        {
            load.cpu_millicores = scaled(load.cpu_millicores, faults.lie);
            load.cpu_us = scaled(load.cpu_us, faults.lie);
            load.memory_bytes = scaled(load.memory_bytes, faults.lie);
        }
        if faults.late == 0 && faults.link_breaks == 0.0 && faults.doubled == 0.0 {
            return Fate::At(at);
        }
        let line = self.lines.entry(container).or_default();
        if at < line.1 {
            return Fate::Lost;
        }
        let late = if faults.late > 0 { self.chance.up_to(faults.late) } else { 0 };
        line.0 = line.0.max(at + late);
        if self.chance.happens(faults.link_breaks) {
            line.1 = line.0 + RECONNECT;
            return Fate::Broken(container, line.1);
        }
        if self.chance.happens(faults.doubled) { Fate::Twice(line.0) } else { Fate::At(line.0) }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; that is the point of a lie"
)]
fn scaled(value: u64, by: f64) -> u64 {
    (value as f64 * by) as u64
}

/// The clock that the provider reads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    ahead: Nanos,
    stopped_at: Option<Nanos>,
}

impl Clock {
    pub(crate) fn now(&self, now: Nanos) -> Moment {
        let shown = self.stopped_at.unwrap_or(now) + self.ahead;
        Moment::ZERO.after(std::time::Duration::from_nanos(shown))
    }

    /// When this clock will show `moment`; a stopped one is looked at again a second later.
    pub(crate) fn real(&self, moment: Moment, now: Nanos) -> Nanos {
        if self.stopped_at.is_some() {
            return now + SECOND;
        }
        let shown = moment.since(Moment::ZERO).as_nanos().saturating_sub(u128::from(self.ahead));
        u64::try_from(shown).unwrap_or(Nanos::MAX).max(now)
    }

    pub(crate) fn stop(&mut self, now: Nanos) {
        self.stopped_at.get_or_insert(now);
    }

    pub(crate) fn jump(&mut self, by: Nanos) {
        self.stopped_at = None;
        self.ahead += by;
    }
}
