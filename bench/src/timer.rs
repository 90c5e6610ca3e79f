//! Calls handed out when they are due, to some 50 µs: tokio's own timers have a grain of a millisecond, which would count as
//! latency.
//!
//! In: arrivals in order of time. Out: the same, from a channel, each at its moment. Touches: one thread, the clock.
//! Always: a receiver that is dropped ends the thread; one that does not keep up makes what follows late, never lost.

use std::thread;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::sync::mpsc::{Receiver, channel};

use crate::failure::{During, Result};

/// Arrivals that are due and not yet taken.
const READY: usize = 4096;
/// The longest sleep, after which a dropped receiver is noticed.
const NAP: Duration = Duration::from_millis(200);

/// Starts to hand out `arrivals`, which count from `began`.
pub(crate) fn on_time<T: Send + 'static>(
    arrivals: impl Iterator<Item = (Duration, T)> + Send + 'static,
    clock: SystemClock,
    began: Moment,
) -> Result<Receiver<(Duration, T)>> {
    let (sender, receiver) = channel(READY);
    let hand_out = move || {
        for (at, what) in arrivals {
            let due = began.after(at);
            loop {
                let wait = due.since(clock.now());
                if sender.is_closed() {
                    return;
                }
                if wait.is_zero() {
                    break;
                }
                thread::sleep(wait.min(NAP));
            }
            if sender.blocking_send((at, what)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("arrivals".to_owned())
        .spawn(hand_out)
        .during("starting a thread")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_comes_early_nothing_is_lost_and_order_holds() {
        let clock = SystemClock::start();
        let began = clock.now();
        let arrivals = (0..100_u64).map(|n| (Duration::from_micros(n * 100), n));
        let mut ready = on_time(arrivals, clock, began).unwrap();
        for wanted in 0..100 {
            let (at, n) = ready.recv().await.unwrap();
            assert_eq!(n, wanted);
            assert!(clock.now() >= began.after(at));
        }
        assert!(ready.recv().await.is_none());
    }
}
