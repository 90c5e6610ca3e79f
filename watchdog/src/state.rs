//! Where the processes of one function in one worker stand, for everybody who wants to know: health checks, the table of
//! workers, the provider.
//!
//! In: changes from whoever causes them. Out: the newest [`Status`], and a wake-up for each change.
//! Always: once draining, always draining; equal statuses are reported once.

use hyperfaas_protocol::control::OwnerState;
use tokio::sync::watch;

/// A function's processes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Where it stands.
    pub(crate) state: OwnerState,
    /// Why, for people.
    pub(crate) reason: Option<String>,
    /// How often it has crashed.
    pub(crate) crashes: u64,
}

/// Holds the newest [`Status`].
#[derive(Debug)]
pub(crate) struct State(watch::Sender<Status>);

impl State {
    /// Begins with processes that start.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Status { state: OwnerState::Starting, reason: None, crashes: 0 }))
    }

    /// Enters `state`; nothing leaves [`OwnerState::Draining`].
    pub(crate) fn enter(&self, state: OwnerState, reason: Option<String>) {
        self.0.send_if_modified(|now| {
            let is_same = now.state == state && now.reason == reason;
            if is_same || now.state == OwnerState::Draining {
                return false;
            }
            let crashes = now.crashes + u64::from(state == OwnerState::Crashed);
            *now = Status { state, reason, crashes };
            true
        });
    }

    /// The present state.
    pub(crate) fn now(&self) -> OwnerState {
        self.0.borrow().state
    }

    pub(crate) fn is(&self, state: OwnerState) -> bool {
        self.now() == state
    }

    /// A view that starts with the present status.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_is_final_and_repetitions_wake_nobody() {
        let state = State::new();
        let mut view = state.watch();
        view.mark_unchanged();
        state.enter(OwnerState::Starting, None);
        assert!(!view.has_changed().unwrap());
        state.enter(OwnerState::Ready, None);
        assert!(view.has_changed().unwrap());
        state.enter(OwnerState::Crashed, Some("exit status 1".into()));
        state.enter(OwnerState::Crashed, Some("exit status 1".into()));
        state.enter(OwnerState::Draining, None);
        state.enter(OwnerState::Crashed, Some("exit status 1".into()));
        let last = view.borrow_and_update();
        assert_eq!((last.state, last.crashes), (OwnerState::Draining, 1));
    }
}
