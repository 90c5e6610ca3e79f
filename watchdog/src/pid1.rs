//! The duties of a container's first process: every child is reaped, every exit reaches who waits for it.
//!
//! In: programs to start. Out: a [`Process`] each, whose exit can be awaited and whose group can be killed.
//! Always: children and orphans alike are reaped as soon as they end; a process that is not awaited leaves no zombie.
//! Touches: SIGCHLD and `waitpid(-1)`, so nothing else in this program may wait for children.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

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
}

/// The children we know of.
#[derive(Debug, Default)]
struct Children {
    waiting: HashMap<Pid, oneshot::Sender<Exit>>,
    /// Starts under way, whose children may end before they are known.
    starting: usize,
    /// Exits of unknown children, kept while any start is under way; most are orphans.
    early: HashMap<Pid, Exit>,
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
            if children.waiting.is_empty() && children.starting == 0 {
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
        self.lock().starting += 1;
        let started = sys::spawn(launch, seal, stack);
        let mut children = self.lock();
        children.starting -= 1;
        let process = started.map(|pid| {
            let (sender, exit) = oneshot::channel();
            match children.early.remove(&pid) {
                // The receiver is right here.
                Some(exit) => drop(sender.send(exit)),
                None => drop(children.waiting.insert(pid, sender)),
            }
            Process { pid, exit }
        });
        if children.starting == 0 {
            children.early.clear();
        }
        process
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(exit) = Exit::of(status) else { continue };
            let mut children = self.lock();
            match children.waiting.remove(&pid) {
                // Nobody may be waiting any more, which is fine.
                Some(waiter) => drop(waiter.send(exit)),
                None if children.starting > 0 => drop(children.early.insert(pid, exit)),
                None => {}
            }
        }
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
