//! What processes and containers use: CPU time and memory, from /proc and the cgroup tree (v1 and v2).
//!
//! Touches: files below /proc and /sys/fs/cgroup, read only. What has gone meanwhile is `None`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// CPU time of the process `pid` and of its children that have ended and were waited for; the grain is 10 ms.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// utime, stime, cutime and cstime, which are fields 14 to 17; the name before may hold anything, brackets too.
fn ticks(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().collect::<Vec<_>>();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// Resident memory of `pid`, in bytes.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The process's name, cut to 15 bytes by the kernel.
pub(crate) fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// The process that started `pid`.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processes started by `pid`, theirs too; `pid` itself is not among them.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found.split_off(1)
}

/// A container's place in the cgroup tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    cpu: PathBuf,
    memory: PathBuf,
}

impl Group {
    /// That of the process `pid`.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Self::parse(&text, Path::new("/sys/fs/cgroup"))
    }

    /// Whether it is the one of the container `id`: a process that has just ended is in the root of the tree, and its number may
    /// be another's by now.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        self.memory.to_string_lossy().contains(id)
    }

    fn parse(text: &str, root: &Path) -> Option<Self> {
        let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let controller = |wanted: &str| {
            let (names, path) =
                lines().find(|(names, _)| names.split(',').any(|name| name == wanted))?;
            // Joint controllers are mounted under their joint name and under each of theirs.
            let _ = names;
            Some(root.join(wanted).join(path.trim_start_matches('/')))
        };
        if let (Some(cpu), Some(memory)) = (controller("cpuacct"), controller("memory")) {
            return Some(Self { cpu, memory });
        }
        let (_, path) = lines().find(|(names, _)| names.is_empty())?;
        let path = root.join(path.trim_start_matches('/'));
        Some(Self { cpu: path.clone(), memory: path })
    }

    /// CPU time since the container was made.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        if let Some(ns) = number(&self.cpu.join("cpuacct.usage")) {
            return Some(Duration::from_nanos(ns));
        }
        field(&self.cpu.join("cpu.stat"), "usage_usec").map(Duration::from_micros)
    }

    /// Memory that is the processes' own, in bytes; the page cache does not count.
    pub(crate) fn memory(&self) -> Option<u64> {
        let stat = self.memory.join("memory.stat");
        field(&stat, "total_rss").or_else(|| field(&stat, "anon"))
    }

    /// Page cache that is charged to it, in bytes; each page is charged to whoever used it first.
    pub(crate) fn cache(&self) -> Option<u64> {
        let stat = self.memory.join("memory.stat");
        field(&stat, "total_cache").or_else(|| field(&stat, "file"))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_the_process_and_its_ended_children() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 1 0 55";
        assert_eq!(ticks(stat), Some(127));
        assert_eq!(ticks("7 (cut) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_a_name_and_a_parent() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 1 << 20);
        assert!(name(own).is_some() && parent(own).is_some() && cpu(own).is_some());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(own).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn groups_of_both_versions_are_found() {
        let root = tempfile::tempdir().unwrap();
        let path = |part: &str| root.path().join(part);
        let v1 = "9:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/\n";
        let group = Group::parse(v1, root.path()).unwrap();
        assert_eq!(group.memory, path("memory/docker/x"));
        fs::create_dir_all(path("cpuacct/docker/x")).unwrap();
        fs::create_dir_all(path("memory/docker/x")).unwrap();
        fs::write(path("cpuacct/docker/x/cpuacct.usage"), "1500000000\n").unwrap();
        fs::write(path("memory/docker/x/memory.stat"), "cache 9\ntotal_rss 4096\n").unwrap();
        assert_eq!(group.cpu(), Some(Duration::from_millis(1500)));
        assert_eq!(group.memory(), Some(4096));

        let group = Group::parse("0::/system.slice/x.scope\n", root.path()).unwrap();
        fs::create_dir_all(path("system.slice/x.scope")).unwrap();
        fs::write(path("system.slice/x.scope/cpu.stat"), "usage_usec 250\nuser_usec 1\n").unwrap();
        fs::write(path("system.slice/x.scope/memory.stat"), "anon 77\nfile 5\n").unwrap();
        assert_eq!(group.cpu(), Some(Duration::from_micros(250)));
        assert_eq!(group.memory(), Some(77));
    }
}
