//! One run: a site, a provider, arrivals and faults, event by event until everything is over.
//!
//! In: a [`Scenario`]. Out: a [`Summary`], or the first [`Violation`] of what must always hold.
//! Always: equal scenarios give equal runs, to the last event.

use hyperfaas_trace::Arrival;

use crate::chance::{Chance, Purpose};
use crate::check::{Checks, Violation};
use crate::faults::{Clock, Fate, Fault, Links};
use crate::measure::{Outcome, Summary};
use crate::provider::Provider;
use crate::queue::{Nanos, Queue};
use crate::record::Recorder;
use crate::scenario::Scenario;
use crate::service::Work;
use crate::site::{Notice, Site};
use crate::slab::Id;

/// What happens from outside the site.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The provider hears something.
    Hear(Notice),
    /// A control link is back: what holds is told anew.
    Back(Id),
    /// The provider asked to be woken.
    Wake,
    /// A request has waited for as long as it may.
    Deadline(Id),
    /// Something goes wrong.
    Fault(Fault),
}

/// A run under way.
#[derive(Debug)]
pub struct Run<'a> {
    scenario: &'a Scenario,
    site: Site,
    provider: Provider,
    queue: Queue<Event>,
    links: Links,
    clock: Clock,
    work: Chance,
    faults: Chance,
    /// When the provider will be woken next.
    waking: Option<Nanos>,
    checks: Checks,
    recorder: Recorder,
    /// Room for what is being told.
    told: Vec<(Nanos, Notice)>,
    now: Nanos,
    events: u64,
    fingerprint: u64,
}

/// Runs `scenario` with its requests coming as `arrivals` says, in order of time.
///
/// # Errors
/// The first thing that must not happen and did.
pub fn run(
    scenario: &Scenario,
    arrivals: impl Iterator<Item = Arrival>,
) -> Result<Summary, Box<Violation>> {
    let mut run = Run::new(scenario);
    run.begin();
    let mut arrivals = arrivals.peekable();
    loop {
        let coming = arrivals.peek().map(|arrival| nanos(arrival.at));
        let next = [coming, run.site.events.next_at(), run.queue.next_at()];
        let Some(at) = next.into_iter().flatten().min() else { break };
        if coming.is_none() && at > run.end() {
            break;
        }
        run.now = at;
        if coming == Some(at) {
            let arrival = arrivals.next().expect("just seen");
            run.arrive(&arrival);
        } else if run.site.events.next_at() == Some(at) {
            let (_, event) = run.site.events.pop().expect("just seen");
            run.site.happen(event, at);
            if run.site.notices.is_empty() {
                run.note()?; // what nobody hears of changes nothing for the provider
                continue;
            }
        } else {
            let (_, event) = run.queue.pop().expect("just seen");
            run.take(event);
        }
        run.after()?;
        run.note()?;
    }
    run.finish()
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let seed = scenario.seed;
        let mut site =
            Site::new(scenario.profiles.clone(), &scenario.nodes, scenario.costs.clone(), seed);
        site.start_failures = scenario.faults.start_fails;
        Self {
            scenario,
            site,
            provider: Provider::new(scenario),
            queue: Queue::default(),
            links: Links::new(scenario.faults.clone(), seed),
            clock: Clock::default(),
            work: Chance::new(seed, Purpose::Work),
            faults: Chance::new(seed, Purpose::Faults),
            waking: None,
            checks: Checks::new(scenario),
            recorder: Recorder::new(scenario),
            told: Vec::new(),
            now: 0,
            events: 0,
            fingerprint: 0,
        }
    }

    fn begin(&mut self) {
        for (at, fault) in &self.scenario.faults.at {
            self.queue.push(*at, Event::Fault(*fault));
        }
        self.provider.begin(&mut self.site, self.clock.now(0), 0);
    }

    /// When it is over: what is still to come then repeats itself. Requests that are not over are waited for, within reason.
    fn end(&self) -> Nanos {
        if self.site.requests().is_empty() { self.scenario.until } else { self.scenario.until * 10 }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let index = arrival.function;
        let profile = &self.site.profiles()[index];
        let total = arrival.duration.map_or_else(|| profile.duration.draw(&mut self.work), nanos);
        let work = Work::split(total, profile.cpu_share, profile.cpu_most);
        let function = u32::try_from(index).expect("functions have small numbers");
        let request = self.site.arrive(function, work, self.now);
        self.mix(1, request.serial());
        let shown = self.clock.now(self.now);
        if self.provider.arrive(request, &mut self.site, shown, self.now) {
            self.queue.push(self.now + self.scenario.patience, Event::Deadline(request));
        }
    }

    fn take(&mut self, event: Event) {
        let shown = self.clock.now(self.now);
        match event {
            Event::Hear(notice) => self.provider.hear(notice, &mut self.site, shown, self.now),
            Event::Back(container) => self.site.retell(container, self.now),
            Event::Wake => {
                if self.waking == Some(self.now) {
                    self.waking = None;
                    self.provider.wake(shown);
                }
            }
            Event::Deadline(request) => self.provider.expire(request, &self.site),
            Event::Fault(fault) => self.go_wrong(fault),
        }
    }

    fn go_wrong(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                let running: Vec<Id> = self
                    .site
                    .containers()
                    .filter(|(_, c)| c.is_running())
                    .map(|(id, _)| id)
                    .collect();
                if let Some(victim) = running.get(self.faults.below(running.len())) {
                    self.site.kill(*victim, self.now);
                }
            }
            Fault::Health { node, share } => self.site.set_health(node, share, self.now),
            Fault::ClockStops => self.clock.stop(self.now),
            Fault::ClockJumps(by) => self.clock.jump(by),
        }
    }

    /// Lets the provider hear what is due, plan and act.
    fn after(&mut self) -> Result<(), Box<Violation>> {
        loop {
            self.deliver();
            let shown = self.clock.now(self.now);
            self.provider.step(&mut self.site, shown, self.now);
            if self.site.notices.is_empty() {
                break;
            }
        }
        let mut verdicts = std::mem::take(&mut self.provider.verdicts);
        for (request, outcome) in verdicts.drain(..) {
            self.conclude(request, outcome)?;
        }
        self.provider.verdicts = verdicts;
        if let Some(moment) = self.provider.wake_at() {
            let at = self.clock.real(moment, self.now);
            if self.waking.is_none_or(|waking| at < waking) {
                self.waking = Some(at);
                self.queue.push(at, Event::Wake);
            }
        }
        Ok(())
    }

    /// One more event is over: writes it down and looks whether all is well.
    fn note(&mut self) -> Result<(), Box<Violation>> {
        self.events += 1;
        self.recorder.take(&mut self.site, &self.provider, self.now);
        self.checks.step(&self.site, &self.provider, self.now)
    }

    fn deliver(&mut self) {
        // In the order in which they were told; a provider that acts on one may cause another.
        let mut told = std::mem::replace(&mut self.site.notices, std::mem::take(&mut self.told));
        for (at, mut notice) in told.drain(..) {
            let at = match self.links.deliver(&mut notice, at) {
                Fate::At(at) => at,
                Fate::Twice(at) => {
                    self.queue.push(at, Event::Hear(notice));
                    at
                }
                Fate::Broken(container, back) => {
                    self.queue.push(back, Event::Back(container));
                    continue;
                }
                Fate::Lost => continue,
            };
            if at <= self.now {
                let shown = self.clock.now(self.now);
                self.provider.hear(notice, &mut self.site, shown, self.now);
            } else {
                self.queue.push(at, Event::Hear(notice));
            }
        }
        self.told = told;
    }

    fn conclude(&mut self, request: Id, outcome: Outcome) -> Result<(), Box<Violation>> {
        self.checks.verdict(&self.site, &self.provider, (request, outcome), self.now)?;
        let Some(found) = self.site.conclude(request) else {
            return Err(self.checks.violation("a request was answered twice", self.now));
        };
        self.mix(2 + outcome as u64, request.serial());
        let took = self.now - found.arrived;
        self.recorder.tally.record(outcome, took, found.work.undisturbed());
        self.recorder.note(outcome, took);
        Ok(())
    }

    /// FNV-1a over what happened to whom and when.
    fn mix(&mut self, what: u64, whom: u64) {
        for number in [self.now, what, whom] {
            self.fingerprint = (self.fingerprint ^ number).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(mut self) -> Result<Summary, Box<Violation>> {
        let until = self.now.max(self.scenario.until);
        self.checks.end(&self.site, &self.provider, until)?;
        self.site.books.advance(until);
        Ok(Summary {
            decisions: self.provider.decisions,
            rules: std::mem::take(&mut self.provider.rules),
            history: std::mem::take(&mut self.provider.history),
            cpu_used: self.site.cpu_used(until) / 1e9,
            held: self.site.books.sum,
            containers_peak: self.site.books.peak,
            seconds: until as f64 / 1e9,
            events: self.events,
            fingerprint: self.fingerprint,
            record: self.recorder,
        })
    }
}

fn nanos(duration: std::time::Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
