//! The closed loop: so many callers, each calling again as soon as it has its answer. For what a hop adds and how much it carries.
//!
//! In: a [`Target`], connections, a length. Out: [`Closed`]. Touches: sockets, the clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::Target;
use crate::sample::Times;

/// An answer that takes longer ends its caller's loop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of the calls.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// Of answered calls.
    pub(crate) times: Times,
    /// Calls without an answer below 400.
    pub(crate) failed: u64,
    /// From the first call to the last answer.
    pub(crate) took: Duration,
}

impl Closed {
    /// Answered calls a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Calls `target` over `connections` for `length`. Runs within a `LocalSet`.
pub(crate) async fn run(target: &Target, connections: usize, length: Duration) -> Closed {
    let clock = SystemClock::start();
    let began = clock.now();
    let closed = Rc::new(RefCell::new(Closed::default()));
    let mut callers = JoinSet::new();
    for _ in 0..connections {
        let (target, closed) = (target.clone(), closed.clone());
        callers
            .spawn_local(async move { caller(&target, began.after(length), clock, &closed).await });
    }
    while callers.join_next().await.is_some() {}
    let mut closed = closed.take();
    closed.took = clock.now().since(began);
    closed
}

async fn caller(target: &Target, until: Moment, clock: SystemClock, closed: &RefCell<Closed>) {
    let mut kept = None;
    loop {
        let before = clock.now();
        if before >= until {
            return;
        }
        let call = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => target.connect().await?,
            };
            let answer = connection.call(&target.request).await?;
            Ok::<_, crate::call::Fault>((answer, connection))
        };
        let end = timeout(PATIENCE, call).await;
        let after = clock.now();
        let mut closed = closed.borrow_mut();
        match end {
            Ok(Ok((answer, connection))) => {
                if answer.status < 400 {
                    closed.times.add(after.since(before));
                } else {
                    closed.failed += 1;
                }
                kept = answer.is_reusable.then_some(connection);
            }
            _ => closed.failed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::serve::Server;

    #[tokio::test]
    async fn callers_call_until_the_time_is_over() {
        let local = LocalSet::new();
        let closed = local
            .run_until(async {
                let server = Server::bind(0).await.unwrap();
                let address = server.address();
                spawn_local(server.run());
                let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
                run(&Target::new(address, request), 4, Duration::from_millis(100)).await
            })
            .await;
        assert_eq!(closed.failed, 0);
        assert!(closed.times.len() > 4, "{closed:?}");
        assert!(closed.throughput() > 0.0);
    }
}
