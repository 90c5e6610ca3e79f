//! A function's log: the lines of all its replicas as one stream.
//!
//! In: a [`LogRequest`]. Out: first what there is, merged by time; then, for a follower, lines as they come, also of replicas
//! that start meanwhile, until the function is gone and its last replica has ended.
//! Always: each line once, at the seam between the two as well; a replica that leaves, or whose log fails, ends only its own
//! part. At most [`TAIL_BYTES`] of lines are held back, and only when a tail is cut from several replicas.
//! Touches: the engine's logs. Dropping the stream stops everything.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, stream};
use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::openfaas::LogMessage;
use jiff::Timestamp;
use tokio::time::timeout;

use self::backlog::Backlog;
use self::follow::Follower;
use crate::catalog::Catalog;
use crate::cluster::Cluster;
use crate::engine::{ContainerId, Engine, EngineError, LogLine, LogQuery, ReplicaId};

mod backlog;
mod follow;
#[cfg(test)]
mod tests;
mod visits;

/// Most bytes of lines held back to find the last ones of several replicas: 8 MiB; older ones fall out.
const TAIL_BYTES: usize = 8 << 20;
/// How long the engine may take to show the first line of each replica.
const FIRST_LINE_PATIENCE: Duration = Duration::from_secs(10);

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub struct LogRequest {
    /// Whose log.
    pub key: FunctionKey,
    /// Only this replica.
    pub instance: Option<String>,
    /// Whether to stay for lines yet to come.
    pub follow: bool,
    /// At most this many lines of what there is: the last ones over all replicas together.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The engine refused or is away.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine took too long.
    #[error("the engine showed no log within {FIRST_LINE_PATIENCE:?}")]
    Slow,
}

/// Where replicas and their lines are found.
#[derive(Clone)]
pub struct Sources {
    /// Whether the function exists.
    pub catalog: Arc<Catalog>,
    /// Its replicas.
    pub cluster: Arc<Cluster>,
    /// Their lines.
    pub engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// One replica's part of a log.
#[derive(Debug, Clone)]
struct Part {
    replica: ReplicaId,
    container: ContainerId,
}

impl Sources {
    /// The replicas whose lines `request` wants, as they are now.
    fn parts(&self, request: &LogRequest) -> Vec<Part> {
        let all = self.cluster.replicas(&request.key).into_iter();
        let is_wanted = |part: &Part| {
            request.instance.as_ref().is_none_or(|instance| part.replica.0 == *instance)
        };
        let own = all.map(|(replica, container)| Part { replica, container });
        own.chain(visits::parts(&self.cluster, &request.key)).filter(is_wanted).collect()
    }

    /// The lines of one part.
    fn lines(
        &self,
        key: &FunctionKey,
        container: &ContainerId,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogLine, EngineError>> {
        visits::lines(&self.cluster, key, container, query)
            .unwrap_or_else(|| self.engine.logs(container, query))
    }
}

/// Opens the log; resolves once the engine has shown that it can be read.
///
/// # Errors
/// [`LogError`] when it cannot: afterwards a failing replica only ends its own part.
pub async fn open(
    sources: Sources,
    request: LogRequest,
) -> Result<impl Stream<Item = LogMessage>, LogError> {
    // Subscribed before looking, so that no replica is missed between the two.
    let changes = sources.cluster.subscribe();
    let parts = sources.parts(&request);
    let opening = Backlog::open(&sources, parts, &request);
    let backlog = timeout(FIRST_LINE_PATIENCE, opening).await.map_err(|_| LogError::Slow)??;
    let reader =
        Reader { key: request.key.clone(), stage: Stage::Backlog(backlog), follower: None };
    let follower = request.follow.then(|| Follower::new(sources, request, changes));
    Ok(stream::unfold(Reader { follower, ..reader }, |mut reader| async move {
        let message = reader.next().await?;
        Some((message, reader))
    }))
}

/// Where a reader stands.
enum Stage {
    Backlog(Backlog),
    Following,
}

struct Reader {
    key: FunctionKey,
    stage: Stage,
    /// For a request that follows.
    follower: Option<Follower>,
}

impl Reader {
    async fn next(&mut self) -> Option<LogMessage> {
        if let Stage::Backlog(backlog) = &mut self.stage {
            if let Some((replica, line)) = backlog.next().await {
                return Some(self.message(replica, line));
            }
            let seen = backlog.take_positions();
            self.stage = Stage::Following;
            self.follower.as_mut()?.start(&seen);
        }
        let (replica, line) = self.follower.as_mut()?.next().await?;
        Some(self.message(replica, line))
    }

    fn message(&self, replica: ReplicaId, line: LogLine) -> LogMessage {
        LogMessage {
            name: self.key.name.to_string(),
            namespace: self.key.namespace.to_string(),
            instance: replica.0,
            timestamp: line.timestamp,
            text: line.text,
        }
    }
}

/// How far one container's log has been read.
///
/// Times are the engine's, in nanoseconds; lines that share one are told apart by their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    last: Option<Timestamp>,
    /// Lines read that carry the time `last`.
    repeats: u32,
}

impl Position {
    /// Notes that a line of `time` was read.
    fn advance(&mut self, time: Timestamp) {
        match self.last {
            Some(last) if time < last => {}
            Some(last) if time == last => self.repeats += 1,
            _ => *self = Self { last: Some(time), repeats: 1 },
        }
    }
}

/// Recognises the lines that a log shows again when it is opened anew at a [`Position`].
#[derive(Debug)]
struct Replay(Position);

impl Replay {
    /// Whether a line of `time` was read before; each of several lines of one time is recognised once.
    fn was_read(&mut self, time: Timestamp) -> bool {
        let Some(last) = self.0.last else { return false };
        if time == last && self.0.repeats > 0 {
            self.0.repeats -= 1;
            return true;
        }
        time < last
    }
}
