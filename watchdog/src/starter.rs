//! Threads that start processes while the event loop goes on.
//!
//! In: a [`Launch`]. Out: the [`Process`], or why it did not start.
//! Always: a start holds its thread until the program runs, which takes milliseconds where other processes compete for
//! the processor; the event loop only does it itself when no other process of ours runs.
//! Touches: threads that never end, since the processes they started would be killed with them.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::pid1::{Process, Reaper};
use crate::sys::{ChildStack, Launch, SealedCall, SignalMask};

/// Most starts at the same time. They hardly use the processor, so more than one pays on any machine.
const THREADS: usize = 3;
/// Bytes of a thread's own stack; the child has another one.
const STACK: usize = 128 << 10;

/// A start that somebody waits for.
struct Job {
    launch: Launch,
    seal: Arc<SealedCall>,
    reaper: Arc<Reaper>,
    answer: oneshot::Sender<io::Result<Process>>,
}

/// The way to the threads.
#[derive(Debug)]
pub(crate) struct Starter(Sender<Job>);

impl Starter {
    /// Starts the threads.
    ///
    /// # Errors
    /// When not even one can be had.
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        // Signals are for the event loop's thread; the mask is inherited.
        let _blocked = SignalMask::block_all();
        let start = || {
            let jobs = jobs.clone();
            let thread = std::thread::Builder::new().name("starter".into()).stack_size(STACK);
            thread.spawn(move || work(&jobs)).map(drop)
        };
        start()?;
        for _ in 1..THREADS {
            // Fewer threads do as well, only slower.
            let _ = start();
        }
        Ok(Self(sender))
    }

    /// Starts one process. It may run even though nobody waits for it any more.
    ///
    /// # Errors
    /// That of the fork or the execution.
    pub(crate) async fn start(
        &self,
        launch: Launch,
        seal: Arc<SealedCall>,
        reaper: Arc<Reaper>,
    ) -> io::Result<Process> {
        let (answer, started) = oneshot::channel();
        // The threads never end, so neither channel breaks.
        let gone = |()| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(Job { launch, seal, reaper, answer }).map_err(|_| gone(()))?;
        started.await.map_err(|_| gone(()))?
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut stack = ChildStack::default();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { launch, seal, reaper, answer }) = job else {
            // Never: the starter lives in the reaper for ever. Ending would kill what this thread has started.
            std::thread::park();
            continue;
        };
        let started = reaper.spawn_here(&launch, &seal, &mut stack);
        // Our copies of the child's pipe ends must be closed before anybody waits for the end of its output.
        drop(launch);
        let _ = answer.send(started);
    }
}
