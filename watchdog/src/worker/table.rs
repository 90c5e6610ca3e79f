//! Who runs in which worker: the one place where requests, orders and reports look it up.
//!
//! In: a worker and an epoch, or just a request for the owner's function. Out: the [`Running`] function, or why it is not there.
//! Always: what is found is of exactly the epoch asked for and ready; whoever works on a request holds a [`Claim`], so that a
//! drain waits for it; the reports say what the table says, at once.
//! Touches: nothing but memory. `machine` decides how a worker changes, `switch` carries it out.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use hyperfaas_protocol::control::{WORKERS, WorkerLoad, WorkerReport, WorkerState};
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use rustix::process::Uid;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::Worker;
use super::machine::{Event, Machine, Step};
use super::queue::Queue;
use crate::config::Config;
use crate::guestlog::Scope;

/// One function in one worker, for one epoch.
#[derive(Debug)]
pub(crate) struct Running {
    /// Below [`WORKERS`].
    pub(crate) worker: u8,
    /// Of the order that brought it; 0 for the owner's function as the container began.
    pub(crate) epoch: u64,
    /// The function's own settings: deadlines, dialect, limits.
    pub(crate) config: Arc<Config>,
    /// How its requests are served.
    pub(crate) mode: Worker,
    /// A guest's place in the log, where every line about it belongs; `None` is the owner's function.
    pub(crate) guest: Option<Arc<Scope>>,
    /// Whose its processes are, and nobody else's; guests have such a user.
    pub(super) user: Option<Uid>,
    /// Who comes in next.
    pub(super) queue: Queue,
    counts: Counts,
    clock: SystemClock,
}

/// Requests of one epoch.
#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicU64,
    queued: AtomicU64,
    served: AtomicU64,
    bounced: AtomicU64,
    /// Those that had to wait.
    waited: AtomicU64,
    service_us: AtomicU64,
    /// What is admitted at once, 0 for any number.
    limit: AtomicU64,
    /// Nothing is in flight any more.
    idle: Notify,
}

/// A request's place in a worker, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    running: Arc<Running>,
    since: Moment,
    /// Whether anybody came to take it.
    is_used: bool,
}

/// A request that waits for a place, until dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Running>);

/// Counts since the epoch began, but for those in flight and queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WorkerTally {
    pub(crate) epoch: u64,
    pub(crate) in_flight: u64,
    pub(crate) queued: u64,
    pub(crate) in_flight_max: Option<u64>,
    pub(crate) served: u64,
    pub(crate) bounced: u64,
    pub(crate) waited: u64,
    /// The time from claim to end of all those that are over.
    pub(crate) service_us: u64,
}

/// Why a request cannot go where it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// There is no such worker.
    NoWorker,
    /// The worker follows another order by now.
    Epoch {
        /// The one it follows.
        now: u64,
    },
    /// The worker has the function, which cannot answer: it starts, has crashed, or is being drained.
    State(WorkerState),
}

/// Both workers.
#[derive(Debug)]
pub(crate) struct Table {
    seats: Mutex<[Seat; WORKERS]>,
    reports: watch::Sender<[WorkerReport; WORKERS]>,
}

#[derive(Debug)]
struct Seat {
    machine: Machine,
    running: Option<Arc<Running>>,
}

impl Table {
    /// Both workers generic, but for the first where the container has an owner.
    pub(crate) fn new(has_owner: bool) -> Self {
        let first = if has_owner { Machine::owners() } else { Machine::generic() };
        let machines = [first, Machine::generic()];
        let reports = [machines[0].report(0), machines[1].report(1)];
        let seats = machines.map(|machine| Seat { machine, running: None });
        Self { seats: Mutex::new(seats), reports: watch::Sender::new(reports) }
    }

    /// The function that runs in `worker` since `epoch` and can answer now.
    ///
    /// # Errors
    /// Why the request has to go elsewhere.
    pub(crate) fn find(&self, worker: u8, epoch: u64) -> Result<Arc<Running>, Miss> {
        let seats = self.lock();
        let seat = seats.get(usize::from(worker)).ok_or(Miss::NoWorker)?;
        let Machine { epoch: now, state, .. } = seat.machine;
        match &seat.running {
            _ if epoch != now => Err(Miss::Epoch { now }),
            Some(running) if state == WorkerState::Ready => Ok(running.clone()),
            _ => Err(Miss::State(state)),
        }
    }

    /// The worker that a request for the owner's function goes to: the least busy one that is ready, else the first, whose
    /// function may just be starting. `None` where there is no owner.
    pub(crate) fn owners(&self) -> Option<Arc<Running>> {
        let seats = self.lock();
        let own = |seat: &&Seat| seat.running.as_ref().is_some_and(|it| it.guest.is_none());
        let is_ready = |seat: &&Seat| seat.machine.state == WorkerState::Ready;
        let ready = seats.iter().filter(own).filter(is_ready);
        let least = ready.filter_map(|seat| seat.running.as_ref()).min_by_key(|it| it.in_flight());
        least.or_else(|| seats.iter().find(own).and_then(|seat| seat.running.as_ref())).cloned()
    }

    /// Whether a worker that has the owner's function can answer.
    pub(crate) fn is_owner_ready(&self) -> bool {
        let seats = self.lock();
        seats.iter().any(|seat| {
            seat.machine.state == WorkerState::Ready
                && seat.running.as_ref().is_some_and(|it| it.guest.is_none())
        })
    }

    /// What runs in each worker.
    pub(crate) fn running(&self) -> [Option<Arc<Running>>; WORKERS] {
        let seats = self.lock();
        [seats[0].running.clone(), seats[1].running.clone()]
    }

    /// How much each worker has to do.
    pub(crate) fn tallies(&self) -> [WorkerTally; WORKERS] {
        let seats = self.lock();
        let tally = |seat: &Seat| match &seat.running {
            Some(running) => running.tally(),
            None => WorkerTally { epoch: seat.machine.epoch, ..WorkerTally::default() },
        };
        [tally(&seats[0]), tally(&seats[1])]
    }

    /// Epochs and users of those workers that have a user of their own.
    pub(crate) fn users(&self) -> [Option<(u64, Uid)>; WORKERS] {
        let seats = self.lock();
        let user = |seat: &Seat| {
            let running = seat.running.as_ref()?;
            Some((running.epoch, running.user?))
        };
        [user(&seats[0]), user(&seats[1])]
    }

    /// Both workers as they stand, and every change.
    pub(crate) fn reports(&self) -> watch::Receiver<[WorkerReport; WORKERS]> {
        self.reports.subscribe()
    }

    /// Puts a function into the worker that has just been told to take it.
    pub(super) fn seat(&self, running: Arc<Running>) {
        let worker = running.worker;
        let mut seats = self.lock();
        let Some(seat) = seats.get_mut(usize::from(worker)) else { return };
        let is_guest = running.guest.is_some();
        seat.running = Some(running);
        if is_guest {
            let report = seat.report(worker);
            self.reports.send_modify(|reports| reports[usize::from(worker)] = report);
        }
    }

    /// Lets `event` happen to `worker`; what has to be done now. `None` if there is no such worker.
    pub(super) fn apply(&self, worker: u8, event: Event) -> Option<Step> {
        let mut seats = self.lock();
        let seat = seats.get_mut(usize::from(worker))?;
        let (machine, step) = seat.machine.after(event);
        if machine.state == WorkerState::Generic {
            seat.running = None;
        }
        let is_changed = machine != seat.machine;
        seat.machine = machine;
        if is_changed {
            let report = seat.report(worker);
            // With the lock held, so that reports come in the order of what happened.
            self.reports.send_modify(|reports| reports[usize::from(worker)] = report);
        }
        Some(step)
    }

    fn lock(&self) -> MutexGuard<'_, [Seat; WORKERS]> {
        self.seats.lock().expect("no holder of this lock panics")
    }
}

impl Seat {
    /// As the provider is told: a provider that starts anew knows from it whose requests the worker takes.
    fn report(&self, worker: u8) -> WorkerReport {
        let guest = self.running.as_ref().and_then(|running| running.guest.as_ref());
        let guest = guest.map(|scope| scope.function().to_owned());
        WorkerReport { guest, ..self.machine.report(worker) }
    }
}

impl Running {
    pub(super) fn new(
        (worker, epoch): (u8, u64),
        guest: Option<Arc<Scope>>,
        config: Arc<Config>,
        mode: Worker,
        clock: SystemClock,
    ) -> Self {
        let limit = config.max_inflight.and_then(|max| u64::try_from(max.get()).ok()).unwrap_or(0);
        let counts = Counts { limit: limit.into(), ..Counts::default() };
        let queue = Queue::new(&config, clock.now());
        Self { worker, epoch, config, mode, guest, user: None, queue, counts, clock }
    }

    /// The same, of a user that nobody else has.
    pub(super) fn of(self, user: Option<Uid>) -> Self {
        Self { user, ..self }
    }

    /// Takes a place for one request; whether it may have one is decided before.
    pub(crate) fn claim(self: &Arc<Self>) -> Claim {
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        Claim { running: self.clone(), since: self.clock.now(), is_used: true }
    }

    /// As [`Running::claim`], for somebody who may have gone by now.
    pub(super) fn reserve(self: &Arc<Self>) -> Claim {
        let mut claim = self.claim();
        claim.is_used = false;
        claim
    }

    /// Counts a request that waits for a place.
    pub(crate) fn wait_for_place(self: &Arc<Self>) -> Waiting {
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        self.counts.waited.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// Counts a request that is sent back.
    pub(crate) fn bounced(&self) {
        self.counts.bounced.fetch_add(1, Ordering::Relaxed);
    }

    /// The time by the watchdog's clock.
    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Requests it works on.
    pub(crate) fn in_flight(&self) -> u64 {
        self.counts.in_flight.load(Ordering::Relaxed)
    }

    /// Most it works on at once; none is without limit. At first what the settings say.
    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.counts.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// Sets what is told as its limit.
    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.counts.limit.store(limit.unwrap_or(0), Ordering::Relaxed);
    }

    /// Opens a connection to the function's own server, as soon as it accepts one; and the generation it belongs to. For
    /// mode `http` alone.
    ///
    /// # Errors
    /// When it does not accept one for long, or the mode has no server.
    pub(crate) async fn connect(&self) -> io::Result<(TcpStream, u64)> {
        match self.mode.owner() {
            Some(owner) => owner.dial().await,
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What a connection that may be used belongs to: it goes up whenever the server behind it changes, and a connection of
    /// another generation leads to nobody who may answer.
    pub(crate) fn generation(&self) -> u64 {
        self.mode.owner().map_or(0, |owner| owner.generation())
    }

    /// Sends those that wait for a place elsewhere.
    pub(super) fn dismiss(&self) {
        self.queue.dismiss();
    }

    /// Waits until nothing is in flight; new requests must have ended before.
    pub(super) async fn drained(&self) {
        loop {
            let idle = self.counts.idle.notified();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn tally(&self) -> WorkerTally {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        WorkerTally {
            epoch: self.epoch,
            in_flight: self.in_flight(),
            queued: count(&self.counts.queued),
            in_flight_max: self.limit(),
            served: count(&self.counts.served),
            bounced: count(&self.counts.bounced),
            waited: count(&self.counts.waited),
            service_us: count(&self.counts.service_us),
        }
    }
}

impl WorkerTally {
    /// The report about the time since `from`; all of it where another epoch has begun.
    pub(crate) fn load(&self, from: &Self) -> WorkerLoad {
        let begin = Self { epoch: self.epoch, ..Self::default() };
        let from = if from.epoch == self.epoch { from } else { &begin };
        let served = self.served.saturating_sub(from.served);
        WorkerLoad {
            epoch: self.epoch,
            in_flight: self.in_flight,
            queued: self.queued,
            in_flight_max: self.in_flight_max,
            served: self.served,
            bounced: self.bounced,
            service_us: self.service_us.saturating_sub(from.service_us).checked_div(served),
            ..WorkerLoad::default()
        }
    }
}

impl Claim {
    /// Takes what was reserved.
    pub(super) fn used(mut self) -> Self {
        self.is_used = true;
        self
    }
}

impl Drop for Claim {
    /// Gives the place back, however the request ended.
    fn drop(&mut self) {
        let Running { counts, clock, queue, .. } = &*self.running;
        let now = clock.now();
        let in_flight = counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_used {
            let time = now.since(self.since);
            let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            counts.service_us.fetch_add(us, Ordering::Relaxed);
            counts.served.fetch_add(1, Ordering::Relaxed);
            queue.ended(&self.running, (time, in_flight), now);
        }
        queue.release(&self.running);
        if in_flight == 1 && self.running.in_flight() == 0 {
            counts.idle.notify_waiters();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.counts.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::front::Front;
    use crate::pid1::Reaper;
    use crate::state::State;
    use crate::sys::Seal;
    use crate::worker::{Role, Surroundings};

    /// The owner's function in mode `static`, which starts nothing.
    fn running(worker: u8, epoch: u64) -> Arc<Running> {
        let variable = |name: &str| (name == "mode").then(|| "static".to_owned());
        let config = Config::from_vars(variable, None, || None).unwrap();
        let clock = SystemClock::start();
        let around = Surroundings {
            environment: Vec::new(),
            seal: Seal::default(),
            reaper: Arc::new(Reaper::default()),
            state: Arc::new(State::new()),
            clock,
            is_managed: true,
            role: Role::First { front: None::<(Arc<Front>, u16)> },
        };
        let mode = Worker::new(&config, around).unwrap();
        Arc::new(Running::new((worker, epoch), None, Arc::new(config), mode, clock))
    }

    fn specialise(table: &Table, worker: u8, epoch: u64) {
        let step = table.apply(worker, Event::Specialise { epoch, able: Ok(()) });
        if step == Some(Step::Start) {
            table.seat(running(worker, epoch));
        }
    }

    /// The owner's function in the first worker, and a second copy.
    fn two() -> Table {
        let table = Table::new(true);
        table.seat(running(0, 0));
        table.apply(0, Event::Ready { epoch: 0 });
        specialise(&table, 1, 7);
        table
    }

    #[test]
    fn what_is_found_is_of_the_very_epoch_and_ready() {
        let table = two();
        assert_eq!(table.find(0, 0).unwrap().epoch, 0);
        assert_eq!(table.find(1, 7).unwrap_err(), Miss::State(WorkerState::Specialising));
        table.apply(1, Event::Ready { epoch: 7 });
        let found = table.find(1, 7).unwrap();
        assert_eq!((found.worker, found.epoch), (1, 7));
        assert_eq!(table.find(1, 6).unwrap_err(), Miss::Epoch { now: 7 });
        assert_eq!(table.find(2, 0).unwrap_err(), Miss::NoWorker);
        table.apply(1, Event::Release { epoch: 7 });
        assert_eq!(table.find(1, 7).unwrap_err(), Miss::State(WorkerState::Draining));
        table.apply(1, Event::Cleared { epoch: 7 });
        assert_eq!(table.find(1, 7).unwrap_err(), Miss::State(WorkerState::Generic));
        assert!(table.running()[1].is_none());
    }

    #[test]
    fn requests_go_to_the_least_busy_worker_that_is_ready() {
        let table = two();
        let chosen = || table.owners().unwrap().worker;
        let first = table.owners().unwrap().claim();
        assert_eq!(chosen(), 0, "the second is not ready yet");
        table.apply(1, Event::Ready { epoch: 7 });
        assert_eq!(chosen(), 1);
        let second = table.owners().unwrap().claim();
        assert_eq!(chosen(), 0, "equally busy");
        drop(first);
        assert_eq!(chosen(), 0);
        table.apply(0, Event::Crashed { epoch: 0, reason: None });
        assert_eq!(chosen(), 1);
        assert!(table.is_owner_ready());
        table.apply(1, Event::Release { epoch: 7 });
        assert_eq!(chosen(), 0, "it may be starting");
        assert!(!table.is_owner_ready());
        drop(second);
        assert!(Table::new(false).owners().is_none());
    }

    #[test]
    fn a_drain_waits_for_the_last_claim_and_the_counts_begin_anew_with_each_epoch() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let table = two();
            let running = table.running()[1].clone().unwrap();
            let claims = [running.claim(), running.claim()];
            let mut drained = std::pin::pin!(running.drained());
            let soon = |duration| tokio::time::timeout(duration, std::future::pending::<()>());
            for claim in claims {
                tokio::select! {
                    biased;
                    () = &mut drained => panic!("something runs"),
                    _ = soon(Duration::ZERO) => {}
                }
                drop(claim);
            }
            drained.await;
            let [_, tally] = table.tallies();
            assert_eq!((tally.epoch, tally.served, tally.in_flight), (7, 2, 0));
            for event in [Event::Release { epoch: 7 }, Event::Cleared { epoch: 7 }] {
                table.apply(1, event);
            }
            specialise(&table, 1, 9);
            let [_, anew] = table.tallies();
            assert_eq!((anew.epoch, anew.served), (9, 0));
            assert_eq!(anew.load(&tally).served, 0);
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reports_and_what_is_found_always_agree(
            events in prop::collection::vec((0..2_u8, 1..5_u64, 0..7_u8), 0..60)
        ) {
            let table = Table::new(false);
            let reports = table.reports();
            for (worker, epoch, kind) in events {
                match kind {
                    0 => specialise(&table, worker, epoch),
                    _ => drop(table.apply(worker, match kind {
                        1 => Event::Ready { epoch },
                        2 => Event::Starting { epoch, reason: None },
                        3 => Event::Crashed { epoch, reason: None },
                        4 => Event::Release { epoch },
                        5 => Event::Drained { epoch },
                        _ => Event::Cleared { epoch },
                    })),
                }
                for report in reports.borrow().iter() {
                    let found = table.find(report.worker, report.epoch);
                    prop_assert_eq!(found.is_ok(), report.state == WorkerState::Ready);
                    prop_assert!(found.is_err() || found.is_ok_and(|it| it.epoch == report.epoch));
                    let other = table.find(report.worker, report.epoch + 1);
                    prop_assert_eq!(other.unwrap_err(), Miss::Epoch { now: report.epoch });
                }
            }
        }
    }
}
