//! What may become of one worker: which order it follows, which state it enters, what has to be done for that.
//!
//! In: a [`Machine`] and an [`Event`]. Out: the machine afterwards and a [`Step`]; nothing is carried out here.
//! Always: `Generic → Specialising ⇄ Ready ⇄ Crashed → Draining → Generic`, from the middle three to `Draining` at any time;
//! every order that is carried out has a greater epoch than all before it; what is said about another epoch than the
//! present one changes nothing; an order that repeats the present one is no mistake and changes nothing.
//! Touches: nothing. `switch` acts, `table` keeps the machines.
//! Tests: the table and the properties below.

use hyperfaas_protocol::control::{WorkerReport, WorkerState};

/// Where one worker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Of the newest order carried out; 0 before the first, and for the owner's own worker.
    pub(super) epoch: u64,
    pub(super) state: WorkerState,
    /// Why it stands there, for people.
    pub(super) reason: Option<String>,
    /// How often a process of it ended unasked, all epochs together.
    pub(super) crashes: u64,
    /// Whether it belongs to the container's owner for as long as the container lives.
    is_kept: bool,
    /// Whether the container is being stopped: no order is carried out any more.
    is_stopping: bool,
}

/// What happens to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// An order to take on a function; `able` says what is in its way, if anything.
    Specialise { epoch: u64, able: Result<(), String> },
    /// An order to let a function that waits in its interpreter run.
    Proceed { epoch: u64 },
    /// An order to give it up.
    Release { epoch: u64 },
    /// Its function starts, or starts anew.
    Starting { epoch: u64, reason: Option<String> },
    /// Its function can answer.
    Ready { epoch: u64 },
    /// Its process has ended unasked.
    Crashed { epoch: u64, reason: Option<String> },
    /// Nothing runs in it any more, or its time is up.
    Drained { epoch: u64 },
    /// None of its processes is left, nor anything else of theirs.
    Cleared { epoch: u64 },
    /// The container is being stopped.
    Stop,
}

/// What has to be done after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Rest,
    /// Start the function.
    Start,
    /// Let the function run, if it waits.
    Proceed,
    /// Admit nothing, wait until nothing runs or the grace is over, and say so.
    Drain,
    /// End every process, remove what they leave behind, and say so.
    Clear,
    /// Tell whoever gave the order why it is not carried out.
    Refuse(String),
    /// Tell whoever gave the order again how the worker stands: it repeats the present one.
    Repeat,
}

impl Machine {
    /// A worker without a function.
    pub(super) const fn generic() -> Self {
        Self {
            epoch: 0,
            state: WorkerState::Generic,
            reason: None,
            crashes: 0,
            is_kept: false,
            is_stopping: false,
        }
    }

    /// The worker that has the owner's function from the beginning to the end.
    pub(super) fn owners() -> Self {
        Self { state: WorkerState::Specialising, is_kept: true, ..Self::generic() }
    }

    /// The machine after `event`, and what has to be done.
    pub(super) fn after(&self, event: Event) -> (Self, Step) {
        let mut next = self.clone();
        let step = next.take(event);
        (next, step)
    }

    /// As the provider is told; whose guest it has the table knows.
    pub(super) fn report(&self, worker: u8) -> WorkerReport {
        let Self { epoch, state, crashes, .. } = *self;
        WorkerReport { worker, epoch, state, guest: None, reason: self.reason.clone(), crashes }
    }

    fn take(&mut self, event: Event) -> Step {
        match event {
            Event::Specialise { epoch, able } => self.specialise(epoch, able),
            Event::Proceed { epoch } => self.proceed(epoch),
            Event::Release { epoch } => self.release(epoch),
            Event::Stop => {
                self.is_stopping = true;
                if self.is_busy() {
                    self.enter(WorkerState::Draining, None);
                }
                Step::Rest
            }
            Event::Starting { epoch, reason } if self.lives(epoch) => {
                self.enter(WorkerState::Specialising, reason);
                Step::Rest
            }
            Event::Ready { epoch } if self.lives(epoch) => {
                self.enter(WorkerState::Ready, None);
                Step::Rest
            }
            Event::Crashed { epoch, reason } if self.lives(epoch) => {
                self.crashes += 1;
                self.enter(WorkerState::Crashed, reason);
                Step::Rest
            }
            Event::Drained { epoch } if self.drains(epoch) => Step::Clear,
            Event::Cleared { epoch } if self.drains(epoch) => {
                self.enter(WorkerState::Generic, None);
                Step::Rest
            }
            // About an epoch that is over, or a state that has been left since.
            _ => Step::Rest,
        }
    }

    fn specialise(&mut self, epoch: u64, able: Result<(), String>) -> Step {
        if self.is_stopping {
            return Step::Refuse("the container is being stopped".into());
        }
        if epoch == self.epoch && self.is_busy() && !self.is_kept {
            return Step::Repeat;
        }
        if epoch <= self.epoch {
            return Step::Refuse(format!("epoch {epoch} is over, the newest is {}", self.epoch));
        }
        if self.state != WorkerState::Generic {
            return Step::Refuse(format!("it is not generic, it has epoch {}", self.epoch));
        }
        match able {
            Err(reason) => Step::Refuse(reason),
            Ok(()) => {
                self.epoch = epoch;
                self.enter(WorkerState::Specialising, None);
                Step::Start
            }
        }
    }

    fn proceed(&self, epoch: u64) -> Step {
        match self.is_about(epoch) {
            Err(refusal) => refusal,
            Ok(()) if self.is_kept || !self.lives(epoch) => {
                Step::Refuse("it has no function that could wait".into())
            }
            Ok(()) => Step::Proceed,
        }
    }

    fn release(&mut self, epoch: u64) -> Step {
        if let Err(refusal) = self.is_about(epoch) {
            return refusal;
        }
        match self.state {
            _ if self.is_kept => Step::Refuse("it is the owner's own worker".into()),
            WorkerState::Generic if epoch == 0 => Step::Refuse("it has no function".into()),
            WorkerState::Generic | WorkerState::Draining => Step::Repeat,
            WorkerState::Specialising | WorkerState::Ready | WorkerState::Crashed => {
                self.enter(WorkerState::Draining, None);
                Step::Drain
            }
        }
    }

    /// Whether an order with `epoch` is about what the worker has now.
    fn is_about(&self, epoch: u64) -> Result<(), Step> {
        if epoch == self.epoch {
            return Ok(());
        }
        Err(Step::Refuse(format!("its epoch is {}, not {epoch}", self.epoch)))
    }

    fn enter(&mut self, state: WorkerState, reason: Option<String>) {
        (self.state, self.reason) = (state, reason);
    }

    /// Whether it has a function.
    fn is_busy(&self) -> bool {
        self.state != WorkerState::Generic
    }

    /// Whether what happens to the function of `epoch` still matters.
    fn lives(&self, epoch: u64) -> bool {
        let is_over = matches!(self.state, WorkerState::Generic | WorkerState::Draining);
        epoch == self.epoch && !is_over
    }

    fn drains(&self, epoch: u64) -> bool {
        epoch == self.epoch && self.state == WorkerState::Draining && !self.is_kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specialise(epoch: u64) -> Event {
        Event::Specialise { epoch, able: Ok(()) }
    }

    /// The machine after these events, and the last step.
    fn run(machine: Machine, events: impl IntoIterator<Item = Event>) -> (Machine, Step) {
        events.into_iter().fold((machine, Step::Rest), |(machine, _), event| machine.after(event))
    }

    fn ready(epoch: u64) -> Machine {
        run(Machine::generic(), [specialise(epoch), Event::Ready { epoch }]).0
    }

    #[test]
    fn a_function_comes_serves_and_goes() {
        let (machine, step) = Machine::generic().after(specialise(7));
        assert_eq!(
            (machine.state, machine.epoch, step),
            (WorkerState::Specialising, 7, Step::Start)
        );
        let (machine, step) = machine.after(Event::Ready { epoch: 7 });
        assert_eq!((machine.state, step), (WorkerState::Ready, Step::Rest));
        let reason = Some("exit status 1".to_owned());
        let (machine, _) = machine.after(Event::Crashed { epoch: 7, reason: reason.clone() });
        assert_eq!((machine.state, machine.crashes), (WorkerState::Crashed, 1));
        assert_eq!(machine.reason, reason);
        let (machine, _) = machine.after(Event::Starting { epoch: 7, reason: None });
        assert_eq!((machine.state, &machine.reason), (WorkerState::Specialising, &None));
        let (machine, step) = machine.after(Event::Release { epoch: 7 });
        assert_eq!((machine.state, step), (WorkerState::Draining, Step::Drain));
        let (machine, step) = machine.after(Event::Drained { epoch: 7 });
        assert_eq!((machine.state, step), (WorkerState::Draining, Step::Clear));
        let (machine, step) = machine.after(Event::Cleared { epoch: 7 });
        assert_eq!((machine.state, machine.epoch, step), (WorkerState::Generic, 7, Step::Rest));
        assert_eq!(machine.crashes, 1, "whoever missed one still learns of it");
    }

    #[test]
    fn a_function_that_waits_is_let_run_whatever_has_become_of_it_but_gone() {
        let starting = Machine::generic().after(specialise(3)).0;
        for machine in [starting.clone(), ready(3)] {
            let (after, step) = machine.after(Event::Proceed { epoch: 3 });
            assert_eq!((after, step), (machine, Step::Proceed));
        }
        let draining = ready(3).after(Event::Release { epoch: 3 }).0;
        for (machine, epoch) in
            [(starting, 2), (draining, 3), (Machine::generic(), 0), (Machine::owners(), 0)]
        {
            let (after, step) = machine.after(Event::Proceed { epoch });
            assert!(matches!(step, Step::Refuse(_)), "{machine:?}");
            assert_eq!(after, machine);
        }
    }

    #[test]
    fn a_repeated_order_is_no_mistake() {
        let machine = ready(3);
        assert_eq!(machine.after(specialise(3)), (machine.clone(), Step::Repeat));
        let (draining, _) = machine.after(Event::Release { epoch: 3 });
        let again = draining.after(Event::Release { epoch: 3 });
        assert_eq!(again, (draining.clone(), Step::Repeat));
        let generic = run(draining, [Event::Drained { epoch: 3 }, Event::Cleared { epoch: 3 }]).0;
        assert_eq!(generic.after(Event::Release { epoch: 3 }), (generic.clone(), Step::Repeat));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let released = run(
            ready(3),
            [Event::Release { epoch: 3 }, Event::Drained { epoch: 3 }, Event::Cleared { epoch: 3 }],
        );
        let stopping = Machine::generic().after(Event::Stop).0;
        let unable = Event::Specialise { epoch: 9, able: Err("no such root".into()) };
        for (machine, event) in [
            (ready(3), specialise(2)),
            (ready(3), specialise(4)),
            (ready(3), Event::Release { epoch: 2 }),
            (ready(3), Event::Release { epoch: 4 }),
            (released.0, specialise(3)),
            (Machine::generic(), specialise(0)),
            (Machine::generic(), unable),
            (Machine::generic(), Event::Release { epoch: 0 }),
            (Machine::owners(), Event::Release { epoch: 0 }),
            (Machine::owners(), specialise(0)),
            (Machine::owners(), specialise(1)),
            (stopping, specialise(1)),
        ] {
            let (after, step) = machine.after(event.clone());
            assert!(matches!(step, Step::Refuse(_)), "{event:?} of {machine:?}");
            assert_eq!(after, machine, "{event:?}");
        }
    }

    #[test]
    fn a_stop_drains_what_has_a_function_and_ends_all_change() {
        for machine in [Machine::owners(), ready(1)] {
            let (machine, step) = machine.after(Event::Stop);
            assert_eq!((machine.state, step), (WorkerState::Draining, Step::Rest));
            let late = Event::Ready { epoch: machine.epoch };
            assert_eq!(machine.after(late), (machine.clone(), Step::Rest));
        }
        assert_eq!(Machine::generic().after(Event::Stop).0.state, WorkerState::Generic);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let epoch = 0..6_u64;
        (epoch, 0..10_u8).prop_map(|(epoch, kind)| match kind {
            0 => specialise(epoch),
            1 => Event::Specialise { epoch, able: Err("unable".into()) },
            2 => Event::Release { epoch },
            3 => Event::Starting { epoch, reason: None },
            4 => Event::Ready { epoch },
            5 => Event::Crashed { epoch, reason: None },
            6 => Event::Drained { epoch },
            7 => Event::Cleared { epoch },
            8 => Event::Proceed { epoch },
            _ => Event::Stop,
        })
    }

    fn is_allowed(from: WorkerState, to: WorkerState) -> bool {
        use WorkerState::{Crashed, Draining, Generic, Ready, Specialising};
        from == to
            || matches!(
                (from, to),
                (Generic, Specialising)
                    | (Specialising | Ready | Crashed, Specialising | Ready | Crashed | Draining)
                    | (Draining, Generic)
            )
    }

    proptest! {
        #[test]
        fn only_allowed_changes_happen_and_epochs_only_grow(
            owners in any::<bool>(),
            events in prop::collection::vec(any_event(), 0..60),
        ) {
            let mut machine = if owners { Machine::owners() } else { Machine::generic() };
            let mut starts = 0;
            for event in events {
                let (next, step) = machine.after(event.clone());
                prop_assert!(is_allowed(machine.state, next.state), "{machine:?} {event:?}");
                prop_assert!(next.epoch >= machine.epoch);
                prop_assert!(next.crashes >= machine.crashes);
                prop_assert_eq!(step == Step::Start, next.epoch > machine.epoch);
                starts += u32::from(step == Step::Start);
                if matches!(step, Step::Refuse(_) | Step::Repeat) {
                    prop_assert_eq!(&next, &machine);
                    // The same order again gets the same answer.
                    prop_assert_eq!(next.after(event), (machine, step));
                }
                machine = next;
            }
            prop_assert!(!owners || starts == 0, "the owner's own worker takes no order");
        }

        #[test]
        fn what_is_said_of_another_epoch_changes_nothing(
            events in prop::collection::vec(any_event(), 0..30),
            late in any_event(),
        ) {
            let machine = run(Machine::generic(), events).0;
            let of = match late {
                Event::Starting { epoch, .. }
                | Event::Ready { epoch }
                | Event::Crashed { epoch, .. }
                | Event::Drained { epoch }
                | Event::Cleared { epoch } => epoch,
                _ => machine.epoch,
            };
            if of != machine.epoch {
                prop_assert_eq!(machine.after(late), (machine.clone(), Step::Rest));
            }
        }
    }
}
