//! What must always hold, looked at after every step.
//!
//! In: the site and the provider's books. Out: nothing, or the first [`Violation`]. Numbers are those of design section 8:
//! (1) a request is answered exactly once and runs at most once; (4) none fails while another place could serve it;
//! (5) what could grow without bound is bounded; and beyond: no function has more replicas than it may have, no quota lies
//! outside its base and ceiling, no node promises more than it has, and in the end everything has settled.

use crate::measure::Outcome;
use crate::provider::{Function, Provider};
use crate::queue::Nanos;
use crate::scenario::Scenario;
use crate::site::Site;
use crate::slab::Id;

/// Something that must not happen and did.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// What.
    pub what: String,
    /// When, in virtual nanoseconds.
    pub at: Nanos,
    /// The seed that replays it.
    pub seed: u64,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (at {:.6} s, seed {})", self.what, self.at as f64 / 1e9, self.seed)
    }
}

impl std::error::Error for Violation {}

/// The books that the checks keep.
#[derive(Debug)]
pub(crate) struct Checks {
    seed: u64,
    is_thorough: bool,
    must_settle: bool,
    may_lose: bool,
    parked_max: (usize, usize),
    patience: Nanos,
}

impl Checks {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            seed: scenario.seed,
            is_thorough: scenario.is_thorough,
            must_settle: scenario.must_settle,
            may_lose: scenario.faults.kills(),
            parked_max: scenario.parked_max,
            patience: scenario.patience,
        }
    }

    pub(crate) fn violation(&self, what: impl Into<String>, at: Nanos) -> Box<Violation> {
        Box::new(Violation { what: what.into(), at, seed: self.seed })
    }

    /// A request has ended like this: was that right?
    pub(crate) fn verdict(
        &self,
        site: &Site,
        provider: &Provider,
        (request, outcome): (Id, Outcome),
        now: Nanos,
    ) -> Result<(), Box<Violation>> {
        let Some(found) = site.request(request) else {
            return Err(self.violation("a request was answered twice", now));
        };
        let function = &provider.functions()[found.function as usize];
        let name = &function.view.key.name;
        let waited = now - found.arrived;
        match outcome {
            Outcome::Answered => Ok(()),
            Outcome::Lost if self.may_lose => Ok(()),
            Outcome::Lost => {
                Err(self.violation(format!("a running request of {name} was cut off"), now))
            }
            Outcome::Full if provider.may_park(function.parked()) => {
                Err(self.violation(format!("{name} refused a request though few wait"), now))
            }
            Outcome::Late if waited < self.patience => {
                Err(self.violation(format!("{name} gave up a request too early"), now))
            }
            Outcome::Full | Outcome::Late | Outcome::Unavailable => {
                let has_room = provider.has_room(function);
                let what = || format!("{name} failed a request though a place could serve it");
                if has_room { Err(self.violation(what(), now)) } else { Ok(()) }
            }
        }
    }

    /// Everything, after one step.
    pub(crate) fn step(
        &self,
        site: &Site,
        provider: &Provider,
        now: Nanos,
    ) -> Result<(), Box<Violation>> {
        if let Some(offence) = provider.offence() {
            return Err(self.violation(offence, now));
        }
        if !self.is_thorough {
            return Ok(());
        }
        for function in provider.functions() {
            self.bounds(function, now)?;
        }
        if provider.parked() > self.parked_max.1 {
            return Err(self.violation("more requests wait than may", now));
        }
        for (id, container) in site.containers() {
            let most = container.cpu_quota();
            if most.is_some_and(|cpus| cpus <= 0.0) {
                return Err(self.violation(format!("container {} has no CPU", id.serial()), now));
            }
        }
        Ok(())
    }

    fn bounds(&self, function: &Function, now: Nanos) -> Result<(), Box<Violation>> {
        let view = &function.view;
        let name = &view.key.name;
        let Some(wanted) = &view.wanted else { return Ok(()) };
        let scaling = &wanted.scaling;
        let most = scaling.max.max(wanted.replicas) as usize;
        if function.live() > most {
            let what = format!("{name} has {} replicas and may have {most}", function.live());
            return Err(self.violation(what, now));
        }
        if function.parked() > self.parked_max.0 {
            return Err(self.violation(format!("more requests of {name} wait than may"), now));
        }
        for replica in view.replicas.iter().filter(|replica| replica.phase.is_live()) {
            let (Some(cpu), Some(ceiling)) = (replica.grant.cpu, scaling.ceiling.cpu) else {
                continue;
            };
            let least = scaling.base.cpu.unwrap_or(0).min(scaling.initial.cpu.unwrap_or(0));
            if cpu > ceiling || cpu < least {
                let what = format!("{name} was granted {cpu}m, outside {least}m to {ceiling}m");
                return Err(self.violation(what, now));
            }
        }
        Ok(())
    }

    /// Nothing more will happen: is everything as it should be?
    pub(crate) fn end(
        &self,
        site: &Site,
        provider: &Provider,
        now: Nanos,
    ) -> Result<(), Box<Violation>> {
        if let Some((id, request)) = site.requests().iter().next() {
            let what = format!(
                "request {} of function {} was never answered: {request:?}",
                id.serial(),
                request.function
            );
            return Err(self.violation(what, now));
        }
        if !self.must_settle {
            return Ok(());
        }
        for function in provider.functions() {
            let (live, desired) = (function.live(), function.view.scale.desired);
            let name = &function.view.key.name;
            if live != desired as usize {
                let what =
                    format!("{name} has {live} replicas in the end and should have {desired}");
                return Err(self.violation(what, now));
            }
            if let Some(guest) = function.view.guests.first() {
                let what = format!("{name} is still a guest in the end: {guest:?}");
                return Err(self.violation(what, now));
            }
            self.grants(function, now)?;
        }
        Ok(())
    }

    /// What was lent has been given back.
    fn grants(&self, function: &Function, now: Nanos) -> Result<(), Box<Violation>> {
        let view = &function.view;
        let Some(base) = view.wanted.as_ref().and_then(|wanted| wanted.scaling.base.cpu) else {
            return Ok(());
        };
        // A difference of less than a twentieth, or 10m, is not worth a write to the scheduler.
        let most = base + (base / 20).max(10);
        let above =
            view.replicas.iter().find(|replica| replica.grant.cpu.is_some_and(|c| c >= most));
        match above {
            Some(replica) => {
                let cpu = replica.grant.cpu.unwrap_or_default();
                let what = format!("{} still has {cpu}m of {base}m in the end", view.key.name);
                Err(self.violation(what, now))
            }
            None => Ok(()),
        }
    }
}
