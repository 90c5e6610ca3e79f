//! A synthetic trace with published characteristics, for tests and simulations of any size.
//!
//! In: a [`Shape`]. Out: a [`Trace`] with durations and memory.
//!
//! From Shahrad et al., "Serverless in the Wild" (USENIX ATC '20): 45 % are called at most once an hour and 81 % at most
//! once a minute on average, and the rest makes 99.6 % of all calls (section 3.3; there of applications); 15.6 % are
//! called by timers (table 1); load rises by day and falls to half by night (figure 4); mean durations are log-normal
//! with log-mean -0.38 and sigma 2.36 in seconds (figure 7); memory follows Burr with c 11.652, k 0.221, lambda
//! 107.083 in MB (figure 8). Our own, because the paper gives no model: how calls cluster in minutes (a two-state
//! chain, see [`Bursts`]), the spread of durations within a function, and that rate, duration and memory are independent.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, LogNormal, Poisson};

use crate::{Function, Quantiles, Random, Trace, random};

/// Calls a minute below which the given share of functions lies; straight lines in between on a logarithmic scale.
/// The first is once a day, the least that a day's trace can show.
const POPULARITY: [(f64, f64); 3] = [(0.0, 1.0 / 1440.0), (0.45, 1.0 / 60.0), (0.81, 1.0)];
/// Calls a minute of the most popular function. With it the upper 19 % make the 99.6 % of all calls that they made in Azure.
const BUSIEST: f64 = 800.0;
/// Share of functions called by a timer.
const TIMERS: f64 = 0.156;
/// Share of the other functions whose calls come in bursts; the rest is Poisson around the time of day.
const BURSTY: f64 = 0.6;
/// Night's load, as a share of the day's peak.
const NIGHT: f64 = 0.5;
/// Sigma of a function's own durations and memory around its mean, on a logarithmic scale.
const WITHIN: f64 = 0.4;
/// Shortest and longest mean duration, in ms; the paper's 96 % are below a minute.
const DURATION_MS: (f64, f64) = (1.0, 60_000.0);
/// Most memory of a function, in MiB.
const MEMORY_MAX: f64 = 1536.0;
/// Minutes of a day.
const DAY: f64 = 1440.0;
/// Probabilities at which quantiles are given, and the standard normal's value there (cut at 3 sigma).
const NORMAL: [(f64, f64); 7] = [
    (0.0, -3.0),
    (0.01, -2.326),
    (0.25, -0.674),
    (0.5, 0.0),
    (0.75, 0.674),
    (0.99, 2.326),
    (1.0, 3.0),
];

/// What to generate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// How many functions.
    pub functions: usize,
    /// How many minutes.
    pub minutes: usize,
    /// Calls a minute of the most popular function, on average; scales the upper fifth only.
    pub busiest: f64,
    /// Replays the very same trace.
    pub seed: u64,
}

impl Default for Shape {
    /// 100 functions, one day.
    fn default() -> Self {
        Self { functions: 100, minutes: 1440, busiest: BUSIEST, seed: 1 }
    }
}

/// Generates.
pub fn generate(shape: &Shape) -> Trace {
    let mut random = random(shape.seed);
    let mut rates = rates(shape, &mut random);
    rates.shuffle(&mut random);
    let functions = rates.into_iter().enumerate().map(|(index, rate)| Function {
        name: format!("f{index:05}"),
        per_minute: Pattern::draw(rate, &mut random).minutes(rate, shape.minutes, &mut random),
        duration_ms: around(mean_duration_ms(&mut random), f64::INFINITY),
        memory_mib: around(memory_mib(&mut random), MEMORY_MAX),
    });
    Trace { functions: functions.collect() }
}

/// One mean rate a function, calls a minute, rising: one from each of equally likely slices of the popularity.
fn rates(shape: &Shape, random: &mut Random) -> Vec<f64> {
    let last = (1.0, shape.busiest.max(1.0));
    let points =
        POPULARITY.iter().chain([&last]).map(|(p, rate)| (*p, (rate * DAY).ln())).collect();
    let Some(logarithms) = Quantiles::new(points) else { return Vec::new() };
    let slice = |index: usize| (index as f64 + random.random::<f64>()) / shape.functions as f64;
    (0..shape.functions).map(slice).map(|p| logarithms.at(p).exp() / DAY).collect()
}

/// How a function's calls lie in time.
enum Pattern {
    /// Every so many minutes, or so many every minute.
    Timer { offset: usize },
    /// Poisson around the time of day.
    Steady,
    /// Like steady, but most calls come in clusters of minutes.
    Bursty(Bursts),
}

/// A chain of quiet and busy minutes.
struct Bursts {
    /// Share of busy minutes.
    busy: f64,
    /// How likely a busy minute is followed by a quiet one.
    ends: f64,
}

/// Share of a bursty function's calls that come in busy minutes.
const IN_BURSTS: f64 = 0.9;

impl Pattern {
    fn draw(rate: f64, random: &mut Random) -> Self {
        if random.random_bool(TIMERS) {
            let offset = random.random_range(0..period(rate));
            return Self::Timer { offset };
        }
        if !random.random_bool(BURSTY) {
            return Self::Steady;
        }
        // Busy 2 to 30 % of the time, 1 to 10 minutes at a stretch.
        let busy = random.random_range(0.02..0.3);
        Self::Bursty(Bursts { busy, ends: 1.0 / random.random_range(1.0..10.0) })
    }

    fn minutes(&self, rate: f64, minutes: usize, random: &mut Random) -> Vec<u32> {
        let mut is_busy = matches!(self, Self::Bursty(bursts) if random.random_bool(bursts.busy));
        let minute = |minute: usize| match self {
            Self::Timer { offset } => by_timer(rate, minute + offset),
            Self::Steady => count(rate * time_of_day(minute), random),
            Self::Bursty(bursts) => {
                is_busy = bursts.next(is_busy, random);
                count(rate * time_of_day(minute) * bursts.factor(is_busy), random)
            }
        };
        (0..minutes).map(minute).collect()
    }
}

impl Bursts {
    fn next(&self, is_busy: bool, random: &mut Random) -> bool {
        // Such that in the long run `busy` of all minutes are busy.
        let begins = (self.ends * self.busy / (1.0 - self.busy)).min(1.0);
        if is_busy { !random.random_bool(self.ends) } else { random.random_bool(begins) }
    }

    fn factor(&self, is_busy: bool) -> f64 {
        if is_busy { IN_BURSTS / self.busy } else { (1.0 - IN_BURSTS) / (1.0 - self.busy) }
    }
}

/// Minutes between two calls of a timer.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to a day's minutes")]
fn period(rate: f64) -> usize {
    (1.0 / rate).round().clamp(1.0, DAY) as usize
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count a minute")]
fn by_timer(rate: f64, minute: usize) -> u32 {
    if minute.is_multiple_of(period(rate)) { rate.round().max(1.0) as u32 } else { 0 }
}

/// The load at a minute of the day over the day's mean: highest at noon, lowest at midnight.
fn time_of_day(minute: usize) -> f64 {
    let swing = (1.0 - NIGHT) / (1.0 + NIGHT);
    1.0 - swing * (std::f64::consts::TAU * (minute as f64 / DAY)).cos()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to u32's range")]
fn count(mean: f64, random: &mut Random) -> u32 {
    let drawn = Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(random));
    drawn.clamp(0.0, f64::from(u32::MAX)) as u32
}

fn mean_duration_ms(random: &mut Random) -> f64 {
    let seconds: f64 = LogNormal::new(-0.38, 2.36).map_or(1.0, |law| law.sample(random));
    (seconds * 1e3).clamp(DURATION_MS.0, DURATION_MS.1)
}

fn memory_mib(random: &mut Random) -> f64 {
    let u = random.random::<f64>();
    let burr = 107.083 * ((1.0 - u).powf(-1.0 / 0.221) - 1.0).powf(1.0 / 11.652);
    burr.clamp(1.0, MEMORY_MAX)
}

/// A log-normal distribution with this mean, cut at 3 sigma and at `most`.
fn around(mean: f64, most: f64) -> Option<Quantiles> {
    let median = mean / (WITHIN * WITHIN / 2.0).exp();
    let point = |(p, z): &(f64, f64)| (*p, (median * (WITHIN * z).exp()).min(most));
    Quantiles::new(NORMAL.iter().map(point).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(functions: usize) -> Trace {
        generate(&Shape { functions, ..Shape::default() })
    }

    /// Mean calls a minute of each function, rising.
    fn means(trace: &Trace) -> Vec<f64> {
        let mut means = trace.functions.iter().map(|f| f.calls() as f64 / DAY).collect::<Vec<_>>();
        means.sort_by(f64::total_cmp);
        means
    }

    #[test]
    fn most_functions_are_rare_and_few_make_nearly_all_calls() {
        let trace = day(1000);
        let means = means(&trace);
        let at_most = |rate: f64| means.partition_point(|mean| *mean <= rate) as f64 / 1000.0;
        assert!((0.40..0.52).contains(&at_most(1.0 / 60.0)), "hourly {}", at_most(1.0 / 60.0));
        assert!((0.78..0.85).contains(&at_most(1.0)), "minutely {}", at_most(1.0));
        let popular = means[814..].iter().sum::<f64>() / means.iter().sum::<f64>();
        assert!((0.99..0.999).contains(&popular), "share of the popular {popular}");
    }

    #[test]
    fn minutes_are_burstier_than_chance() {
        let trace = day(500);
        let over = trace.functions.iter().filter(|f| f.calls() > 1440).filter(|f| {
            let mean = f.calls() as f64 / DAY;
            let square = |count: &u32| (f64::from(*count) - mean).powi(2);
            // Poisson's variance equals its mean; three times that is a burst.
            f.per_minute.iter().map(square).sum::<f64>() / DAY > 3.0 * mean
        });
        let busy = trace.functions.iter().filter(|f| f.calls() > 1440).count();
        let share = over.count() as f64 / busy as f64;
        assert!((0.4..0.95).contains(&share), "{share}");
    }

    #[test]
    fn nights_are_quieter() {
        let trace = day(1000);
        let sum = |from, to| trace.cut(from, to).calls() as f64;
        let ratio = (sum(0, 60) + sum(1380, 1440)) / sum(660, 780);
        assert!((0.35..0.75).contains(&ratio), "{ratio}");
    }

    #[test]
    fn durations_and_memory_have_the_published_medians() {
        let trace = day(2000);
        let median = |values: Vec<f64>| {
            let mut values = values;
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let duration = median(
            trace.functions.iter().map(|f| f.duration_ms.as_ref().unwrap().mean()).collect(),
        );
        // e^-0.38 s = 684 ms.
        assert!((550.0..850.0).contains(&duration), "{duration} ms");
        let memory = median(
            trace.functions.iter().map(|f| f.memory_mib.as_ref().unwrap().median()).collect(),
        );
        // The paper's own text: half of all applications take at most 170 MB on average; Burr gives 140.
        assert!((110.0..175.0).contains(&memory), "{memory} MiB");
    }

    #[test]
    fn a_seed_replays_and_sizes_are_as_asked() {
        let shape = Shape { functions: 30, minutes: 20, ..Shape::default() };
        let trace = generate(&shape);
        assert_eq!((trace.functions.len(), trace.minutes()), (30, 20));
        assert_eq!(trace, generate(&shape));
        assert_ne!(trace, generate(&Shape { seed: 2, ..shape }));
        assert!(generate(&Shape { functions: 0, ..shape }).functions.is_empty());
    }
}
