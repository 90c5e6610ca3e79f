//! Lines as they come, from all replicas that run or start to.
//!
//! A log that ends while its replica still runs (the engine went away) is opened again where it ended, once a
//! [`REOPEN_EVERY`] at most.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt, future, stream};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

use super::{LogRequest, Part, Position, Replay, Sources};
use crate::engine::{ContainerId, LogLine, LogQuery, ReplicaId};

/// The shortest time between two tries to open ended logs again: soon enough for a person, harmless to an engine.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Something that one replica's log shows.
enum Seen {
    Line(Part, LogLine),
    End(ContainerId),
}

/// Follows a function.
pub(super) struct Follower {
    sources: Sources,
    request: LogRequest,
    /// Replicas that come and go.
    changes: watch::Receiver<u64>,
    /// The function itself may go.
    catalog: watch::Receiver<u64>,
    live: SelectAll<BoxStream<'static, Seen>>,
    /// How far each container is read, ended ones included, while it exists.
    positions: HashMap<ContainerId, Position>,
    ended: HashSet<ContainerId>,
    reopen: Interval,
}

impl Follower {
    /// A follower that has read nothing; `changes` tells of replicas that come or go.
    pub(super) fn new(
        sources: Sources,
        request: LogRequest,
        changes: watch::Receiver<u64>,
    ) -> Self {
        let mut reopen = interval(REOPEN_EVERY);
        reopen.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            catalog: sources.catalog.subscribe(),
            sources,
            request,
            changes,
            live: SelectAll::new(),
            positions: HashMap::new(),
            ended: HashSet::new(),
            reopen,
        }
    }

    /// Goes on from what was read of each container.
    pub(super) fn start(&mut self, read: &HashMap<ContainerId, Position>) {
        let parts = self.sources.parts(&self.request);
        for part in parts {
            let position = read.get(&part.container).copied().unwrap_or_default();
            self.open(part, position);
        }
    }

    /// The next line; `None` when the function is gone and nothing of it runs.
    pub(super) async fn next(&mut self) -> Option<(ReplicaId, LogLine)> {
        loop {
            if self.live.is_empty() && self.sources.catalog.function(&self.request.key).is_none() {
                return None;
            }
            tokio::select! {
                seen = self.live.next(), if !self.live.is_empty() => match seen {
                    Some(Seen::Line(part, line)) => {
                        self.positions.entry(part.container).or_default().advance(line.timestamp);
                        return Some((part.replica, line));
                    }
                    Some(Seen::End(container)) => {
                        self.ended.insert(container);
                    }
                    // The last stream was dropped: look again whether there is anything to wait for.
                    None => {}
                },
                changed = self.changes.changed() => {
                    changed.ok()?;
                    self.join();
                }
                changed = self.catalog.changed() => changed.ok()?,
                _ = self.reopen.tick(), if !self.ended.is_empty() => self.rejoin(),
            }
        }
    }

    /// Opens the logs of new replicas and forgets those that left.
    fn join(&mut self) {
        let parts = self.sources.parts(&self.request);
        let running: HashSet<_> = parts.iter().map(|part| part.container.clone()).collect();
        // What is left of a replica that left is still read to its end; only its place in the books goes.
        self.ended.retain(|container| running.contains(container));
        self.positions.retain(|container, _| running.contains(container));
        for part in parts {
            if !self.positions.contains_key(&part.container) {
                self.open(part, Position::default());
            }
        }
    }

    /// Opens ended logs again whose replicas still run.
    fn rejoin(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        for part in self.sources.parts(&self.request) {
            if ended.contains(&part.container) {
                let position = self.positions.get(&part.container).copied().unwrap_or_default();
                self.open(part, position);
            }
        }
    }

    fn open(&mut self, part: Part, position: Position) {
        let since = position.last.or(self.request.since);
        let query = LogQuery { follow: true, tail: None, since };
        let lines = self.sources.lines(&self.request.key, &part.container, query);
        let mut replay = Replay(position);
        let end = part.container.clone();
        self.positions.insert(part.container.clone(), position);
        let seen = lines.filter_map(move |line| {
            future::ready(match line {
                Ok(line) if replay.was_read(line.timestamp) => None,
                Ok(line) => Some(Seen::Line(part.clone(), line)),
                Err(error) => {
                    debug!(replica = part.replica.0, %error, "log ended early");
                    None
                }
            })
        });
        self.live.push(seen.chain(stream::iter([Seen::End(end)])).boxed());
    }
}
