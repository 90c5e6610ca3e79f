//! The watchdog's own log lines and those of its workers, in the shape of the OpenFaaS watchdogs.
//!
//! In: [`line!`] from anywhere, whole lines of workers through [`Output`]. Out: our stderr and stdout.
//! Always: nobody blocks on a slow reader: lines wait in a bounded queue per stream, workers are read no further while
//! it is full, and our own lines are counted instead of kept then. A line after a pause is written at once; who writes many
//! is read in crowds, since each write wakes the log's reader: the engine, which has the same processors as the function.
//! Touches: descriptors 1 and 2, which are left in blocking mode since others may share them.

use std::fmt;
use std::fmt::Write as _;
use std::os::fd::BorrowedFd;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::{guestlog, zone};

/// Bytes waiting on one stream beyond which workers' pipes are read no further.
const WORKER_HIGH: usize = 64 << 10;
/// Bytes waiting on one stream beyond which the watchdog's own lines are dropped and counted.
const OWN_HIGH: usize = 256 << 10;
/// A pipe that polls writable takes this many bytes without blocking (one page; Linux' PIPE_BUF).
const PIPE_CHUNK: usize = 4096;
/// Time between two writes to one stream while little waits.
const CROWD_EVERY: Duration = Duration::from_millis(5);
/// Bytes waiting on one stream that are written without regard to [`CROWD_EVERY`].
const CROWD_MAX: usize = 16 << 10;
/// How long the last lines may take when the watchdog exits.
const FLUSH_PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Writes one line with the time in front to the watchdog's log.
macro_rules! line {
    ($($arg:tt)*) => { $crate::log::write_line(format_args!($($arg)*)) };
}
pub(crate) use line;

/// One of the two streams a container's log is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name that `prefix_logs` puts in front of a worker's line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn output(self) -> &'static Output {
        match self {
            Self::Stdout => &STDOUT,
            Self::Stderr => &STDERR,
        }
    }
}

static STDOUT: LazyLock<Output> = LazyLock::new(Output::default);
static STDERR: LazyLock<Output> = LazyLock::new(Output::default);
static ZONE: LazyLock<TimeZone> = LazyLock::new(|| zone::find(std::env::var("TZ").ok().as_deref()));

/// See [`line!`]. In a guest's tasks all of this goes to the guest's own log instead.
pub(crate) fn write_line(text: fmt::Arguments<'_>) {
    if guestlog::say(Stream::Stderr, text) {
        return;
    }
    let mut queue = STDERR.lock();
    if queue.waiting() > OWN_HIGH {
        queue.dropped += 1;
        return;
    }
    queue.note_dropped();
    queue.push_time();
    queue.push_text(text);
    STDERR.notify(queue);
}

/// Writes raw bytes as they are, without time or line end; for `write_debug` and `debug_headers`.
pub(crate) fn write_raw(stream: Stream, bytes: &[u8]) {
    if guestlog::say_raw(stream, bytes) {
        return;
    }
    let output = stream.output();
    let mut queue = output.lock();
    if queue.waiting() > OWN_HIGH {
        queue.dropped += 1;
        return;
    }
    queue.bytes.extend_from_slice(bytes);
    output.notify(queue);
}

/// Forwards one line of a worker, with time and stream name in front when `prefix` is set; waits while the queue is full.
pub(crate) async fn forward(stream: Stream, prefix: bool, text: &[u8]) {
    if guestlog::forward(stream, prefix, text).await {
        return;
    }
    let output = stream.output();
    while output.lock().waiting() > WORKER_HIGH {
        // The writer runs on the same thread and notifies after every write, so no wake-up can slip in between.
        output.space.notified().await;
    }
    let mut queue = output.lock();
    if prefix {
        queue.push_time();
        queue.push_text_inline(format_args!("{}: ", stream.name()));
    }
    queue.bytes.extend_from_slice(text);
    queue.bytes.push(b'\n');
    output.notify(queue);
}

/// Writes what is queued for `stream`, for ever.
pub(crate) async fn drain(stream: Stream) {
    match stream {
        Stream::Stdout => STDOUT.drain(rustix::stdio::stdout()).await,
        Stream::Stderr => STDERR.drain(rustix::stdio::stderr()).await,
    }
}

/// Writes what is still queued on both streams, at most for [`FLUSH_PATIENCE`] a piece; the last thing before an exit.
pub(crate) fn flush() {
    STDOUT.flush(rustix::stdio::stdout());
    STDERR.flush(rustix::stdio::stderr());
}

/// The lines waiting for one stream.
#[derive(Default)]
struct Output {
    queue: Mutex<Queue>,
    wake: Notify,
    /// More than [`CROWD_MAX`] waits.
    crowd: Notify,
    space: Notify,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// How much of `bytes` is written.
    done: usize,
    dropped: u64,
    /// The last second written and its text; most lines share it.
    second: i64,
    time: String,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }

    /// Lets the lines that have just been added to `queue` be written.
    fn notify(&self, queue: MutexGuard<'_, Queue>) {
        let waiting = queue.waiting();
        drop(queue);
        self.wake.notify_one();
        if waiting > CROWD_MAX {
            self.crowd.notify_one();
        }
    }

    async fn drain(&self, fd: BorrowedFd<'static>) {
        // Files and /dev/null cannot be polled; they never block either.
        let pollable = crate::sys::watch_writable(fd);
        let mut next = Instant::now();
        loop {
            self.wake.notified().await;
            if self.lock().waiting() <= CROWD_MAX {
                tokio::select! {
                    biased;
                    () = sleep_until(next) => {}
                    () = self.crowd.notified() => {}
                }
            }
            next = Instant::now() + CROWD_EVERY;
            while self.lock().waiting() > 0 {
                if let Some(pollable) = &pollable
                    && !is_writable(fd, Timespec::default())
                {
                    let Ok(mut guard) = pollable.writable().await else { return };
                    guard.clear_ready();
                    continue;
                }
                self.lock().write_some(fd);
                self.space.notify_waiters();
            }
        }
    }

    fn flush(&self, fd: BorrowedFd<'_>) {
        let mut queue = self.lock();
        queue.note_dropped();
        while queue.waiting() > 0 && is_writable(fd, FLUSH_PATIENCE) {
            queue.write_some(fd);
        }
    }
}

/// Text behind other bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Whether a piece can be written without blocking, within `patience`, which begins anew when a signal interrupts it.
fn is_writable(fd: BorrowedFd<'_>, patience: Timespec) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    loop {
        match poll(&mut fds, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return !fds[0].revents().is_empty(),
        }
    }
}

impl Queue {
    const fn waiting(&self) -> usize {
        self.bytes.len() - self.done
    }

    /// Writes one piece; on an error that is not temporary the queue is emptied, for nobody will ever read it.
    fn write_some(&mut self, fd: BorrowedFd<'_>) {
        let end = self.bytes.len().min(self.done + PIPE_CHUNK);
        match rustix::io::write(fd, &self.bytes[self.done..end]) {
            Ok(count) => self.done += count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => self.done = self.bytes.len(),
        }
        if self.done == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(PIPE_CHUNK);
            self.done = 0;
        } else if self.done > OWN_HIGH {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }

    fn note_dropped(&mut self) {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            self.push_time();
            self.push_text(format_args!("{dropped} log lines dropped: nobody read them in time"));
        }
    }

    fn push_time(&mut self) {
        let now = Timestamp::now();
        if self.second != now.as_second() || self.time.is_empty() {
            let t = ZONE.to_datetime(now);
            self.second = now.as_second();
            self.time = format!(
                "{:04}/{:02}/{:02} {:02}:{:02}:{:02} ",
                t.year(),
                t.month(),
                t.day(),
                t.hour(),
                t.minute(),
                t.second()
            );
        }
        self.bytes.extend_from_slice(self.time.as_bytes());
    }

    fn push_text(&mut self, text: fmt::Arguments<'_>) {
        self.push_text_inline(text);
        if self.bytes.last() != Some(&b'\n') {
            self.bytes.push(b'\n');
        }
    }

    fn push_text_inline(&mut self, text: fmt::Arguments<'_>) {
        Text(&mut self.bytes).write_fmt(text).expect("writing to memory cannot fail");
    }
}
