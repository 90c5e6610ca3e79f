//! Who comes in next: the queue in front of one worker.
//!
//! In: requests on lanes, and the ends of all requests. Out: a [`Claim`] on the worker, or the reason to go elsewhere.
//! Always: first come, first served; a request waits for a bounded time, and a bounded number do; a place that was
//! given to somebody who has left goes to the next.
//! Touches: memory. `admission` decides, `knee` finds the limit where none is set.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyperfaas_protocol::lane::{Crowd, Reason};
use hyperfaas_protocol::moment::Moment;
use tokio::sync::oneshot;

use super::table::{Claim, Running};
use crate::admission::{Admission, Load, admit, released};
use crate::config::{Config, QueueSettings};
use crate::knee::Knee;

/// The queue in front of a limit that was found, not set: it costs no throughput to wait there, as the worker has enough to do, so
/// a request goes elsewhere only where the wait would be long.
const FOUND: (usize, Duration) = (1024, Duration::from_millis(250));

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    settings: QueueSettings,
    /// As it was set.
    fixed: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<oneshot::Sender<Claim>>,
    /// `None` where a limit is set, or none is wanted.
    knee: Option<Knee>,
}

impl Queue {
    pub(super) fn new(config: &Config, now: Moment) -> Self {
        let fixed = config.max_inflight.map(NonZeroUsize::get);
        let has_knee = fixed.is_none() && config.queue.finds_limit;
        let knee = has_knee.then(|| Knee::new(now));
        let state = Mutex::new(State { waiting: VecDeque::new(), knee });
        Self { settings: config.queue, fixed, state }
    }

    /// A request has ended after `time`; so many were in flight until then.
    pub(super) fn ended(&self, running: &Running, (time, in_flight): (Duration, u64), now: Moment) {
        let mut state = self.lock();
        let Some(knee) = &mut state.knee else { return };
        knee.ended(time, u32::try_from(in_flight).unwrap_or(u32::MAX), now);
        running.set_limit(knee.limit().and_then(|limit| u64::try_from(limit).ok()));
    }

    /// Somebody waited for as long as it may and has left the queue. Whether the limit was to blame, and is gone: then everybody
    /// who waits may run.
    fn gave_up(&self, running: &Arc<Running>) -> bool {
        let mut state = self.lock();
        state.waiting.retain(|waiting| !waiting.is_closed());
        let now = running.now();
        if !state.knee.as_mut().is_some_and(|knee| knee.gave_up(now)) {
            return false;
        }
        running.set_limit(None);
        drop(state);
        self.release(running);
        true
    }

    /// Most that wait, and longest.
    fn bounds(&self) -> (usize, Duration) {
        let QueueSettings { most, wait, .. } = self.settings;
        if self.fixed.is_some() { (most, wait) } else { (most.max(FOUND.0), wait.max(FOUND.1)) }
    }

    /// Gives free places to those that wait.
    pub(super) fn release(&self, running: &Arc<Running>) {
        loop {
            let mut state = self.lock();
            if released(self.load(running, &state)) == 0 {
                return;
            }
            let Some(next) = state.waiting.pop_front() else { return };
            let claim = running.reserve();
            drop(state);
            // Whoever has left gives it back by that.
            drop(next.send(claim));
        }
    }

    /// Sends everybody who waits away: the function leaves its worker.
    pub(super) fn dismiss(&self) {
        self.lock().waiting.clear();
    }

    fn load(&self, running: &Running, state: &State) -> Load {
        Load {
            in_flight: usize::try_from(running.in_flight()).unwrap_or(usize::MAX),
            limit: self.fixed.or_else(|| state.knee.as_ref().and_then(Knee::limit)),
            queued: state.waiting.len(),
            queue_max: self.bounds().0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl Running {
    /// A place for one request from a lane, which may have to wait for it a little. Whether it waited is told too.
    ///
    /// # Errors
    /// Why it must go elsewhere, and how full it is here. It is counted as bounced.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<(Claim, bool), (Reason, Crowd)> {
        let mut turn = match self.approach() {
            Ok(Turn::Now(claim)) => return Ok((claim, false)),
            Ok(Turn::Wait(turn)) => turn,
            Err(reason) => return Err(self.bounce(reason)),
        };
        let _waiting = self.wait_for_place();
        match tokio::time::timeout(self.queue.bounds().1, &mut turn).await {
            Ok(Ok(claim)) => Ok((claim.used(), true)),
            Ok(Err(_)) => Err(self.bounce(Reason::NotReady)),
            Err(_) => {
                turn.close();
                match turn.try_recv() {
                    Ok(claim) => Ok((claim.used(), true)),
                    Err(_) if self.queue.gave_up(self) => Ok((self.claim(), true)),
                    Err(_) => Err(self.bounce(Reason::Late)),
                }
            }
        }
    }

    fn approach(self: &Arc<Self>) -> Result<Turn, Reason> {
        let mut state = self.queue.lock();
        match admit(self.queue.load(self, &state)) {
            Admission::Run => Ok(Turn::Now(self.claim())),
            Admission::Queue { .. } => {
                let (sender, turn) = oneshot::channel();
                if let Some(knee) = &mut state.knee {
                    knee.held(self.now());
                }
                state.waiting.push_back(sender);
                Ok(Turn::Wait(turn))
            }
            Admission::Refuse { .. } => Err(Reason::Full),
        }
    }

    /// Counts a request that has to go elsewhere, and says how full it is here.
    pub(crate) fn bounce(&self, reason: Reason) -> (Reason, Crowd) {
        self.bounced();
        let state = self.queue.lock();
        let load = self.queue.load(self, &state);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let limit = load.limit.map_or(0, count);
        (reason, Crowd { in_flight: count(load.in_flight), queued: count(load.queued), limit })
    }
}

/// What `approach` found.
enum Turn {
    Now(Claim),
    Wait(oneshot::Receiver<Claim>),
}
