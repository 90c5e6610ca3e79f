//! The duties of a container's first process: every child is reaped, every exit reaches who waits for it.
//!
//! In: commands to start. Out: a [`Process`] each, whose exit can be awaited and whose group can be killed.
//! Always: children and orphans alike are reaped as soon as they end; a process that is not awaited leaves no zombie.
//! Touches: SIGCHLD and `waitpid(-1)`, so nothing else in this program may wait for children.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Starts processes and reaps them.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<Exit>>>,
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

    /// Starts `command` as the first process of a new group.
    ///
    /// # Errors
    /// That of fork, of the calls before the execution, or of the execution itself.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        // Nothing reaps between fork and registration: both happen on the one thread, without awaiting.
        let child = command.process_group(0).spawn()?;
        let raw = i32::try_from(child.id()).map_err(|_| io::ErrorKind::Other)?;
        let pid = Pid::from_raw(raw).ok_or(io::ErrorKind::Other)?;
        let (sender, exit) = oneshot::channel();
        self.lock().insert(pid, sender);
        Ok(Process { pid, exit })
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let waiter = self.lock().remove(&pid);
            if let (Some(waiter), Some(exit)) = (waiter, Exit::of(status)) {
                // Nobody may be waiting any more, which is fine.
                let _ = waiter.send(exit);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Exit>>> {
        self.waiting.lock().expect("no holder of this lock panics")
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
