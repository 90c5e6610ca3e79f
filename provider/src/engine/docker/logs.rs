//! A container's output as lines, both streams in the order the engine received them.
//!
//! The engine cuts lines at 16 KiB and stamps each piece; here they become one line again, up to [`LINE_MAX`].

use std::collections::HashMap;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::super::{ContainerId, EngineError, LogLine, LogQuery};
use super::connection::classify;

/// Longest line kept whole, bytes; the rest of a longer one follows as lines of its own.
const LINE_MAX: usize = 1 << 20;

/// The stream of [`super::super::Engine::logs`].
pub(super) fn stream(
    docker: Result<Docker, EngineError>,
    container: &ContainerId,
    query: LogQuery,
) -> BoxStream<'static, Result<LogLine, EngineError>> {
    let docker = match docker {
        Ok(docker) => docker,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    // Whole seconds are all the client library passes on; the rest is cut off below.
    let since =
        query.since.map_or(0, |since| i32::try_from(since.as_second().max(0)).unwrap_or(i32::MAX));
    let tail = query.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let options = LogsOptionsBuilder::default()
        .follow(query.follow)
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .since(since)
        .tail(&tail)
        .build();
    let pieces = docker.logs(&container.0, Some(options));
    let mut lines = Lines::default();
    pieces
        .filter_map(move |piece| {
            let line = match piece {
                Ok(piece) => lines.push(&piece).map(Ok),
                Err(error) => Some(Err(classify(error))),
            };
            let is_wanted = |line: &Result<LogLine, EngineError>| match (line, query.since) {
                (Ok(line), Some(since)) => line.timestamp >= since,
                _ => true,
            };
            std::future::ready(line.filter(is_wanted))
        })
        .boxed()
}

/// Lines that have begun, one for each of the two streams.
#[derive(Default)]
struct Lines {
    begun: HashMap<bool, (Timestamp, Vec<u8>)>,
}

impl Lines {
    /// Adds a piece as the engine sent it, `time text`; the line it completes, if any.
    fn push(&mut self, piece: &LogOutput) -> Option<LogLine> {
        let is_stderr = matches!(piece, LogOutput::StdErr { .. });
        let (timestamp, text) = stamped(piece.as_ref())?;
        let (timestamp, mut line) = match self.begun.remove(&is_stderr) {
            Some((first, line)) => (first, line),
            None => (timestamp, Vec::new()),
        };
        let whole = text.strip_suffix(b"\n");
        line.extend_from_slice(whole.unwrap_or(text));
        if whole.is_none() && line.len() < LINE_MAX {
            self.begun.insert(is_stderr, (timestamp, line));
            return None;
        }
        Some(LogLine { timestamp, text: String::from_utf8_lossy(&line).into_owned() })
    }
}

/// Splits the engine's time from the text behind it.
fn stamped(piece: &[u8]) -> Option<(Timestamp, &[u8])> {
    let blank = piece.iter().position(|byte| *byte == b' ')?;
    let timestamp = std::str::from_utf8(&piece[..blank]).ok()?.parse().ok()?;
    Some((timestamp, &piece[blank + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &'static str) -> LogOutput {
        LogOutput::StdOut { message: text.into() }
    }

    fn err(text: &'static str) -> LogOutput {
        LogOutput::StdErr { message: text.into() }
    }

    #[test]
    fn pieces_of_one_stream_become_one_line_with_the_first_time() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&out("2024-05-06T07:08:09.1Z a ")), None);
        let other = lines.push(&err("2024-05-06T07:08:09.2Z between\n")).unwrap();
        assert_eq!(other.text, "between");
        let line = lines.push(&out("2024-05-06T07:08:09.3Z b\r\n")).unwrap();
        assert_eq!(
            (line.text.as_str(), line.timestamp),
            ("a b\r", "2024-05-06T07:08:09.1Z".parse().unwrap())
        );
        assert_eq!(lines.push(&out("2024-05-06T07:08:09.4Z \n")).unwrap().text, "");
        assert_eq!(lines.push(&out("no time\n")), None);
    }
}
