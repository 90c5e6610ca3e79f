//! One function at one moment, summed up once: what every part of its plan looks at.
//!
//! In: a function as it stands, the policy, the moment. Out: sums over its replicas and guests, and what follows from them.
//! Units: millicores, requests per second.
//! Always: equal functions look equal; nothing is changed here.
//! Cost: one pass over the replicas, however many questions are asked afterwards.

use hyperfaas_protocol::moment::Moment;

use super::demand::{backlog, fresh_cpu, share};
use super::policy::Policy;
use super::snapshot::{FunctionView, Phase};
use super::why::{Rule, Why};

/// A function at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) function: &'a FunctionView,
    pub(super) policy: &'a Policy,
    pub(super) now: Moment,
    pub(super) sums: Sums,
}

/// What a function comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    /// Requests being served, in all its places.
    pub(super) in_flight: u32,
    /// Replicas that are or may become able to serve.
    pub(super) live: u32,
    /// Replicas that take requests.
    pub(super) ready: u32,
    /// Millicores of these together; `None` when one of them has no limit.
    pub(super) granted: Option<u32>,
    /// Millicores that these used by their last reports, as far as they are fresh.
    pub(super) measured: f64,
    /// Requests per second by the newest rate there is.
    pub(super) rate: f64,
    /// CPU time of one request, microseconds; `None` while unknown.
    pub(super) cost_us: Option<f64>,
}

impl Sums {
    /// Of `function` at `now`.
    pub(super) fn of(function: &FunctionView, now: Moment) -> Self {
        let mut sums = Self {
            in_flight: function.guests.iter().map(|guest| guest.in_flight).sum(),
            live: 0,
            ready: 0,
            granted: Some(0),
            measured: 0.0,
            rate: function.traffic.rate(now),
            cost_us: function.traffic.cost_us(),
        };
        for replica in &function.replicas {
            sums.in_flight += replica.own_in_flight();
            sums.live += u32::from(replica.phase.is_live());
            if replica.phase == Phase::Ready {
                sums.ready += 1;
                let both = sums.granted.zip(replica.grant.cpu);
                sums.granted = both.map(|(sum, cpu)| sum.saturating_add(cpu));
                sums.measured += fresh_cpu(replica, now).map_or(0.0, f64::from);
            }
        }
        sums
    }

    /// Millicores that the function uses, or by what arrives is about to: what it adds to the use of its host.
    pub(super) fn expected_use(&self) -> f64 {
        self.measured.max(self.rate * self.cost_us.unwrap_or(0.0) / 1000.0)
    }

    fn arriving(&self) -> f64 {
        match self.cost_us {
            Some(cost_us) => (self.rate * cost_us / 1000.0).max(self.measured),
            None => self.measured,
        }
    }
}

impl<'a> Look<'a> {
    pub(super) fn at(function: &'a FunctionView, policy: &'a Policy, now: Moment) -> Self {
        Self { function, policy, now, sums: Sums::of(function, now) }
    }

    /// Requests in flight and parked.
    pub(super) fn waiting(&self) -> u32 {
        self.sums.in_flight + self.function.parked
    }

    /// Whether nothing is in flight and nothing parked.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting() == 0
    }

    /// Millicores needed, by the newest rate there is.
    pub(super) fn need(&self) -> f64 {
        self.sums.arriving() / share(self.policy.utilisation) + self.burst_backlog()
    }

    /// The same without head room: with less, queues grow.
    pub(super) fn bare_need(&self) -> f64 {
        self.sums.arriving() + self.burst_backlog()
    }

    fn burst_backlog(&self) -> f64 {
        backlog(self.sums.cost_us, self.waiting(), self.policy.backlog_horizon)
    }

    /// What `rule` saw, where so many millicores are needed.
    pub(super) fn why(&self, rule: Rule, need: f64) -> Why {
        Why {
            rule,
            in_flight: self.sums.in_flight,
            parked: self.function.parked,
            rate: self.sums.rate,
            service_us: self.function.traffic.service_us(),
            cost_us: self.sums.cost_us,
            need,
            granted: self.sums.granted,
            ready: self.sums.ready,
            desired: self.function.scale.desired,
        }
    }
}
