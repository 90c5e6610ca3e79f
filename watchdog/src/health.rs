//! The lock file, and what `/_/health` and `/_/ready` answer.
//!
//! In: the state of the worker, the lock file's presence, the load. Out: a [`Verdict`].
//! Always: the file exists from the moment the port is open until SIGTERM, for image health checks that look for it.
//! Source: both watchdogs; readiness really means that the function accepts connections, see `docs/watchdog.md`.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hyperfaas_protocol::control::OwnerState;

/// Where image health checks look, whatever `TMPDIR` says.
const DEFAULT_DIRECTORY: &str = "/tmp";

/// The lock files of this watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockFile {
    /// `$TMPDIR/.lock`: the one that counts.
    main: PathBuf,
    /// `/tmp/.lock` as well, when `TMPDIR` is elsewhere.
    also: Option<PathBuf>,
}

/// What a health check is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
    /// The concurrency limit is reached.
    Busy,
}

impl LockFile {
    /// The files for a `TMPDIR`, which is `None` when unset.
    pub(crate) fn new(tmpdir: Option<&str>) -> Self {
        let directory =
            tmpdir.filter(|directory| !directory.is_empty()).unwrap_or(DEFAULT_DIRECTORY);
        let main = Path::new(directory).join(".lock");
        let default = Path::new(DEFAULT_DIRECTORY).join(".lock");
        let also = (main != default).then_some(default);
        Self { main, also }
    }

    /// The file that counts.
    pub(crate) fn path(&self) -> &Path {
        &self.main
    }

    pub(crate) fn exists(&self) -> bool {
        self.main.exists()
    }

    /// Creates the files, and their directory if it is missing.
    ///
    /// # Errors
    /// When the main file cannot be written; the second one is a courtesy.
    pub(crate) fn write(&self) -> io::Result<()> {
        if let Some(also) = &self.also {
            let _ = create(also);
        }
        if let Some(directory) = self.main.parent() {
            let _ = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        }
        create(&self.main)
    }

    /// Removes the files, if they are there.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.main);
        if let Some(also) = &self.also {
            let _ = std::fs::remove_file(also);
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o660).open(path).map(drop)
}

/// Whether the watchdog is alive and meant to get requests.
///
/// Under a provider this means that the function accepts connections. On its own it must not: orchestrators kill a
/// container whose health check fails, and a function may take a minute to start.
pub(crate) fn health(state: OwnerState, has_lock: bool, is_managed: bool) -> Verdict {
    let is_good = match state {
        OwnerState::Draining => false,
        OwnerState::Ready => true,
        OwnerState::Starting | OwnerState::Crashed => !is_managed,
    };
    if is_good && (has_lock || is_managed) { Verdict::Good } else { Verdict::Bad }
}

/// Whether one more request would be served now.
pub(crate) fn readiness(
    state: OwnerState,
    has_lock: bool,
    is_managed: bool,
    is_full: bool,
) -> Verdict {
    if state != OwnerState::Ready || health(state, has_lock, is_managed) != Verdict::Good {
        Verdict::Bad
    } else if is_full {
        Verdict::Busy
    } else {
        Verdict::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_is_healthy_alone_and_unhealthy_under_a_provider_and_ready_in_neither() {
        use OwnerState::{Crashed, Draining, Ready, Starting};
        assert_eq!(health(Starting, true, false), Verdict::Good);
        assert_eq!(health(Starting, true, true), Verdict::Bad);
        assert_eq!(readiness(Starting, true, false, false), Verdict::Bad);
        assert_eq!(readiness(Crashed, true, true, false), Verdict::Bad);
        for managed in [true, false] {
            assert_eq!(health(Ready, true, managed), Verdict::Good);
            assert_eq!(health(Draining, true, managed), Verdict::Bad);
            assert_eq!(readiness(Ready, true, managed, false), Verdict::Good);
            assert_eq!(readiness(Ready, true, managed, true), Verdict::Busy);
            assert_eq!(readiness(Draining, true, managed, false), Verdict::Bad);
        }
    }

    #[test]
    fn without_its_lock_file_a_watchdog_on_its_own_is_unhealthy() {
        assert_eq!(health(OwnerState::Ready, false, false), Verdict::Bad);
        assert_eq!(health(OwnerState::Ready, false, true), Verdict::Good);
    }

    #[test]
    fn the_directory_is_created_and_the_file_removed() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        let lock = LockFile { main: nested.join(".lock"), also: None };
        lock.write().unwrap();
        assert!(lock.exists());
        lock.remove();
        assert!(!lock.exists());
        assert_eq!(LockFile::new(Some("/tmp/")).also, None);
        assert_eq!(LockFile::new(None).main, Path::new("/tmp/.lock"));
    }
}
