//! The duties of a container's first process: every child is reaped, every exit reaches who waits for it.
//!
//! In: programs to start. Out: a [`Process`] each, whose exit can be awaited and whose group can be killed.
//! Always: children and orphans alike are reaped as soon as they end; a process that is not awaited leaves no zombie.
//! Touches: SIGCHLD and `waitpid(-1)`, so nothing else in this program may wait for children.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::log::line;
use crate::starter::Starter;
use crate::sys::{self, ChildStack, Launch, SealedCall};

/// Starts processes and reaps them.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    children: Mutex<Children>,
    /// For the event loop's own starts.
    stack: Mutex<ChildStack>,
    starter: OnceLock<Starter>,
    /// A child has been reaped.
    reaped: Notify,
}

/// The children we know of.
#[derive(Debug, Default)]
struct Children {
    waiting: HashMap<Pid, oneshot::Sender<Exit>>,
    /// How many starts have begun; the newest one has this number.
    begun: u64,
    /// Numbers of the starts under way, whose children may end before they are known.
    starting: BTreeSet<u64>,
    /// Exits of unknown children, with what `begun` was at that moment; most are orphans.
    early: HashMap<Pid, (u64, Exit)>,
}

impl Children {
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.starting.insert(self.begun);
        self.begun
    }

    fn end(&mut self, number: u64) {
        self.starting.remove(&number);
        // What ended before the oldest start still under way began is nobody's child.
        let oldest = self.starting.first().copied().unwrap_or(u64::MAX);
        self.early.retain(|_, (begun, _)| *begun >= oldest);
    }

    /// Registers the child of start `number`.
    fn add(&mut self, number: u64, pid: Pid) -> Process {
        let (sender, exit) = oneshot::channel();
        match self.early.remove(&pid) {
            // The receiver is right here.
            Some((begun, exit)) if begun >= number => drop(sender.send(exit)),
            // An older process had the same number.
            _ => drop(self.waiting.insert(pid, sender)),
        }
        Process { pid, exit }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal { number: i32, core_dumped: bool },
}

/// A started process, first of its own process group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
}

impl Reaper {
    /// Reaps for ever.
    ///
    /// # Errors
    /// When the handler for SIGCHLD cannot be installed.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let reaper = self.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(())
    }

    /// Starts a child, the first process of a new group.
    ///
    /// # Errors
    /// That of the fork or the execution.
    pub(crate) async fn spawn(
        self: &Arc<Self>,
        launch: Launch,
        seal: &Arc<SealedCall>,
    ) -> io::Result<Process> {
        match self.starter() {
            Some(starter) => starter.start(launch, seal.clone(), self.clone()).await,
            None => {
                let mut stack = self.stack.lock().expect("no holder of this lock panics");
                self.spawn_here(&launch, seal, &mut stack)
            }
        }
    }

    /// The threads that start processes; `None` while nothing else of ours competes for the processor, or if there are none.
    fn starter(&self) -> Option<&Starter> {
        {
            let children = self.lock();
            if children.waiting.is_empty() && children.starting.is_empty() {
                return None;
            }
        }
        if self.starter.get().is_none() {
            match Starter::new() {
                Ok(starter) => drop(self.starter.set(starter)),
                Err(error) => line!("Warning: no thread to start processes: {error}"),
            }
        }
        self.starter.get()
    }

    /// Starts a child and waits in this thread until it executes.
    ///
    /// # Errors
    /// As [`Reaper::spawn`].
    pub(crate) fn spawn_here(
        &self,
        launch: &Launch,
        seal: &SealedCall,
        stack: &mut ChildStack,
    ) -> io::Result<Process> {
        let number = self.lock().begin();
        let started = sys::spawn(launch, seal, stack);
        let mut children = self.lock();
        let process = started.map(|pid| children.add(number, pid));
        children.end(number);
        process
    }

    /// Waits for the next child or orphan to be reaped.
    pub(crate) async fn reaped(&self) {
        self.reaped.notified().await;
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(exit) = Exit::of(status) else { continue };
            let mut children = self.lock();
            match children.waiting.remove(&pid) {
                // Nobody may be waiting any more, which is fine.
                Some(waiter) => drop(waiter.send(exit)),
                None if !children.starting.is_empty() => {
                    let begun = children.begun;
                    children.early.insert(pid, (begun, exit));
                }
                None => {}
            }
        }
        self.reaped.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().expect("no holder of this lock panics")
    }
}

impl Process {
    /// Waits for the end of the process itself; its descendants may live on. Can be called again after a cancelled wait.
    pub(crate) async fn wait(&mut self) -> Exit {
        // The reaper answers every registered process, so a closed channel only means that it is gone at shutdown.
        (&mut self.exit).await.unwrap_or(Exit::Code(0))
    }

    /// Sends `signal` to the process alone, as the originals do.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }

    /// Kills the process and everything that stayed in its group.
    pub(crate) fn kill_group(&self) {
        // No such group any more is as good as killed.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Exit {
    fn of(status: WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Code(code));
        }
        let core_dumped = status.as_raw() & 0x80 != 0;
        status.terminating_signal().map(|number| Self::Signal { number, core_dumped })
    }

    pub(crate) const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for Exit {
    /// The words of Go's `ProcessState`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal { number, core_dumped } => {
                match signal_name(*number) {
                    Some(name) => write!(f, "signal: {name}")?,
                    None => write!(f, "signal: signal {number}")?,
                }
                f.write_str(if *core_dumped { " (core dumped)" } else { "" })
            }
        }
    }
}

/// Names as Go prints them.
const fn signal_name(number: i32) -> Option<&'static str> {
    const NAMES: [&str; 16] = [
        "",
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
    ];
    if number >= 1 && number <= 15 { Some(NAMES[number.unsigned_abs() as usize]) } else { None }
}

/// The signals that ask the watchdog to finish; later ones of the same kind are swallowed.
#[derive(Debug)]
pub(crate) struct StopSignals([tokio::signal::unix::Signal; 4]);

impl StopSignals {
    /// # Errors
    /// When a handler cannot be installed.
    pub(crate) fn install() -> io::Result<Self> {
        let on = |kind| signal(kind);
        Ok(Self([
            on(SignalKind::terminate())?,
            on(SignalKind::interrupt())?,
            on(SignalKind::quit())?,
            on(SignalKind::hangup())?,
        ]))
    }

    /// The name of the first that arrives.
    pub(crate) async fn wait(&mut self) -> &'static str {
        let [terminate, interrupt, quit, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = quit.recv() => "SIGQUIT",
            _ = hangup.recv() => "SIGHUP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_that_comes_before_its_process_is_known_is_kept_for_it_alone() {
        let pid = Pid::INIT;
        let mut children = Children::default();
        let (first, second) = (children.begin(), children.begin());
        children.early.insert(pid, (children.begun, Exit::Code(3)));
        let mut process = children.add(first, pid);
        assert_eq!(process.exit.try_recv(), Ok(Exit::Code(3)));
        children.early.insert(pid, (children.begun, Exit::Code(4)));
        children.end(first);
        assert!(children.early.contains_key(&pid), "the second start may have been meant");
        let third = children.begin();
        children.end(second);
        assert!(children.early.is_empty(), "it ended before the third start began");
        children.early.insert(pid, (third - 1, Exit::Code(5)));
        assert!(children.add(third, pid).exit.try_recv().is_err(), "an older process");
        children.end(third);
    }

    #[test]
    fn exits_read_as_go_prints_them() {
        assert_eq!(Exit::Code(3).to_string(), "exit status 3");
        assert_eq!(Exit::Signal { number: 9, core_dumped: false }.to_string(), "signal: killed");
        assert_eq!(
            Exit::Signal { number: 6, core_dumped: true }.to_string(),
            "signal: aborted (core dumped)"
        );
        assert_eq!(
            Exit::Signal { number: 34, core_dumped: false }.to_string(),
            "signal: signal 34"
        );
    }
}
