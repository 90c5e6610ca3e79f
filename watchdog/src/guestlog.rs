//! The log of guests, which belongs to them and not to the container's owner: it leaves through the control link.
//!
//! In: whatever is logged in a task that was started with [`Scope::spawn`], or [`spawn`]ed by such a task. Out: [`LogLine`]s
//! for the link's newest reader.
//! Always: the owner, who may write anything into the container's log, cannot write here, nor a guest for another one. What is
//! kept is bounded: with a reader, guests' pipes are read no further while it is full; without one, and for the watchdog's
//! own lines, the oldest are dropped and counted.
//! Touches: memory.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use hyperfaas_protocol::control::{LogLine, LogStream};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::log::Stream;

/// Bytes of text that are kept.
const KEPT_MAX: usize = 64 << 10;
/// Longest text of a line as JSON has it, in bytes; with all the rest far below the link's limit.
const TEXT_MAX: usize = 3000;
/// What a line counts besides its text.
const OVERHEAD: usize = 64;

tokio::task_local! {
    /// Whose task this is; not set in those of the owner and the watchdog.
    static SCOPE: Arc<Scope>;
}

/// Lines of guests that wait for a reader.
#[derive(Debug)]
pub(crate) struct GuestLog {
    queue: Mutex<Queue>,
    /// Lines so far.
    said: watch::Sender<u64>,
    /// Some lines have been taken, or nobody reads any more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<LogLine>,
    bytes: usize,
    lost: u64,
    /// Numbers of the readers; the highest one reads.
    readers: BTreeSet<u64>,
    begun: u64,
}

/// A guest's place in the log.
#[derive(Debug)]
pub(crate) struct Scope {
    log: Arc<GuestLog>,
    worker: u8,
    epoch: u64,
    function: String,
}

/// Somebody who reads the log, until dropped; only the newest one gets lines.
#[derive(Debug)]
pub(crate) struct Reader {
    log: Arc<GuestLog>,
    number: u64,
    said: watch::Receiver<u64>,
}

impl Default for GuestLog {
    fn default() -> Self {
        Self { queue: Mutex::default(), said: watch::Sender::new(0), room: Notify::new() }
    }
}

impl GuestLog {
    /// The place of one guest.
    pub(crate) fn scope(self: &Arc<Self>, place: (u8, u64), function: String) -> Arc<Scope> {
        let (worker, epoch) = place;
        Arc::new(Scope { log: self.clone(), worker, epoch, function })
    }

    /// A new reader, who gets what is kept and all that comes.
    pub(crate) fn read(self: &Arc<Self>) -> Reader {
        let mut queue = self.lock();
        queue.begun += 1;
        let number = queue.begun;
        queue.readers.insert(number);
        let mut said = self.said.subscribe();
        said.mark_changed();
        Reader { log: self.clone(), number, said }
    }

    fn is_full(&self) -> bool {
        let queue = self.lock();
        queue.bytes > KEPT_MAX && !queue.readers.is_empty()
    }

    fn push(&self, line: LogLine) {
        let mut queue = self.lock();
        queue.bytes += line.text.len() + OVERHEAD;
        queue.lines.push_back(line);
        // Twice: room for the watchdog's own lines, which cannot wait.
        while queue.bytes > 2 * KEPT_MAX || (queue.bytes > KEPT_MAX && queue.readers.is_empty()) {
            let Some(oldest) = queue.lines.pop_front() else { break };
            queue.bytes -= oldest.text.len() + OVERHEAD;
            queue.lost += 1 + oldest.lost;
        }
        drop(queue);
        self.said.send_modify(|said| *said += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }
}

impl Reader {
    /// Resolves when there may be lines; to `false` never.
    pub(crate) async fn changed(&mut self) -> bool {
        self.said.changed().await.is_ok()
    }

    /// The next lines, at most `bytes` of text and one more; none for whoever is not the newest reader.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<LogLine> {
        self.said.mark_unchanged();
        let mut queue = self.log.lock();
        if queue.readers.last() != Some(&self.number) {
            return Vec::new();
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < bytes {
            let Some(mut line) = queue.lines.pop_front() else { break };
            queue.bytes -= line.text.len() + OVERHEAD;
            size += line.text.len() + OVERHEAD;
            line.lost = std::mem::take(&mut queue.lost);
            taken.push(line);
        }
        if !queue.lines.is_empty() {
            self.said.mark_changed();
        } else if taken.is_empty() {
            queue.lines.shrink_to(0);
        }
        drop(queue);
        self.log.room.notify_waiters();
        taken
    }
}

impl Drop for Reader {
    /// The next newest one reads on.
    fn drop(&mut self) {
        self.log.lock().readers.remove(&self.number);
        self.log.said.send_modify(|said| *said += 1);
        self.log.room.notify_waiters();
    }
}

impl Scope {
    /// The guest, as its order had it.
    pub(crate) fn function(&self) -> &str {
        &self.function
    }

    /// Starts a task whose lines are this guest's.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(SCOPE.scope(self.clone(), task))
    }

    /// Lets the lines of `work` be this guest's.
    pub(crate) async fn hold<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        SCOPE.scope(self.clone(), work).await
    }

    /// Adds one line, in several pieces if it is long.
    fn push(&self, stream: Stream, text: &str) {
        let stream = match stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        let time_ms = Timestamp::now().as_millisecond();
        let mut rest = text;
        loop {
            let (piece, tail) = rest.split_at(fitting(rest));
            self.log.push(LogLine {
                worker: self.worker,
                epoch: self.epoch,
                function: self.function.clone(),
                stream,
                time_ms,
                text: piece.to_owned(),
                is_cut: !tail.is_empty(),
                lost: 0,
            });
            if tail.is_empty() {
                return;
            }
            rest = tail;
        }
    }
}

/// Starts a task whose lines go where those of the calling task go.
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    match SCOPE.try_with(Arc::clone) {
        Ok(scope) => scope.spawn(task),
        Err(_) => tokio::spawn(task),
    }
}

/// Logs a line of the watchdog's about the guest whose task this is; whether it is one.
pub(crate) fn say(stream: Stream, text: fmt::Arguments<'_>) -> bool {
    SCOPE.try_with(|scope| scope.push(stream, text.to_string().trim_end_matches('\n'))).is_ok()
}

/// The same for raw bytes, line by line.
pub(crate) fn say_raw(stream: Stream, bytes: &[u8]) -> bool {
    let say = |scope: &Arc<Scope>| {
        let text = String::from_utf8_lossy(bytes);
        text.lines().for_each(|line| scope.push(stream, line));
    };
    SCOPE.try_with(say).is_ok()
}

/// Logs one line of a guest's process, if this is a guest's task; waits while too many lines wait and somebody reads.
pub(crate) async fn forward(stream: Stream, has_prefix: bool, text: &[u8]) -> bool {
    let Ok(scope) = SCOPE.try_with(Arc::clone) else { return false };
    loop {
        let room = scope.log.room.notified();
        if !scope.log.is_full() {
            break;
        }
        room.await;
    }
    let text = String::from_utf8_lossy(text);
    if has_prefix {
        scope.push(stream, &format!("{}: {text}", stream.name()));
    } else {
        scope.push(stream, &text);
    }
    true
}

/// How much of `text` fits into a line as JSON has it, whole characters only; at least one.
fn fitting(text: &str) -> usize {
    let mut size = 0;
    for (at, character) in text.char_indices() {
        size += match character {
            '"' | '\\' => 2,
            '\0'..='\x1f' => 6,
            _ => character.len_utf8(),
        };
        if size > TEXT_MAX {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyperfaas_protocol::control::{LINE_MAX, Report};
    use proptest::prelude::*;

    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn only_a_guests_tasks_write_into_its_log_and_their_tasks_with_them() {
        run(async {
            let log = Arc::new(GuestLog::default());
            let mut reader = log.read();
            assert!(!say(Stream::Stderr, format_args!("the owner's")));
            assert!(!forward(Stream::Stdout, true, b"the owner's").await);
            let scope = log.scope((1, 7), "f.ns".into());
            let task = scope.spawn(async {
                assert!(say(Stream::Stderr, format_args!("one\n")));
                assert!(forward(Stream::Stdout, true, b"two \xff").await);
                spawn(async { say_raw(Stream::Stdout, b"three\nfour") }).await.unwrap()
            });
            assert!(task.await.unwrap());
            let lines = reader.take(usize::MAX);
            assert_eq!(texts(&lines), ["one", "stdout: two \u{fffd}", "three", "four"]);
            let first = &lines[0];
            assert_eq!((first.worker, first.epoch, first.function.as_str()), (1, 7, "f.ns"));
            assert_eq!(first.stream, LogStream::Stderr);
        });
    }

    #[test]
    fn without_a_reader_the_oldest_are_dropped_and_counted() {
        let log = Arc::new(GuestLog::default());
        let scope = log.scope((0, 1), "f.ns".into());
        for number in 0..100_000 {
            scope.push(Stream::Stdout, &number.to_string());
        }
        let queue = log.lock();
        assert!(queue.bytes <= KEPT_MAX && queue.lines.len() < 1100);
        drop(queue);
        let lines = log.read().take(usize::MAX);
        assert_eq!(lines[0].lost + lines.len() as u64, 100_000);
        assert_eq!(lines.last().map(|line| line.text.as_str()), Some("99999"));
        assert!(lines[1..].iter().all(|line| line.lost == 0));
    }

    #[test]
    fn with_a_reader_a_guest_waits_and_nothing_is_lost() {
        run(async {
            let log = Arc::new(GuestLog::default());
            let mut reader = log.read();
            let scope = log.scope((0, 1), "f.ns".into());
            let writer = scope.spawn(async {
                for number in 0..10_000 {
                    forward(Stream::Stdout, false, number.to_string().as_bytes()).await;
                }
            });
            let mut read = 0;
            while read < 10_000 {
                assert!(reader.changed().await);
                assert!(log.lock().bytes <= KEPT_MAX + 200);
                for line in reader.take(1000) {
                    assert_eq!((line.text, line.lost), (read.to_string(), 0));
                    read += 1;
                }
            }
            writer.await.unwrap();
        });
    }

    #[test]
    fn the_newest_reader_reads_and_the_one_before_takes_over() {
        run(async {
            let log = Arc::new(GuestLog::default());
            let scope = log.scope((0, 1), "f.ns".into());
            let (mut first, mut second) = (log.read(), log.read());
            scope.push(Stream::Stdout, "a");
            assert!(first.take(9).is_empty());
            assert_eq!(texts(&second.take(9)), ["a"]);
            scope.push(Stream::Stdout, "b");
            drop(second);
            let woken = tokio::time::timeout(Duration::from_secs(20), first.changed()).await;
            assert!(woken.unwrap());
            assert_eq!(texts(&first.take(9)), ["b"]);
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_fit_the_link_and_lose_nothing(text in "(\\PC|[\"\\\\\\x00-\\x1f]|[a-z]{1,80}){0,150}") {
            let log = Arc::new(GuestLog::default());
            let mut reader = log.read();
            log.scope((1, u64::MAX), "f".repeat(250)).push(Stream::Stdout, &text);
            let lines = reader.take(usize::MAX);
            for line in &lines {
                let encoded = serde_json::to_string(&Report::Log(line.clone())).unwrap();
                prop_assert!(encoded.len() < LINE_MAX, "{}", encoded.len());
            }
            prop_assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<String>(), text);
            prop_assert!(lines.iter().rev().skip(1).all(|line| line.is_cut));
            prop_assert_eq!(lines.last().map(|line| line.is_cut), Some(false));
        }
    }
}
