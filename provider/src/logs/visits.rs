//! What a function said in containers that are not its own, as streams like the engine's.
//!
//! Always: a stream that follows ends when the visit is over and all of it was read.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use hyperfaas_protocol::FunctionKey;
use jiff::Timestamp;
use tokio::sync::watch;

use super::Part;
use crate::cluster::Cluster;
use crate::engine::{ContainerId, EngineError, LogLine, LogQuery, ReplicaId};

/// Before the name of a visit's container; no engine has such an id.
const VISIT: &str = "visit:";

/// The parts of a log that visits are.
pub(super) fn parts(cluster: &Cluster, key: &FunctionKey) -> impl Iterator<Item = Part> {
    cluster.visits(key).into_iter().map(|host| {
        let container = ContainerId(format!("{VISIT}{}", host.0));
        Part { replica: host, container }
    })
}

struct Reader {
    cluster: Arc<Cluster>,
    key: FunctionKey,
    host: ReplicaId,
    last: Option<Timestamp>,
    pending: VecDeque<LogLine>,
    follows: bool,
    lines: watch::Receiver<u64>,
    changes: watch::Receiver<u64>,
}

/// The lines of `container` when it is a visit's.
pub(super) fn lines(
    cluster: &Arc<Cluster>,
    key: &FunctionKey,
    container: &ContainerId,
    query: LogQuery,
) -> Option<BoxStream<'static, Result<LogLine, EngineError>>> {
    let host = ReplicaId(container.0.strip_prefix(VISIT)?.to_owned());
    let mut reader = Reader {
        cluster: Arc::clone(cluster),
        key: key.clone(),
        host,
        last: None,
        pending: VecDeque::new(),
        follows: query.follow,
        lines: cluster.subscribe_visit_lines(),
        changes: cluster.subscribe(),
    };
    reader.read();
    if let Some(since) = query.since {
        reader.pending.retain(|line| line.timestamp >= since);
    }
    if let Some(tail) = query.tail.and_then(|tail| usize::try_from(tail).ok()) {
        let surplus = reader.pending.len().saturating_sub(tail);
        reader.pending.drain(..surplus);
    }
    let next = |mut reader: Reader| async move {
        let line = reader.next().await?;
        Some((Ok(line), reader))
    };
    Some(stream::unfold(reader, next).boxed())
}

impl Reader {
    fn read(&mut self) {
        let new = self.cluster.visit_lines(&self.key, &self.host, self.last);
        self.last = new.last().map_or(self.last, |line| Some(line.timestamp));
        self.pending.extend(new);
    }

    async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if !self.follows {
                return None;
            }
            self.lines.mark_unchanged();
            self.changes.mark_unchanged();
            let is_over = self.cluster.visit(&self.key, &self.host).is_none();
            self.read();
            if !self.pending.is_empty() {
                continue;
            }
            if is_over {
                return None;
            }
            tokio::select! {
                changed = self.lines.changed() => changed.ok()?,
                changed = self.changes.changed() => changed.ok()?,
            }
        }
    }
}
