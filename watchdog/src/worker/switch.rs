//! Carries out what `machine` decides: gives a worker its function, watches how it fares, takes it away again.
//!
//! In: the owner's settings at the start, then orders. Out: entries of the [`Table`], and an [`Answer`] to each order.
//! Always: what is told about a function carries its epoch, so that nothing late is taken for something new; a worker is
//! generic again only when none of its processes is left and no start is under way.
//! Touches: the function's processes, through `owner` and `crew`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyperfaas_protocol::control::{Abilities, Order, OwnerState, WORKERS, Work};
use hyperfaas_protocol::lane::LANE_VERSION;
use hyperfaas_protocol::moment::SystemClock;
use rustix::process::geteuid;
use tokio::task::JoinHandle;

use super::crew::{self, Crew, Trait};
use super::guest::{self, Visit};
use super::machine::{Event, Step};
use super::table::{Running, Table};
use super::{Owner, Role, Surroundings, Worker};
use crate::config::{Config, Mode};
use crate::front::Front;
use crate::guestlog::GuestLog;
use crate::log::line;
use crate::pid1::Reaper;
use crate::state::{State, Status};
use crate::sys::{Seal, check_guests};

/// By how much a guest's `oom_score_adj` is above that of the owner's processes: as if it had half of the memory more.
const GUESTS_OOM: i32 = 500;
/// The largest there is.
const OOM_MOST: i32 = 1000;

/// What every function of this container is started with.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The environment of the owner's processes.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// What the owner's processes give up.
    pub(crate) seal: Seal,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) clock: SystemClock,
    pub(crate) is_managed: bool,
}

/// Switches the workers of this container between functions.
#[derive(Debug)]
pub(crate) struct Switch {
    ground: Ground,
    config: Arc<Config>,
    table: Arc<Table>,
    guests: Arc<GuestLog>,
    /// What workers that take orders run.
    lives: Mutex<HashMap<u8, Life>>,
}

/// What has to end before a worker is generic again.
#[derive(Debug)]
struct Life {
    running: Arc<Running>,
    crew: Arc<Crew>,
    /// Keeps the long-running process alive, where the mode has one.
    owner: Option<JoinHandle<Option<u8>>>,
}

/// What an order to specialise comes to.
#[derive(Debug)]
enum Plan {
    Own,
    Guest(Box<Visit>),
}

/// What whoever gave an order is told, besides how the workers stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: it is being carried out, which the workers' reports tell.
    Followed,
    /// How this worker stands, once more: it follows this order already.
    Repeated(u8),
    /// That it was not carried out, and why.
    Refused { worker: u8, epoch: u64, reason: String },
}

impl Switch {
    /// A switch over a table of its own; nothing runs yet.
    pub(crate) fn new(ground: Ground, config: Arc<Config>) -> Self {
        let table = Arc::new(Table::new(config.mode != Mode::Standby));
        Self { ground, config, table, guests: Arc::default(), lives: Mutex::default() }
    }

    /// Who runs where.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// What guests say.
    pub(crate) fn guests(&self) -> &Arc<GuestLog> {
        &self.guests
    }

    /// What can be done here.
    pub(crate) fn abilities(&self) -> Abilities {
        let workers = u8::try_from(WORKERS).unwrap_or(u8::MAX);
        // Guests are reached through lanes alone.
        let guests = self.ground.is_managed && self.has_lanes() && check_guests().is_ok();
        let lanes = if self.has_lanes() { LANE_VERSION } else { 0 };
        Abilities { workers, second_own: self.second_own().is_ok(), guests, lanes, holds: guests }
    }

    /// Whether lanes can do for the owner's function what port 8080 does: tokens are checked, and bodies buffered, only there.
    fn has_lanes(&self) -> bool {
        let buffers =
            matches!(&self.config.mode, Mode::Http { settings, .. } if settings.buffer_body);
        self.config.jwt.is_none() && !buffers
    }

    /// Puts the owner's function into the first worker, whose `state` others look at as well; its processes are started by
    /// whoever runs its [`Worker::owner`]. `None` where the container has no owner.
    pub(crate) fn begin(
        &self,
        state: &Arc<State>,
        front: Option<(Arc<Front>, u16)>,
    ) -> Option<Worker> {
        let around = self.around(state, self.ground.seal.clone(), Role::First { front });
        let mode = Worker::new(&self.config, around)?;
        let config = self.config.clone();
        let running = Running::new((0, 0), None, config, mode.clone(), self.ground.clock);
        self.seat(running, state);
        Some(mode)
    }

    /// Carries out one order, or begins to.
    pub(crate) fn order(self: &Arc<Self>, order: Order) -> Answer {
        let (worker, epoch, step) = match order {
            Order::Specialise { worker, epoch, work } => {
                let (able, plan) = match self.plan(worker, &work) {
                    Ok(plan) => (Ok(()), Some(plan)),
                    Err(reason) => (Err(reason), None),
                };
                let step = self.table.apply(worker, Event::Specialise { epoch, able });
                if let (Some(Step::Start), Some(plan)) = (&step, plan) {
                    self.start(worker, epoch, plan);
                }
                (worker, epoch, step)
            }
            Order::Proceed { worker, epoch } => {
                let step = self.table.apply(worker, Event::Proceed { epoch });
                if step == Some(Step::Proceed) {
                    self.proceed(worker, epoch);
                }
                (worker, epoch, step)
            }
            Order::Release { worker, epoch, grace_ms } => {
                let step = self.table.apply(worker, Event::Release { epoch });
                if step == Some(Step::Drain) {
                    line!("Worker {worker}: draining, epoch {epoch}");
                    let grace = Duration::from_millis(grace_ms);
                    tokio::spawn(self.clone().release(worker, epoch, grace));
                }
                (worker, epoch, step)
            }
            Order::Unknown => return Answer::Followed,
        };
        match step {
            None => Answer::Refused { worker, epoch, reason: "there is no such worker".into() },
            Some(Step::Refuse(reason)) => Answer::Refused { worker, epoch, reason },
            Some(Step::Repeat) => Answer::Repeated(worker),
            Some(Step::Rest | Step::Start | Step::Proceed | Step::Drain | Step::Clear) => {
                Answer::Followed
            }
        }
    }

    /// The container is being stopped: no order is carried out from here on.
    pub(crate) fn stop(&self) {
        for worker in [0, 1] {
            let _ = self.table.apply(worker, Event::Stop);
        }
    }

    /// Ends the processes of workers that took orders, gently; after [`Switch::stop`].
    pub(crate) async fn end(&self) {
        let lives: Vec<_> = self.lock().drain().map(|(_, life)| life).collect();
        for life in &lives {
            if let Some(owner) = life.running.mode.owner() {
                owner.stop();
            }
        }
        for life in lives {
            if let Some(owner) = life.owner {
                // Bounded: the owner kills what does not stop.
                let _ = owner.await;
            }
        }
    }

    fn plan(&self, worker: u8, work: &Work) -> Result<Plan, String> {
        let guest = match work {
            Work::Own => return self.second_own().map(|()| Plan::Own),
            Work::Guest(guest) => guest,
        };
        if !self.has_lanes() {
            return Err("this container has no lanes, which guests are reached through".into());
        }
        let owner = self.ground.seal.user.as_ref().map_or_else(geteuid, |user| user.uid);
        if !owner.is_root() && owner.as_raw() == guest.uid {
            return Err("its user is the owner's".into());
        }
        let others = self.table.running().into_iter().flatten().filter(|it| it.worker != worker);
        let taken: Vec<_> = others.filter_map(|it| guest::port(&it.config)).collect();
        Visit::prepare(guest, &taken).map(|visit| Plan::Guest(Box::new(visit)))
    }

    /// Whether a second copy of the owner's function can run beside the first.
    fn second_own(&self) -> Result<(), String> {
        let first = self.table.running()[0].clone();
        match first.as_deref().map(|first| &first.mode) {
            None => Err("the container has no owner".into()),
            _ if crew::mark().is_none() => Err("its processes cannot be told apart".into()),
            Some(Worker::Relay(relay)) if !relay.owner.can_move() => {
                Err("its port cannot be moved, and the first worker has it".into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Starts the function that `worker` has just been told to take.
    fn start(&self, worker: u8, epoch: u64, plan: Plan) {
        let place = (worker, epoch);
        let state = Arc::new(State::new());
        let (crew, around, config, scope, user) = match plan {
            Plan::Own => {
                line!("Worker {worker}: takes on a second copy of the function, epoch {epoch}");
                let crew = Arc::new(Crew::new(Trait::Marked));
                let seal = Seal { mark: crew::mark(), ..self.ground.seal.clone() };
                let role = Role::Beside { crew: crew.clone(), root: None, held: None };
                (crew, self.around(&state, seal, role), self.config.clone(), None, None)
            }
            Plan::Guest(visit) => {
                let Visit { function, config, held, environment, root, cage, user } = *visit;
                let until_when = if held.is_some() { ", which waits to be called" } else { "" };
                line!("Worker {worker}: takes on {function}, epoch {epoch}{until_when}");
                let crew = Arc::new(Crew::new(Trait::User(user)));
                let cage = Some(Arc::new(cage));
                let ground = self.ground.seal.clone();
                // Of owner and guest the kernel is to take the guest first.
                let oom_score = ground.oom_score.map(|score| (score + GUESTS_OOM).min(OOM_MOST));
                let seal = Seal { user: None, cage, oom_score, ..ground };
                let role = Role::Beside { crew: crew.clone(), root: Some(root), held };
                let around = Surroundings { environment, ..self.around(&state, seal, role) };
                let scope = self.guests.scope(place, function);
                (crew, around, Arc::new(config), Some(scope), Some(user))
            }
        };
        // A plan is only made for settings that ask for a worker.
        let Some(mode) = Worker::new(&config, around) else { return };
        let owner = mode.owner().map(|owner| {
            let run = Owner::run(owner.clone());
            match &scope {
                Some(scope) => scope.spawn(run),
                None => tokio::spawn(run),
            }
        });
        mode.announce(&state);
        let running = Running::new(place, scope, config, mode, self.ground.clock).of(user);
        let running = self.seat(running, &state);
        self.lock().insert(worker, Life { running, crew, owner });
    }

    /// Lets the function of `worker` run, if it waits in its interpreter.
    fn proceed(&self, worker: u8, epoch: u64) {
        let lives = self.lock();
        let running = lives.get(&worker).map(|life| &life.running);
        if let Some(owner) = running.filter(|it| it.epoch == epoch).and_then(|it| it.mode.owner()) {
            owner.proceed();
        }
    }

    /// Waits for what runs, ends every process, and makes the worker generic again.
    async fn release(self: Arc<Self>, worker: u8, epoch: u64, grace: Duration) {
        let Some(life) = self.lock().remove(&worker) else { return };
        life.running.dismiss();
        let _ = tokio::time::timeout(grace, life.running.drained()).await;
        if self.table.apply(worker, Event::Drained { epoch }) != Some(Step::Clear) {
            return;
        }
        if let Some(relay) = life.running.mode.relay() {
            relay.sockets.clear();
            relay.owner.release();
        }
        if let Some(owner) = life.owner {
            // Bounded: the owner kills what does not stop.
            let _ = owner.await;
        }
        life.crew.end(&self.ground.reaper).await;
        life.crew.sweep();
        let _ = self.table.apply(worker, Event::Cleared { epoch });
        line!("Worker {worker}: generic");
    }

    fn around(&self, state: &Arc<State>, seal: Seal, role: Role) -> Surroundings {
        let Ground { environment, reaper, clock, is_managed, .. } = &self.ground;
        Surroundings {
            environment: environment.clone(),
            seal,
            reaper: reaper.clone(),
            state: state.clone(),
            clock: *clock,
            is_managed: *is_managed,
            role,
        }
    }

    /// Enters a function into the table, and there whatever becomes of it.
    fn seat(&self, running: Running, state: &State) -> Arc<Running> {
        let mut view = state.watch();
        let (table, worker, epoch) = (self.table.clone(), running.worker, running.epoch);
        let running = Arc::new(running);
        self.table.seat(running.clone());
        tokio::spawn(async move {
            let mut crashes = 0;
            loop {
                let status = view.borrow_and_update().clone();
                for event in events(&status, &mut crashes, epoch) {
                    let _ = table.apply(worker, event);
                }
                // The state goes with the last process that it is about.
                if view.changed().await.is_err() {
                    return;
                }
            }
        });
        running
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u8, Life>> {
        self.lives.lock().expect("no holder of this lock panics")
    }
}

/// What has happened since `crashes` were known. States that were missed matter only by their crashes.
fn events(status: &Status, crashes: &mut u64, epoch: u64) -> Vec<Event> {
    let Status { state, reason, .. } = status;
    let missed = status.crashes.saturating_sub(std::mem::replace(crashes, status.crashes));
    let crash = |_| Event::Crashed { epoch, reason: reason.clone() };
    let mut events: Vec<_> = (0..missed).map(crash).collect();
    match state {
        OwnerState::Starting => events.push(Event::Starting { epoch, reason: reason.clone() }),
        OwnerState::Ready => events.push(Event::Ready { epoch }),
        // Told by their count; of a drain the machine knows itself.
        OwnerState::Crashed | OwnerState::Draining => {}
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_that_were_missed_are_made_up_for() {
        let status = |state, crashes| Status { state, reason: Some("x".into()), crashes };
        let mut known = 0;
        let crash = Event::Crashed { epoch: 4, reason: Some("x".into()) };
        assert_eq!(
            events(&status(OwnerState::Crashed, 2), &mut known, 4),
            [crash.clone(), crash.clone()]
        );
        assert_eq!(
            events(&status(OwnerState::Ready, 2), &mut known, 4),
            [Event::Ready { epoch: 4 }]
        );
        let starting = Event::Starting { epoch: 4, reason: Some("x".into()) };
        assert_eq!(events(&status(OwnerState::Starting, 3), &mut known, 4), [crash, starting]);
    }
}
