//! The shapes of bursts. In: rates and lengths. Out: phases for each function, the moment of the step, and how to begin.

use std::time::Duration;

use clap::ValueEnum;
use hyperfaas_trace::rate::Phase;
use serde::{Deserialize, Serialize};

/// Length of a short spike.
const SPIKE: Duration = Duration::from_secs(2);
/// From the beginning of one spike to the next.
const SPIKE_EVERY: Duration = Duration::from_secs(20);
/// Length of a phase of two functions that take turns.
const TURN: Duration = Duration::from_secs(20);

/// What happens after the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// Five times the baseline, at once and for good.
    Step5,
    /// Fifteen times the baseline, at once and for good.
    Step15,
    /// Fifteen times the baseline for 2 s, every 20 s.
    Spikes,
    /// To fifteen times the baseline in a straight line over half of the time.
    Ramp,
    /// Two functions: one has fifteen times its baseline while the other has its baseline, and the other way round, by turns.
    Opposite,
    /// From no replica and no call to fifteen times the baseline.
    Zero,
}

impl Shape {
    /// As files are named.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Step5 => "step5",
            Self::Step15 => "step15",
            Self::Spikes => "spikes",
            Self::Ramp => "ramp",
            Self::Opposite => "opposite",
            Self::Zero => "zero",
        }
    }

    /// The rate after the step over the rate before.
    pub(crate) fn factor(self) -> f64 {
        if self == Self::Step5 { 5.0 } else { 15.0 }
    }
}

/// A baseline, in calls a second, and how long it and what follows last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// Calls a second before the step.
    pub(crate) rate: f64,
    /// Length of the baseline.
    pub(crate) before: Duration,
    /// Length of all that follows.
    pub(crate) after: Duration,
}

impl Frame {
    /// The phases of each function; the step is at [`Frame::before`].
    pub(crate) fn phases(&self, shape: Shape) -> Vec<Vec<Phase>> {
        let (low, high) = (self.rate, self.rate * shape.factor());
        let baseline = Phase::constant(if shape == Shape::Zero { 0.0 } else { low }, self.before);
        let then = |phases: Vec<Phase>| {
            std::iter::once(baseline).chain(cut(phases, self.after)).collect::<Vec<_>>()
        };
        match shape {
            Shape::Step5 | Shape::Step15 | Shape::Zero => {
                vec![then(vec![Phase::constant(high, self.after)])]
            }
            Shape::Ramp => {
                let half = self.after / 2;
                let rise = Phase { from: low, to: high, length: half };
                vec![then(vec![rise, Phase::constant(high, half)])]
            }
            Shape::Spikes => {
                let pair = [
                    Phase::constant(high, SPIKE),
                    Phase::constant(low, SPIKE_EVERY.saturating_sub(SPIKE)),
                ];
                vec![then(self.repeated(&pair))]
            }
            Shape::Opposite => {
                let (up, down) = (Phase::constant(high, TURN), Phase::constant(low, TURN));
                vec![then(self.repeated(&[up, down])), then(self.repeated(&[down, up]))]
            }
        }
    }

    fn repeated(&self, phases: &[Phase]) -> Vec<Phase> {
        let length = phases.iter().map(|phase| phase.length).sum::<Duration>();
        let times = self.after.as_secs_f64() / length.as_secs_f64().max(1e-9);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few turns")]
        let times = times.ceil() as usize;
        phases.repeat(times)
    }
}

/// `phases` up to a total `length`; a last one of changing rate is never cut in the shapes above.
fn cut(phases: Vec<Phase>, length: Duration) -> Vec<Phase> {
    let mut left = length;
    let mut kept = Vec::new();
    for phase in phases {
        let length = phase.length.min(left);
        left -= length;
        if !length.is_zero() {
            kept.push(Phase { length, ..phase });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_its_length_and_begins_with_its_baseline() {
        let seconds = Duration::from_secs;
        let frame = Frame { rate: 4.0, before: seconds(20), after: seconds(90) };
        for shape in Shape::value_variants() {
            for phases in frame.phases(*shape) {
                let length = phases.iter().map(|phase| phase.length).sum::<Duration>();
                assert_eq!(length, seconds(110), "{shape:?}");
                let baseline = if *shape == Shape::Zero { 0.0 } else { 4.0 };
                assert_eq!(phases[0], Phase::constant(baseline, seconds(20)), "{shape:?}");
                let highest = phases.iter().map(|phase| phase.to).fold(0.0, f64::max);
                assert_eq!(highest, 4.0 * shape.factor(), "{shape:?}");
            }
        }
    }

    #[test]
    fn opposite_functions_are_never_busy_at_once() {
        let seconds = Duration::from_secs;
        let frame = Frame { rate: 1.0, before: seconds(5), after: seconds(90) };
        let [a, b] = &frame.phases(Shape::Opposite)[..] else { panic!("two functions") };
        assert!(a.iter().zip(b).skip(1).all(|(a, b)| a.from != b.from && a.length == b.length));
    }
}
