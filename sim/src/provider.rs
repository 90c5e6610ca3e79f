//! A provider without its runtime: the scheduler's own views, kept by events, and its own decisions, carried out on a site.
//!
//! In: requests, [`crate::site::Notice`]s, wake-ups. Out: orders to the [`Site`], verdicts on requests. Decides nothing itself:
//! where a request goes is [`hyperfaas_provider::scheduler::place`]'s; what is started, resized, specialised and drained is
//! [`hyperfaas_provider::scheduler::plan_function`]'s, called for the functions that something has happened to.
//! Always: an action is counted in the views before it is carried out, as in the provider.

mod books;
mod carry;
mod hear;
mod nodes;
mod places;
mod requests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::scheduler::{Budget, Policy, Rule, Why};

use crate::measure::Outcome;
use crate::profile::Profile;
use crate::queue::Nanos;
use crate::scenario::Scenario;
use crate::site::Site;
use crate::slab::Id;

pub use books::Function;
use nodes::Nodes;

/// What was decided, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Containers ordered.
    pub starts: u64,
    /// Containers stopped on purpose.
    pub drains: u64,
    /// Quotas changed.
    pub resizes: u64,
    /// Workers given a function.
    pub specialised: u64,
    /// Workers that a function was taken from.
    pub released: u64,
    /// Requests sent back by a watchdog.
    pub bounced: u64,
    /// Requests that waited for a place, for whatever reason.
    pub parked: u64,
    /// Requests that waited while nothing was ready.
    pub cold: u64,
    /// Functions planned.
    pub plans: u64,
    /// Rounds of planning.
    pub rounds: u64,
}

/// One decision on how much a function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Nanos,
    /// Index of the function.
    pub function: u32,
    /// What.
    pub what: What,
    /// The rule that asked for it.
    pub rule: Option<Rule>,
}

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One more replica.
    Start,
    /// One fewer.
    Drain,
    /// A container's CPU, from and to so many millicores.
    Resize(u32, u32),
    /// A worker was given the function.
    Specialise,
    /// The function was taken from a worker.
    Release,
}

impl What {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Resize(from, to) if to > from => "raise",
            Self::Resize(..) => "lower",
            Self::Specialise => "specialise",
            Self::Release => "release",
        }
    }
}

/// The books of the provider.
#[derive(Debug)]
pub struct Provider {
    policy: Policy,
    period: Nanos,
    parked_max: (usize, usize),
    waiting: usize,
    functions: Vec<Function>,
    nodes: Nodes,
    /// The function that owns the container at each place.
    owners: Vec<Option<u32>>,
    /// The guest of each worker that has one.
    guests: HashMap<(Id, u8), u32>,
    /// Standby containers, and how many of them each node should have ready.
    pool: Vec<places::Standby>,
    standby: usize,
    /// Functions that may be guests of each other, by each of them.
    groups: HashMap<u32, Rc<[u32]>>,
    /// Functions to plan for, each at most once.
    dirty: Vec<u32>,
    /// Functions of the round at hand; empty between rounds.
    due: Vec<u32>,
    /// What the functions of a round share; between rounds its hosts are those of `nodes`, unless something was promised.
    budget: Budget,
    /// Whether the last round has promised CPU or memory of a host.
    has_promised: bool,
    /// When to look at functions; each has one entry, at the moment it asked for or before, and others that are out of date.
    wakes: BinaryHeap<Reverse<(Moment, u32)>>,
    /// Starts that the engine has not answered.
    starting: usize,
    starts_max: usize,
    /// Workers that are being given a function.
    specialising: HashSet<(Id, u8)>,
    /// Functions that miss replicas because too many starts are under way, each once.
    hungry: VecDeque<u32>,
    /// The moment of the plan being carried out.
    shown: Moment,
    /// Millicores that each container of the function whose plan is carried out was expected to use when it was planned.
    planned_use: u32,
    /// Containers that drain and have just answered their last request.
    emptied: Vec<Id>,
    /// Requests that are over, since these were last taken.
    pub(crate) verdicts: Vec<(Id, Outcome)>,
    /// What was decided so far.
    pub decisions: Decisions,
    /// Each decision on CPU and replicas, in thorough runs.
    pub(crate) history: Vec<Change>,
    keeps_history: bool,
    /// How often each rule asked for what.
    pub(crate) rules: BTreeMap<(&'static str, &'static str), u64>,
    offence: Option<String>,
}

impl Provider {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let nodes = Nodes::new(&scenario.nodes);
        Self {
            policy: scenario.policy,
            period: scenario.period,
            parked_max: scenario.parked_max,
            waiting: 0,
            functions: scenario.profiles.iter().map(Function::new).collect(),
            owners: Vec::new(),
            guests: HashMap::new(),
            pool: Vec::new(),
            standby: if scenario.policy.mode.has_multiplex() { scenario.standby } else { 0 },
            groups: groups(&scenario.profiles),
            dirty: Vec::new(),
            due: Vec::new(),
            budget: Budget { hosts: nodes.hosts.clone(), ..Budget::default() },
            has_promised: false,
            nodes,
            wakes: BinaryHeap::new(),
            starting: 0,
            starts_max: scenario.policy.starts_at_once * scenario.nodes.len(),
            specialising: HashSet::new(),
            hungry: VecDeque::new(),
            shown: Moment::ZERO,
            planned_use: 0,
            emptied: Vec::new(),
            verdicts: Vec::new(),
            decisions: Decisions::default(),
            history: Vec::new(),
            keeps_history: scenario.is_thorough,
            rules: BTreeMap::new(),
            offence: None,
        }
    }

    /// The functions, in the order of the scenario.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Whether one more request of a function may wait where `own` do: at most a bound of each, and never more than places are
    /// left for all, as `cluster::queue` has it.
    pub fn may_park(&self, own: usize) -> bool {
        let (one, all) = self.parked_max;
        own < one && own < all.saturating_sub(self.waiting)
    }

    /// Requests that wait for a place.
    pub fn parked(&self) -> usize {
        self.waiting
    }

    /// When the scheduler wants to look again though nothing happens.
    pub fn wake_at(&self) -> Option<Moment> {
        self.wakes.peek().map(|Reverse((at, _))| *at)
    }

    /// Everything is as deployed; containers are to be started.
    pub(crate) fn begin(&mut self, site: &mut Site, now: Moment, at: Nanos) {
        for index in 0..self.functions.len() {
            self.touch(u32::try_from(index).expect("functions have small numbers"));
        }
        for node in 0..self.nodes.hosts.views().len() {
            self.fill_pool(node, site, at);
        }
        self.step(site, now, at);
    }

    /// Looks at the functions whose time has come.
    pub(crate) fn wake(&mut self, now: Moment) {
        while let Some(Reverse((at, index))) = self.wakes.peek().copied() {
            if at > now {
                return;
            }
            self.wakes.pop();
            let function = &mut self.functions[index as usize];
            if function.queued_at != Some(at) {
                continue; // an earlier one has taken its place
            }
            function.queued_at = None;
            match function.wake_at {
                Some(due) if due > now => self.look_at(index, due),
                Some(_) => {
                    function.wake_at = None;
                    self.touch(index);
                }
                None => {}
            }
        }
    }

    /// Has a function looked at by `at` at the latest; functions change their minds with every plan, so what they asked for
    /// before stays in the queue, and what they ask for now waits behind it.
    fn look_at(&mut self, index: u32, at: Moment) {
        let function = &mut self.functions[index as usize];
        if function.queued_at.is_none_or(|queued| at < queued) {
            function.queued_at = Some(at);
            self.wakes.push(Reverse((at, index)));
        }
    }

    /// Plans for everything that something has happened to, and acts.
    pub(crate) fn step(&mut self, site: &mut Site, now: Moment, at: Nanos) {
        for container in std::mem::take(&mut self.emptied) {
            site.stop(container, at);
        }
        let mut due = std::mem::take(&mut self.due);
        loop {
            due.clear();
            // Those that waited for a start first, as many as may have one.
            let starts = self.starts_max.saturating_sub(self.starting).min(self.hungry.len());
            for index in self.hungry.drain(..starts) {
                self.functions[index as usize].is_hungry = false;
                due.push(index);
            }
            due.append(&mut self.dirty);
            if due.is_empty() {
                break;
            }
            due.retain(|index| {
                let function = &mut self.functions[*index as usize];
                std::mem::replace(&mut function.planned_in, self.decisions.rounds)
                    != self.decisions.rounds
            });
            self.decisions.rounds += 1;
            for index in &due {
                self.functions[*index as usize].is_dirty = false;
            }
            self.plan(&due, site, now, at);
        }
        self.due = due;
    }

    /// The first decision that must not be, if there was one.
    pub(crate) fn offence(&self) -> Option<&str> {
        self.offence.as_deref()
    }

    fn note(&mut self, function: u32, what: What, why: Option<&Why>, at: Nanos) {
        let rule = why.map(|why| why.rule);
        *self.rules.entry((what.name(), rule.map_or("", Rule::name))).or_default() += 1;
        if self.keeps_history {
            self.history.push(Change { at, function, what, rule });
        }
    }

    fn touch(&mut self, index: u32) {
        let function = &mut self.functions[index as usize];
        if !std::mem::replace(&mut function.is_dirty, true) {
            self.dirty.push(index);
        }
    }
}

/// Functions with the same share label, by each of them.
fn groups(profiles: &[Profile]) -> HashMap<u32, Rc<[u32]>> {
    let mut by_label: HashMap<&str, Vec<u32>> = HashMap::new();
    for (index, profile) in (0_u32..).zip(profiles) {
        if let Some(share) = &profile.scaling.share {
            by_label.entry(share).or_default().push(index);
        }
    }
    let mut groups = HashMap::new();
    for group in by_label.into_values().map(Rc::<[u32]>::from) {
        groups.extend(group.iter().map(|index| (*index, Rc::clone(&group))));
    }
    groups
}
