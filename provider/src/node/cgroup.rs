//! A container's CPU quota and memory limit, written to its cgroup: 0.02 ms, where asking the engine takes 12 ms.
//!
//! In: a container's id and a grant. Out: the kernel's files. Units: millicores and bytes; the kernel's are microseconds of CPU
//! time in each period, and bytes.
//! Always: the period stays as it is found; a quota is at least the kernel's least (1 ms); a limit is raised from the outside in
//! and lowered from the inside out, so that the kernel takes each write.
//! Touches: files below one directory, found by the container's id: where Docker puts it with either cgroup driver, else by a
//! bounded search, since a parent cgroup may be set for one engine or one container.
//! Source: the kernel's `cgroup-v1/memory.txt`, `scheduler/sched-bwc.rst` and `cgroup-v2.rst`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::scheduler::Grant;

/// Where cgroups are mounted.
pub const DEFAULT_ROOT: &str = "/sys/fs/cgroup";
/// The least quota the kernel takes, microseconds.
const QUOTA_LEAST: u64 = 1000;
/// The kernel's period where its file is not readable, microseconds.
const PERIOD: u64 = 100_000;
/// How deep below the root a container's cgroup is looked for.
const DEPTH: usize = 5;
/// How many directories one search looks at, at most.
const SEARCH_MOST: usize = 20_000;
/// How many containers' places are remembered.
const KNOWN_MOST: usize = 4096;

/// Why a cgroup was not written.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// None was found.
    #[error("no cgroup of container {0} below the cgroup root")]
    NotFound(String),
    /// The kernel refused.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The process is ending.
    #[error("shutting down")]
    Stopping,
}

/// The cgroups of a host's containers. Cloning shares what has been found.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
    known: Arc<Mutex<HashMap<String, Place>>>,
}

/// How the host's hierarchies are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// One for each controller.
    V1 { cpu: PathBuf, memory: PathBuf },
    /// One for all.
    V2 { root: PathBuf },
}

/// A container's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    V1 { cpu: PathBuf, memory: PathBuf },
    V2(PathBuf),
}

impl Cgroups {
    /// The hierarchies mounted at `root`; `None` when there are none that this process could write.
    ///
    /// A container sees its own cgroup as the root unless the host's is mounted for it, so a mount that holds no container's
    /// cgroup is of no use, and a write below it fails and goes to the engine.
    pub fn at(root: &Path) -> Option<Self> {
        let layout = if root.join("cgroup.controllers").is_file() {
            is_writable(root).then(|| Layout::V2 { root: root.to_owned() })?
        } else {
            let hierarchy = |names: [&str; 2]| {
                names.iter().map(|name| root.join(name)).find(|path| is_writable(path))
            };
            let cpu = hierarchy(["cpu", "cpu,cpuacct"])?;
            Layout::V1 { cpu, memory: hierarchy(["memory", "memory"])? }
        };
        Some(Self { layout, known: Arc::default() })
    }

    /// Lets the container use `grant`; what is `None` stays as it is. Blocks on the kernel's files.
    ///
    /// # Errors
    /// [`CgroupError`]; of two values one may have been written by then.
    pub fn write(&self, container: &str, grant: Grant) -> Result<(), CgroupError> {
        let place = self.place(container)?;
        let written = write(&place, grant);
        if written.is_err() {
            self.lock().remove(container); // it may have moved, or gone
        }
        written
    }

    fn place(&self, container: &str) -> Result<Place, CgroupError> {
        if let Some(place) = self.lock().get(container) {
            return Ok(place.clone());
        }
        let within = |root: &Path| {
            find(root, container).ok_or_else(|| CgroupError::NotFound(container.to_owned()))
        };
        let place = match &self.layout {
            Layout::V1 { cpu, memory } => Place::V1 { cpu: within(cpu)?, memory: within(memory)? },
            Layout::V2 { root } => Place::V2(within(root)?),
        };
        let mut known = self.lock();
        if known.len() >= KNOWN_MOST {
            known.clear();
        }
        known.insert(container.to_owned(), place.clone());
        Ok(place)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether directories below could be written: root's right, and a mount that is not read-only.
fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// The container's directory below `root`.
fn find(root: &Path, container: &str) -> Option<PathBuf> {
    if container.len() < 12 || !container.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None; // no engine's id, and no path to be built from
    }
    let scope = format!("docker-{container}.scope");
    let usual = [root.join("docker").join(container), root.join("system.slice").join(&scope)];
    usual.into_iter().find(|path| path.is_dir()).or_else(|| search(root, container, &scope))
}

/// Breadth first, so that what is near the root is found at once.
fn search(root: &Path, container: &str, scope: &str) -> Option<PathBuf> {
    let mut level = vec![root.to_owned()];
    let mut seen = 0;
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for directory in level {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                let name = entry.file_name();
                if name == *container || name == *scope {
                    return Some(entry.path());
                }
                seen += 1;
                if seen > SEARCH_MOST {
                    return None;
                }
                next.push(entry.path());
            }
        }
        level = next;
    }
    None
}

fn write(place: &Place, grant: Grant) -> Result<(), CgroupError> {
    match place {
        Place::V1 { cpu, memory } => {
            if let Some(millicores) = grant.cpu {
                let period = number(&cpu.join("cpu.cfs_period_us")).unwrap_or(PERIOD);
                put(&cpu.join("cpu.cfs_quota_us"), &quota(millicores, period).to_string())?;
            }
            grant.memory.map_or(Ok(()), |bytes| write_memory_v1(memory, bytes))
        }
        Place::V2(directory) => {
            if let Some(millicores) = grant.cpu {
                let path = directory.join("cpu.max");
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let period = text.split_whitespace().nth(1).and_then(|p| p.parse().ok());
                let period = period.unwrap_or(PERIOD);
                put(&path, &format!("{} {period}", quota(millicores, period)))?;
            }
            let memory = directory.join("memory.max");
            grant.memory.map_or(Ok(()), |bytes| put(&memory, &bytes.to_string()))
        }
    }
}

/// Memory with swap must never be below memory alone, so which goes first depends on the direction.
fn write_memory_v1(directory: &Path, bytes: u64) -> Result<(), CgroupError> {
    let memory = directory.join("memory.limit_in_bytes");
    let with_swap = directory.join("memory.memsw.limit_in_bytes");
    let text = bytes.to_string();
    let is_raise = number(&memory).is_none_or(|current| bytes > current);
    let both: [&Path; 2] = if is_raise { [&with_swap, &memory] } else { [&memory, &with_swap] };
    // Without swap accounting the kernel has no such file.
    both.into_iter().filter(|path| path.is_file()).try_for_each(|path| put(path, &text))
}

/// CPU time in each period, microseconds.
fn quota(millicores: u32, period: u64) -> u64 {
    (u64::from(millicores) * period / 1000).max(QUOTA_LEAST)
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn put(path: &Path, text: &str) -> Result<(), CgroupError> {
    let write = || {
        use std::io::Write as _;
        // Never made: a file that is not there is no kernel's.
        std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)?
            .write_all(text.as_bytes())
    };
    write().map_err(|error| CgroupError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn file(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// A version 1 tree with one container at `place`.
    fn v1(place: &str, has_swap: bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let cpu = root.path().join("cpu").join(place);
        file(&cpu.join("cpu.cfs_period_us"), "100000\n");
        file(&cpu.join("cpu.cfs_quota_us"), "20000\n");
        let memory = root.path().join("memory").join(place);
        file(&memory.join("memory.limit_in_bytes"), "67108864\n");
        if has_swap {
            file(&memory.join("memory.memsw.limit_in_bytes"), "67108864\n");
        }
        root
    }

    #[test]
    fn version_1_is_written_with_either_driver_and_any_parent() {
        for place in [
            format!("docker/{ID}"),
            format!("system.slice/docker-{ID}.scope"),
            format!("a/b/c/{ID}"),
            format!("machines.slice/x.slice/docker-{ID}.scope"),
        ] {
            let root = v1(&place, true);
            let cgroups = Cgroups::at(root.path()).unwrap();
            let grant = Grant { cpu: Some(1500), memory: Some(128 << 20) };
            cgroups.write(ID, grant).unwrap();
            let cpu = root.path().join("cpu").join(&place);
            let memory = root.path().join("memory").join(&place);
            assert_eq!(read(&cpu.join("cpu.cfs_quota_us")), "150000");
            assert_eq!(read(&memory.join("memory.limit_in_bytes")), (128 << 20).to_string());
            assert_eq!(read(&memory.join("memory.memsw.limit_in_bytes")), (128 << 20).to_string());
        }
    }

    #[test]
    fn what_is_not_granted_stays_and_what_is_not_there_is_not_made() {
        let root = v1(&format!("docker/{ID}"), false);
        let cgroups = Cgroups::at(root.path()).unwrap();
        cgroups.write(ID, Grant { cpu: Some(1), memory: None }).unwrap();
        let memory = root.path().join("memory/docker").join(ID);
        assert_eq!(read(&root.path().join("cpu/docker").join(ID).join("cpu.cfs_quota_us")), "1000");
        assert_eq!(read(&memory.join("memory.limit_in_bytes")), "67108864\n");
        cgroups.write(ID, Grant { cpu: None, memory: Some(64 << 20) }).unwrap();
        assert!(!memory.join("memory.memsw.limit_in_bytes").exists());
    }

    #[test]
    fn version_2_keeps_the_period_it_finds() {
        let root = tempfile::tempdir().unwrap();
        file(&root.path().join("cgroup.controllers"), "cpu memory\n");
        let directory = root.path().join("system.slice").join(format!("docker-{ID}.scope"));
        file(&directory.join("cpu.max"), "max 20000\n");
        file(&directory.join("memory.max"), "max\n");
        let cgroups = Cgroups::at(root.path()).unwrap();
        cgroups.write(ID, Grant { cpu: Some(250), memory: Some(1 << 20) }).unwrap();
        assert_eq!(read(&directory.join("cpu.max")), "5000 20000");
        assert_eq!(read(&directory.join("memory.max")), "1048576");
    }

    #[test]
    fn a_container_that_is_not_there_and_an_id_that_is_none_are_refused() {
        let root = v1(&format!("docker/{ID}"), true);
        let cgroups = Cgroups::at(root.path()).unwrap();
        let grant = Grant { cpu: Some(100), memory: None };
        for id in ["f".repeat(64).as_str(), "../../etc", "", "docker"] {
            assert!(matches!(cgroups.write(id, grant), Err(CgroupError::NotFound(_))), "{id}");
        }
        cgroups.write(ID, grant).unwrap();
        std::fs::remove_dir_all(root.path().join("cpu/docker")).unwrap();
        assert!(matches!(cgroups.write(ID, grant), Err(CgroupError::File { .. })));
        assert!(matches!(cgroups.write(ID, grant), Err(CgroupError::NotFound(_))));
        assert!(Cgroups::at(&root.path().join("nothing")).is_none());
    }
}
