//! What the replicas' logs hold already, merged by time.
//!
//! In: one stream a replica, each in order. Out: their lines, oldest first; with a tail, the last ones of all together.

use std::collections::{HashMap, VecDeque};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use tracing::debug;

use super::{LogRequest, Part, Position, Sources, TAIL_BYTES};
use crate::engine::{ContainerId, EngineError, LogLine, LogQuery, ReplicaId};

type Lines = BoxStream<'static, Result<LogLine, EngineError>>;

/// The merged backlog, read line by line.
pub(super) struct Backlog {
    sources: Vec<Source>,
    /// Lines held back to cut a tail; filled at the first read.
    tail: Option<u64>,
    held: VecDeque<(ReplicaId, LogLine)>,
}

struct Source {
    part: Part,
    lines: Lines,
    head: Option<LogLine>,
    position: Position,
}

impl Backlog {
    /// Opens every part and waits for its first line.
    ///
    /// # Errors
    /// The engine's, when a log cannot be read for another reason than that its container has left.
    pub(super) async fn open(
        sources: &Sources,
        parts: Vec<Part>,
        request: &LogRequest,
    ) -> Result<Self, EngineError> {
        let query = LogQuery { follow: false, tail: request.tail, since: request.since };
        let open = |part: Part| {
            let mut lines = sources.lines(&request.key, &part.container, query);
            async move {
                match lines.next().await {
                    Some(Err(EngineError::NotFound)) | None => Ok(None),
                    Some(Err(error)) => Err(error),
                    Some(Ok(head)) => Ok(Some(Source {
                        part,
                        lines,
                        head: Some(head),
                        position: Position::default(),
                    })),
                }
            }
        };
        let sources: Result<Vec<_>, _> =
            join_all(parts.into_iter().map(open)).await.into_iter().collect();
        let sources: Vec<_> = sources?.into_iter().flatten().collect();
        // The engine itself cuts the tail of a single replica.
        let tail = request.tail.filter(|_| sources.len() > 1);
        Ok(Self { sources, tail, held: VecDeque::new() })
    }

    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<(ReplicaId, LogLine)> {
        if let Some(tail) = self.tail.take() {
            self.hold_back(tail).await;
        }
        match self.held.pop_front() {
            Some(line) => Some(line),
            None => self.merge().await,
        }
    }

    /// How far each container was read; for containers with lines only.
    pub(super) fn take_positions(&mut self) -> HashMap<ContainerId, Position> {
        self.sources.drain(..).map(|source| (source.part.container, source.position)).collect()
    }

    /// Reads to the end and keeps the last `tail` lines.
    async fn hold_back(&mut self, tail: u64) {
        let most = usize::try_from(tail).unwrap_or(usize::MAX);
        let mut bytes = 0;
        while let Some((replica, line)) = self.merge().await {
            bytes += line.text.len() + size_of::<(ReplicaId, LogLine)>();
            self.held.push_back((replica, line));
            while self.held.len() > most || bytes > TAIL_BYTES {
                let Some((_, oldest)) = self.held.pop_front() else { break };
                bytes -= oldest.text.len() + size_of::<(ReplicaId, LogLine)>();
            }
        }
    }

    /// The oldest of the replicas' next lines.
    async fn merge(&mut self) -> Option<(ReplicaId, LogLine)> {
        let ready = self.sources.iter_mut().filter(|source| source.head.is_some());
        let source = ready.min_by_key(|source| source.head.as_ref().map(|head| head.timestamp))?;
        let line = source.head.take()?;
        source.position.advance(line.timestamp);
        source.head = match source.lines.next().await {
            Some(Ok(head)) => Some(head),
            Some(Err(error)) => {
                debug!(replica = source.part.replica.0, %error, "log ended early");
                None
            }
            None => None,
        };
        Some((source.part.replica.clone(), line))
    }
}
