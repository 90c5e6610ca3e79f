//! Carries out what `machine` decides: gives a worker its function, and watches how it fares.
//!
//! In: the owner's settings at the start. Out: entries of the [`Table`].
//! Always: what is told about a function carries its epoch, so that nothing late is taken for something new.
//! Touches: the function's processes, through `owner`.

use std::ffi::OsString;
use std::sync::Arc;

use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::SystemClock;

use super::machine::Event;
use super::table::{Running, Table};
use super::{Surroundings, Worker};
use crate::config::{Config, Mode};
use crate::front::Front;
use crate::pid1::Reaper;
use crate::state::{State, Status};
use crate::sys::Seal;

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
}

impl Switch {
    /// A switch over a table of its own; nothing runs yet.
    pub(crate) fn new(ground: Ground, config: Arc<Config>) -> Self {
        let table = Arc::new(Table::new(config.mode != Mode::Standby));
        Self { ground, config, table }
    }

    /// Who runs where.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Puts the owner's function into the first worker, whose `state` others look at as well; its processes are started by
    /// whoever runs its [`Worker::owner`]. `None` where the container has no owner.
    pub(crate) fn begin(
        &self,
        state: &Arc<State>,
        front: Option<(Arc<Front>, u16)>,
    ) -> Option<Worker> {
        let Ground { environment, seal, reaper, clock, is_managed } = &self.ground;
        let around = Surroundings {
            environment: environment.clone(),
            seal: seal.clone(),
            reaper: reaper.clone(),
            state: state.clone(),
            clock: *clock,
            is_managed: *is_managed,
            front,
        };
        let mode = Worker::new(&self.config, around)?;
        let config = self.config.clone();
        self.seat(Running::new((0, 0), None, config, (mode.clone(), state.clone()), *clock));
        Some(mode)
    }

    /// The container is being stopped: no order is carried out from here on.
    pub(crate) fn stop(&self) {
        for worker in [0, 1] {
            let _ = self.table.apply(worker, Event::Stop);
        }
    }

    fn seat(&self, running: Running) {
        let (table, worker, epoch) = (self.table.clone(), running.worker, running.epoch);
        let mut view = running.state.watch();
        table.seat(Arc::new(running));
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
