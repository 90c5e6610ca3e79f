//! Decisions in words.

use hyperfaas_protocol::FunctionKey;
use serde::Serialize;

use crate::cluster::Decision;
use crate::scheduler::{Rule, Why};

/// A decision as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Told {
    /// Whose, `name.namespace`.
    function: String,
    /// When, milliseconds since 1970.
    pub(super) at: i64,
    /// The phase of scaling it belongs to: `up`, `down`, `multiplex`, `out`, `in`.
    phase: &'static str,
    /// What is done.
    action: String,
    /// The rule that asked for it, and the numbers it saw.
    reason: String,
}

/// `decision` on `key`, in words.
pub(super) fn told(key: &FunctionKey, decision: &Decision) -> Told {
    Told {
        function: key.to_string(),
        at: decision.at.as_millisecond(),
        phase: phase(decision),
        action: action(decision),
        reason: match &decision.trouble {
            Some(trouble) => format!("{trouble}; {}", reason(&decision.why)),
            None => reason(&decision.why),
        },
    }
}

fn phase(decision: &Decision) -> &'static str {
    match (decision.action, decision.place) {
        ("resize", _) if decision.why.rule == Rule::Cool => "down",
        ("release", Some("own")) => "down",
        ("start", _) => "out",
        ("drain", _) => "in",
        (
            "specialise" | "release" | "visit-failed" | "place-refused" | "hold" | "hold-failed",
            Some("zygote" | "standby" | "guest"),
        ) => "multiplex",
        _ => "up",
    }
}

fn action(decision: &Decision) -> String {
    let replica = decision.replica.as_deref().unwrap_or("a container");
    // Names are namespace.function.random: within one function only the end tells them apart.
    let replica = replica.rsplit('.').next().unwrap_or(replica);
    match (decision.action, decision.place) {
        ("start", _) => format!("start {replica}"),
        ("drain", _) => format!("drain {replica}"),
        ("resize", _) => format!("resize {replica}{}", grant(decision)),
        ("specialise", Some("own")) => format!("second worker in {replica}"),
        ("specialise", Some("zygote")) => format!("go on in {replica}, where it waits"),
        ("specialise", _) => format!("take a worker in {replica}"),
        ("release", _) => format!("leave the worker in {replica}"),
        ("hold", _) => format!("wait in {replica} with its interpreter"),
        ("hold-failed", _) => format!("no wait in {replica}"),
        ("visit-failed", _) => format!("no visit to {replica}"),
        ("place-refused", _) => format!("no place in {replica}"),
        (other, _) => format!("{other} {replica}"),
    }
}

fn grant(decision: &Decision) -> String {
    let cpu = decision.cpu.map_or_else(|| "all CPUs".to_owned(), |milli| format!("{milli}m CPU"));
    let memory = decision.memory.map(|bytes| format!(", {} MiB", bytes >> 20)).unwrap_or_default();
    format!(" to {cpu}{memory}")
}

/// The rule in words and what it saw.
fn reason(why: &Why) -> String {
    let mut text = rule(why.rule).to_owned();
    if why.in_flight > 0 || why.parked > 0 {
        text += &format!("; {} in flight", why.in_flight);
    }
    if why.parked > 0 {
        text += &format!(", {} waiting", why.parked);
    }
    if why.rate >= 0.05 {
        text += &format!(", {:.1} requests/s", why.rate);
    }
    if why.need >= 0.5 {
        text += &format!(", needs {:.0}m", why.need);
        if let Some(granted) = why.granted {
            text += &format!(" of {granted}m granted");
        }
    }
    text + &format!(", {} of {} replicas ready", why.ready, why.desired)
}

const fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Wanted => "more replicas were asked for",
        Rule::TooMany => "fewer replicas were asked for",
        Rule::Replaced => "a newer revision has taken over",
        Rule::Deleted => "the function was removed",
        Rule::NeedsCpu => "the load needs more CPU than is granted",
        Rule::Watermark => "it is above its high watermark",
        Rule::NeedsMemory => "it needs more memory",
        Rule::Cool => "it has used less for a while",
        Rule::WorkerFull => "one process is at its limit, the container is not",
        Rule::AtCeiling => "the containers have all they may get",
        Rule::Persists => "the load lasts",
        Rule::Slow => "requests take far longer than without a queue",
        Rule::Target => "the load exceeds the function's target",
        Rule::Waiting => "requests wait and nothing serves",
        Rule::Quiet => "fewer replicas have been enough for a while",
        Rule::Idle => "nothing was asked for in a long time",
        Rule::OwnerNeeds => "the container's owner needs the worker",
        Rule::HandedOver => "its own replicas are enough again",
        Rule::LikelyNext => "it was called more lately than others at zero",
    }
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::{FunctionName, Namespace};

    use super::*;

    fn decision(action: &'static str, place: Option<&'static str>, rule: Rule) -> Decision {
        let why = Why {
            rule,
            in_flight: 3,
            parked: 2,
            rate: 12.34,
            service_us: None,
            cost_us: None,
            need: 640.0,
            granted: Some(500),
            ready: 1,
            desired: 2,
        };
        let replica = Some("openfaas-fn.hello.k3x".to_owned());
        let at = "2024-01-01T00:00:01Z".parse().unwrap();
        Decision {
            at,
            action,
            replica,
            cpu: Some(750),
            memory: Some(64 << 20),
            place,
            trouble: None,
            why,
        }
    }

    #[test]
    fn a_decision_reads_as_a_sentence_with_its_numbers() {
        let key = FunctionKey {
            namespace: Namespace::parse("dev").unwrap(),
            name: FunctionName::parse("hello").unwrap(),
        };
        let told = told(&key, &decision("resize", None, Rule::NeedsCpu));
        assert_eq!((told.function.as_str(), told.at), ("hello.dev", 1_704_067_201_000));
        assert_eq!((told.phase, told.action.as_str()), ("up", "resize k3x to 750m CPU, 64 MiB"));
        assert_eq!(
            told.reason,
            "the load needs more CPU than is granted; 3 in flight, 2 waiting, 12.3 requests/s, needs 640m of 500m \
             granted, 1 of 2 replicas ready"
        );
    }

    #[test]
    fn each_action_belongs_to_its_phase() {
        for (action, place, expected) in [
            ("start", None, "out"),
            ("drain", None, "in"),
            ("resize", None, "up"),
            ("specialise", Some("own"), "up"),
            ("release", Some("own"), "down"),
            ("specialise", Some("standby"), "multiplex"),
            ("release", Some("guest"), "multiplex"),
        ] {
            assert_eq!(phase(&decision(action, place, Rule::Wanted)), expected, "{action}");
        }
        let cool = decision("resize", None, Rule::Cool);
        assert_eq!(phase(&cool), "down");
    }
}
