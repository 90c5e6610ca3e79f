//! The labels and quantities that say how a function is scaled.
//!
//! In: a deployment's labels and its quantities. Out: a [`Scaling`], or the first contradiction as a [`ScalingError`].
//! Always: what OpenFaaS ignores is ignored (a count that is no positive integer counts as absent), and what it cannot mean is
//! refused: a maximum below the minimum, a target of nothing, a type nobody knows.
//! Source: OpenFaaS' documentation of its autoscaler; `docs/scheduling.md` has the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::duration::GoDuration;
use hyperfaas_protocol::quantity::{Cpu, Memory};

use crate::engine::Bounds;
use crate::scheduler::{Grant, Metric, Scaling};

/// The label with the least number of replicas, also the number to begin with.
pub const MIN_LABEL: &str = "com.openfaas.scale.min";
/// The label with the largest number of replicas.
pub const MAX_LABEL: &str = "com.openfaas.scale.max";
const TYPE_LABEL: &str = "com.openfaas.scale.type";
const TARGET_LABEL: &str = "com.openfaas.scale.target";
const PROPORTION_LABEL: &str = "com.openfaas.scale.target-proportion";
const ZERO_LABEL: &str = "com.openfaas.scale.zero";
const ZERO_DURATION_LABEL: &str = "com.openfaas.scale.zero-duration";
const DOWN_WINDOW_LABEL: &str = "com.openfaas.scale.down.window";
/// Ours: how much CPU one container may use in a burst, beyond its limit.
const CPU_LABEL: &str = "com.hyperfaas.scale.cpu";
/// Ours: how much memory one container may use when it needs it, beyond its limit.
const MEMORY_LABEL: &str = "com.hyperfaas.scale.memory";
/// Ours: most requests that one worker takes at once.
const IN_FLIGHT_LABEL: &str = "com.hyperfaas.max-inflight";
/// Ours: the group of functions that may share containers.
const SHARE_LABEL: &str = "com.hyperfaas.share";
/// Longest name of such a group, as of any label's value in Kubernetes.
const SHARE_MAX: usize = 63;
/// What a share group is called.
pub const SHARE_RULE: &str = "must be at most 63 letters, digits, '-', '_' or '.'";
/// The watchdogs' variable of the same meaning as [`IN_FLIGHT_LABEL`].
const IN_FLIGHT_VARIABLE: &str = "max_inflight";

/// Requests per second of one replica where a maximum is given, and neither a target nor how much CPU a replica is to have: what
/// OpenFaaS' alert rule fires at.
const ALERT_RPS: f64 = 5.0;
/// OpenFaaS' own defaults.
const TARGET: f64 = 50.0;
const PROPORTION: f64 = 0.9;
const ZERO_AFTER: Duration = Duration::from_secs(15 * 60);
/// OpenFaaS' own bound of the window.
const DOWN_WINDOW_MOST: Duration = Duration::from_secs(5 * 60);

/// Labels that contradict each other, or mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("validation failed: labels: {label}: ({text}) is invalid, {rule}")]
pub struct ScalingError {
    label: &'static str,
    text: String,
    rule: &'static str,
}

type Labels = BTreeMap<String, String>;

/// Reads the scaling of a deployment with these labels, variables and quantities.
///
/// # Errors
/// [`ScalingError`] with the first mistake.
pub(super) fn parse(
    labels: &Labels,
    variables: &Labels,
    limits: &Bounds,
    requests: &Bounds,
) -> Result<Scaling, ScalingError> {
    let (min, max) = (count(labels, MIN_LABEL), count(labels, MAX_LABEL));
    if let (Some(least), Some(most)) = (min, max)
        && most < least
    {
        return Err(wrong(labels, MAX_LABEL, "must not be below com.openfaas.scale.min"));
    }
    let (base, initial, ceiling) = grants(labels, limits, requests)?;
    // Who says what CPU a replica is to have has said what to size by.
    let has_size = limits.cpu.or(requests.cpu).is_some_and(|cpu| cpu.0 > 0);
    let (metric, target, proportion) = target(labels, max.is_some() && !has_size)?;
    let in_flight = count(labels, IN_FLIGHT_LABEL).or_else(|| count(variables, IN_FLIGHT_VARIABLE));
    Ok(Scaling {
        min: min.unwrap_or(1),
        max: max.unwrap_or(u32::MAX).max(min.unwrap_or(1)),
        metric,
        target,
        proportion,
        zero_after: zero_after(labels)?,
        down_window: duration(labels, DOWN_WINDOW_LABEL)?.map(|w| w.min(DOWN_WINDOW_MOST)),
        initial,
        base,
        ceiling,
        in_flight_max: in_flight,
        share: share(labels)?,
        has_share_label: labels.contains_key(SHARE_LABEL),
    })
}

/// The share group that the labels name; an empty one is none.
fn share(labels: &Labels) -> Result<Option<Arc<str>>, ScalingError> {
    let group = labels.get(SHARE_LABEL).map_or("", |group| group.trim());
    if group.is_empty() {
        return Ok(None);
    }
    let group = share_group(group).ok_or_else(|| wrong(labels, SHARE_LABEL, SHARE_RULE))?;
    Ok(Some(group))
}

/// `text` as the name of a share group, if it is one.
pub fn share_group(text: &str) -> Option<Arc<str>> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=SHARE_MAX).contains(&text.len()) && text.bytes().all(is_inner);
    is_name.then(|| text.into())
}

/// As [`parse`], for a deployment that was accepted before its labels were checked: only its bounds and quantities count.
pub(super) fn parse_leniently(
    labels: &Labels,
    variables: &Labels,
    limits: &Bounds,
    requests: &Bounds,
) -> Scaling {
    let min = count(labels, MIN_LABEL).unwrap_or(1);
    let max = count(labels, MAX_LABEL).unwrap_or(u32::MAX).max(min);
    let bare = parse(&Labels::new(), variables, limits, requests).unwrap_or_default();
    // With whom it may share is never guessed.
    Scaling { min, max, has_share_label: labels.contains_key(SHARE_LABEL), ..bare }
}

/// A positive integer; anything else counts as absent, as in OpenFaaS.
pub(super) fn count(values: &Labels, name: &str) -> Option<u32> {
    values.get(name)?.trim().parse().ok().filter(|count| *count > 0)
}

fn wrong(labels: &Labels, label: &'static str, rule: &'static str) -> ScalingError {
    let text = labels.get(label).map(String::as_str).unwrap_or_default();
    ScalingError { label, text: super::shorten(text), rule }
}

/// A number above 0.
fn positive(labels: &Labels, label: &'static str) -> Result<Option<f64>, ScalingError> {
    let Some(text) = labels.get(label) else { return Ok(None) };
    let number = text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.map(Some).ok_or_else(|| wrong(labels, label, "must be a number above 0"))
}

fn target(labels: &Labels, is_by_alert: bool) -> Result<(Metric, f64, f64), ScalingError> {
    let given = positive(labels, TARGET_LABEL)?;
    let proportion = positive(labels, PROPORTION_LABEL)?;
    if proportion.is_some_and(|proportion| proportion > 1.0) {
        return Err(wrong(labels, PROPORTION_LABEL, "must be at most 1"));
    }
    let metric = match labels.get(TYPE_LABEL).map(|text| text.trim()) {
        None => None,
        Some("rps") => Some(Metric::Rps),
        Some("capacity") => Some(Metric::Capacity),
        Some("cpu") => Some(Metric::Cpu),
        Some("load") => Some(Metric::Load),
        Some(_) => return Err(wrong(labels, TYPE_LABEL, "must be rps, capacity, cpu or load")),
    };
    Ok(match (metric, given) {
        (Some(metric), target) => {
            (metric, target.unwrap_or(TARGET), proportion.unwrap_or(PROPORTION))
        }
        (None, Some(target)) => (Metric::Rps, target, proportion.unwrap_or(PROPORTION)),
        (None, None) if is_by_alert => (Metric::Rps, ALERT_RPS, 1.0),
        (None, None) => (Metric::Load, 1.0, 1.0),
    })
}

fn zero_after(labels: &Labels) -> Result<Option<Duration>, ScalingError> {
    let after = duration(labels, ZERO_DURATION_LABEL)?;
    let is_on = labels.get(ZERO_LABEL).is_some_and(|text| matches!(text.trim(), "true" | "1"));
    Ok(is_on.then(|| after.unwrap_or(ZERO_AFTER)))
}

fn duration(labels: &Labels, label: &'static str) -> Result<Option<Duration>, ScalingError> {
    let Some(text) = labels.get(label) else { return Ok(None) };
    let rule = "must be a duration above 0, such as 15m or 90s";
    let parsed = GoDuration::parse_setting(text.trim()).and_then(GoDuration::positive);
    parsed.map(Some).ok_or_else(|| wrong(labels, label, rule))
}

/// What a container may use without a burst, from its creation, and in a burst.
fn grants(
    labels: &Labels,
    limits: &Bounds,
    requests: &Bounds,
) -> Result<(Grant, Grant, Grant), ScalingError> {
    let millis = |cpu: Cpu| u32::try_from(cpu.0.div_ceil(1_000_000)).unwrap_or(u32::MAX);
    let initial = Grant {
        cpu: limits.cpu.map(millis).filter(|cpu| *cpu > 0),
        memory: limits.memory.map(|memory| memory.0),
    };
    let requested = requests.cpu.map(millis).filter(|cpu| *cpu > 0);
    let base = Grant {
        cpu: initial.cpu.map(|limit| requested.map_or(limit, |base| base.min(limit))),
        memory: initial.memory,
    };
    let rule = "must be a quantity not below the limit";
    let cpu = match labels.get(CPU_LABEL) {
        None => None,
        Some(text) => {
            let most = Cpu::parse(text.trim()).map(millis);
            let most = most.map_err(|_| wrong(labels, CPU_LABEL, rule))?;
            if most < initial.cpu.unwrap_or(1) {
                return Err(wrong(labels, CPU_LABEL, rule));
            }
            Some(most)
        }
    };
    let memory = match labels.get(MEMORY_LABEL) {
        None => None,
        Some(text) => {
            let most = Memory::parse(text.trim()).map(|memory| memory.0);
            let most = most.map_err(|_| wrong(labels, MEMORY_LABEL, rule))?;
            if most < initial.memory.unwrap_or(1) {
                return Err(wrong(labels, MEMORY_LABEL, rule));
            }
            Some(most)
        }
    };
    let ceiling = Grant {
        cpu: initial.cpu.map(|limit| cpu.unwrap_or(limit)),
        memory: initial.memory.map(|limit| memory.unwrap_or(limit)),
    };
    Ok((base, initial, ceiling))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Scaling, ScalingError> {
        let cpu = |milli: u64| Some(Cpu(milli * 1_000_000));
        let limits = Bounds { cpu: cpu(400), memory: Some(Memory(64 << 20)) };
        let requests = Bounds { cpu: cpu(200), memory: None };
        parse(&labels(pairs), &Labels::new(), &limits, &requests)
    }

    #[test]
    fn nothing_said_is_scaled_by_load_without_bounds_of_its_own() {
        let scaling = read(&[]).unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.metric), (1, u32::MAX, Metric::Load));
        assert_eq!((scaling.zero_after, scaling.in_flight_max), (None, None));
        let cpu = (scaling.base.cpu, scaling.initial.cpu, scaling.ceiling.cpu);
        assert_eq!(cpu, (Some(200), Some(400), Some(400)));
        let none = parse(&Labels::new(), &Labels::new(), &Bounds::default(), &Bounds::default());
        assert_eq!(none.unwrap().ceiling, Grant::default());
    }

    #[test]
    fn labels_mean_what_openfaas_says() {
        let scaling = read(&[
            (MIN_LABEL, "2"),
            (MAX_LABEL, "9"),
            (TYPE_LABEL, "capacity"),
            (TARGET_LABEL, "7.5"),
            (ZERO_LABEL, "true"),
            (ZERO_DURATION_LABEL, "90s"),
            (DOWN_WINDOW_LABEL, "1h"),
            (IN_FLIGHT_LABEL, "4"),
            (CPU_LABEL, "2"),
            (MEMORY_LABEL, "128Mi"),
        ])
        .unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.metric), (2, 9, Metric::Capacity));
        assert_eq!((scaling.target, scaling.proportion), (7.5, 0.9));
        assert_eq!(scaling.zero_after, Some(Duration::from_secs(90)));
        assert_eq!(scaling.down_window, Some(Duration::from_secs(300)));
        assert_eq!(scaling.in_flight_max, Some(4));
        assert_eq!(scaling.ceiling, Grant { cpu: Some(2000), memory: Some(128 << 20) });
        let (bare, none) = (labels(&[(MAX_LABEL, "2")]), Labels::new());
        let alert = parse(&bare, &none, &Bounds::default(), &Bounds::default()).unwrap();
        assert_eq!((alert.metric, alert.target, alert.proportion), (Metric::Rps, 5.0, 1.0));
        let sized = Bounds { cpu: Some(Cpu(200_000_000)), memory: None };
        for (limits, requests) in [(&sized, &Bounds::default()), (&Bounds::default(), &sized)] {
            assert_eq!(parse(&bare, &none, limits, requests).unwrap().metric, Metric::Load);
        }
        let pro = read(&[(TARGET_LABEL, "50")]).unwrap();
        assert_eq!((pro.metric, pro.target, pro.proportion), (Metric::Rps, 50.0, 0.9));
        assert_eq!(read(&[(ZERO_LABEL, "true")]).unwrap().zero_after, Some(ZERO_AFTER));
    }

    #[test]
    fn counts_that_are_none_count_as_absent() {
        for text in ["", "0", "-1", "x", "1.5"] {
            let scaling = read(&[(MIN_LABEL, text), (MAX_LABEL, text)]).unwrap();
            assert_eq!((scaling.min, scaling.max), (1, u32::MAX), "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (pairs, label) in [
            (vec![(MIN_LABEL, "3"), (MAX_LABEL, "2")], MAX_LABEL),
            (vec![(TARGET_LABEL, "0")], TARGET_LABEL),
            (vec![(TARGET_LABEL, "many")], TARGET_LABEL),
            (vec![(TARGET_LABEL, "nan")], TARGET_LABEL),
            (vec![(PROPORTION_LABEL, "1.5")], PROPORTION_LABEL),
            (vec![(TYPE_LABEL, "moon")], TYPE_LABEL),
            (vec![(ZERO_DURATION_LABEL, "soon")], ZERO_DURATION_LABEL),
            (vec![(DOWN_WINDOW_LABEL, "0s")], DOWN_WINDOW_LABEL),
            (vec![(CPU_LABEL, "100m")], CPU_LABEL),
            (vec![(MEMORY_LABEL, "1Ki")], MEMORY_LABEL),
        ] {
            let error = read(&pairs).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("validation failed: labels: {label}: (")),
                "{error}"
            );
            assert!(!error.contains('\n'));
        }
    }
}
