//! What the container uses, as its cgroup tells.
//!
//! In: the files of our own cgroup, as a container sees them: version 2 at the root, or version 1 with a folder for each
//! controller. Out: a [`Usage`]. What a kernel does not tell, or does not limit, is `None`, never an error.
//! Units: microseconds, bytes, hundredths of a percent; they are in the names.
//! Always: files are opened once and read in place, so a sample costs a handful of system calls and no memory.
//! Source: the kernel's `admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`, `scheduler/sched-bwc.rst` and `accounting/psi.rst`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the kernel's files are in a container.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// Read of one file at most, in bytes; the longest, `memory.stat`, has what we look for in its first half.
const READ_MAX: usize = 8192;
/// Limits from here on mean none: version 1 says so with the largest multiple of the page size.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// What the container uses and may use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// CPU time used since the container started.
    pub(crate) cpu_us: Option<u64>,
    /// CPU time it may use.
    pub(crate) quota: Option<Quota>,
    /// Periods in which it was stopped, since it started.
    pub(crate) throttled_periods: Option<u64>,
    /// How long it was stopped since it started, summed over CPUs.
    pub(crate) throttled_us: Option<u64>,
    /// Memory used, without file pages that the kernel can take back at once.
    pub(crate) memory_bytes: Option<u64>,
    /// Memory it may use.
    pub(crate) memory_max_bytes: Option<u64>,
    /// Processes killed for want of memory.
    pub(crate) oom_kills: Option<u64>,
    /// Share of the last ten seconds in which some task waited for CPU.
    pub(crate) cpu_stalled_basis_points: Option<u64>,
    /// Share of the last ten seconds in which some task waited for memory.
    pub(crate) memory_stalled_basis_points: Option<u64>,
}

/// CPU time that may be used in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) quota_us: u64,
    /// Never 0.
    pub(crate) period_us: u64,
}

/// The open files of one cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup(Version);

#[derive(Debug)]
enum Version {
    One(FilesOne),
    Two(FilesTwo),
}

#[derive(Debug)]
struct FilesOne {
    cpu_usage: Option<File>,
    cpu_quota: Option<File>,
    cpu_period: Option<File>,
    cpu_stat: Option<File>,
    memory_usage: Option<File>,
    memory_limit: Option<File>,
    memory_stat: Option<File>,
    oom_control: Option<File>,
}

#[derive(Debug)]
struct FilesTwo {
    cpu_stat: Option<File>,
    cpu_max: Option<File>,
    cpu_pressure: Option<File>,
    memory_current: Option<File>,
    memory_max: Option<File>,
    memory_stat: Option<File>,
    memory_events: Option<File>,
    memory_pressure: Option<File>,
}

impl Cgroup {
    /// Opens what there is below `root`.
    pub(crate) fn open(root: &Path) -> Self {
        let file = |path: &str| File::open(root.join(path)).ok();
        if root.join("cgroup.controllers").exists() {
            return Self(Version::Two(FilesTwo {
                cpu_stat: file("cpu.stat"),
                cpu_max: file("cpu.max"),
                cpu_pressure: file("cpu.pressure"),
                memory_current: file("memory.current"),
                memory_max: file("memory.max"),
                memory_stat: file("memory.stat"),
                memory_events: file("memory.events"),
                memory_pressure: file("memory.pressure"),
            }));
        }
        // Distributions that mount both controllers together do not all link the single names.
        let cpu = |name: &str| {
            ["cpu", "cpuacct", "cpu,cpuacct", "cpuacct,cpu"]
                .iter()
                .find_map(|folder| file(&format!("{folder}/{name}")))
        };
        Self(Version::One(FilesOne {
            cpu_usage: cpu("cpuacct.usage"),
            cpu_quota: cpu("cpu.cfs_quota_us"),
            cpu_period: cpu("cpu.cfs_period_us"),
            cpu_stat: cpu("cpu.stat"),
            memory_usage: file("memory/memory.usage_in_bytes"),
            memory_limit: file("memory/memory.limit_in_bytes"),
            memory_stat: file("memory/memory.stat"),
            oom_control: file("memory/memory.oom_control"),
        }))
    }

    /// What is used now.
    pub(crate) fn sample(&self) -> Usage {
        match &self.0 {
            Version::One(files) => files.sample(),
            Version::Two(files) => files.sample(),
        }
    }
}

impl FilesOne {
    fn sample(&self) -> Usage {
        let [throttled_periods, throttled_ns] = read(&self.cpu_stat, |text| {
            [field(text, "nr_throttled"), field(text, "throttled_time")]
        });
        let quota_us = read(&self.cpu_quota, |text| [number(text)]);
        let period_us = read(&self.cpu_period, |text| [number(text)]);
        let [inactive_bytes] = read(&self.memory_stat, |text| [field(text, "total_inactive_file")]);
        let [memory_bytes] = read(&self.memory_usage, |text| [number(text)]);
        let [memory_max_bytes] = read(&self.memory_limit, |text| [number(text)]);
        let [oom_kills] = read(&self.oom_control, |text| [field(text, "oom_kill")]);
        let [cpu_ns] = read(&self.cpu_usage, |text| [number(text)]);
        Usage {
            cpu_us: cpu_ns.map(|ns| ns / 1000),
            quota: quota(quota_us[0], period_us[0]),
            throttled_periods,
            throttled_us: throttled_ns.map(|ns| ns / 1000),
            memory_bytes: memory_bytes.map(|all| without(all, inactive_bytes)),
            memory_max_bytes: memory_max_bytes.filter(|bytes| *bytes < UNLIMITED_BYTES),
            oom_kills,
            // Version 1 has no pressure of its own group.
            cpu_stalled_basis_points: None,
            memory_stalled_basis_points: None,
        }
    }
}

impl FilesTwo {
    fn sample(&self) -> Usage {
        let [cpu_us, throttled_periods, throttled_us] = read(&self.cpu_stat, |text| {
            ["usage_usec", "nr_throttled", "throttled_usec"].map(|name| field(text, name))
        });
        let [quota_us, period_us] = read(&self.cpu_max, |text| {
            let mut words = text.split_whitespace();
            [words.next().and_then(number), words.next().and_then(number)]
        });
        let [inactive_bytes] = read(&self.memory_stat, |text| [field(text, "inactive_file")]);
        let [memory_bytes] = read(&self.memory_current, |text| [number(text)]);
        let [memory_max_bytes] = read(&self.memory_max, |text| [number(text)]);
        let [oom_kills] = read(&self.memory_events, |text| [field(text, "oom_kill")]);
        let [cpu_stalled_basis_points] = read(&self.cpu_pressure, |text| [stalled(text)]);
        let [memory_stalled_basis_points] = read(&self.memory_pressure, |text| [stalled(text)]);
        Usage {
            cpu_us,
            quota: quota(quota_us, period_us),
            throttled_periods,
            throttled_us,
            memory_bytes: memory_bytes.map(|all| without(all, inactive_bytes)),
            memory_max_bytes: memory_max_bytes.filter(|bytes| *bytes < UNLIMITED_BYTES),
            oom_kills,
            cpu_stalled_basis_points,
            memory_stalled_basis_points,
        }
    }
}

/// What `parse` finds in the file's present text.
fn read<const N: usize>(
    file: &Option<File>,
    parse: impl FnOnce(&str) -> [Option<u64>; N],
) -> [Option<u64>; N] {
    let mut buffer = [0; READ_MAX];
    let count = file.as_ref().map_or(0, |file| file.read_at(&mut buffer, 0).unwrap_or(0));
    std::str::from_utf8(&buffer[..count]).map_or([None; N], parse)
}

fn quota(quota_us: Option<u64>, period_us: Option<u64>) -> Option<Quota> {
    Some(Quota { quota_us: quota_us?, period_us: period_us.filter(|us| *us > 0)? })
}

fn without(all_bytes: u64, inactive_bytes: Option<u64>) -> u64 {
    all_bytes.saturating_sub(inactive_bytes.unwrap_or(0))
}

/// The whole text as a number; "max" and −1 mean that there is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `name` in lines of a name and a number each.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

/// `avg10` of the line `some`: "12.34" percent are 1234.
fn stalled(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?;
    let (whole, hundredths) = percent.split_once('.')?;
    (hundredths.len() == 2).then_some(number(whole)? * 100 + number(hundredths)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    /// As a container on Docker with cgroup version 1 shows them.
    const ONE: &[(&str, &str)] = &[
        ("cpuacct/cpuacct.usage", "60837547\n"),
        ("cpu/cpu.cfs_quota_us", "10000\n"),
        ("cpu/cpu.cfs_period_us", "100000\n"),
        (
            "cpu/cpu.stat",
            "nr_periods 9\nnr_throttled 4\nthrottled_time 31415926\nnr_bursts 0\nburst_time 0\n",
        ),
        ("memory/memory.usage_in_bytes", "2539520\n"),
        ("memory/memory.limit_in_bytes", "67108864\n"),
        (
            "memory/memory.stat",
            "cache 1675264\nrss 454656\ninactive_file 4096\ntotal_cache 1675264\ntotal_inactive_file 1675264\n",
        ),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ];

    const TWO: &[(&str, &str)] = &[
        ("cgroup.controllers", "cpu memory pids\n"),
        (
            "cpu.stat",
            "usage_usec 60837\nuser_usec 1\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 31415\n",
        ),
        ("cpu.max", "10000 100000\n"),
        (
            "cpu.pressure",
            "some avg10=74.99 avg60=70.37 avg300=55.68 total=3264\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        ("memory.current", "2539520\n"),
        ("memory.max", "67108864\n"),
        ("memory.stat", "anon 454656\nfile 1675264\ninactive_file 1675264\nactive_file 0\n"),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"),
        (
            "memory.pressure",
            "some avg10=0.05 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
    ];

    fn expected() -> Usage {
        Usage {
            cpu_us: Some(60_837),
            quota: Some(Quota { quota_us: 10_000, period_us: 100_000 }),
            throttled_periods: Some(4),
            throttled_us: Some(31_415),
            memory_bytes: Some(2_539_520 - 1_675_264),
            memory_max_bytes: Some(67_108_864),
            oom_kills: Some(2),
            cpu_stalled_basis_points: None,
            memory_stalled_basis_points: None,
        }
    }

    #[test]
    fn version_1_is_read() {
        assert_eq!(Cgroup::open(folder(ONE).path()).sample(), expected());
    }

    #[test]
    fn version_2_is_read() {
        let pressures = Usage {
            cpu_stalled_basis_points: Some(7499),
            memory_stalled_basis_points: Some(5),
            ..expected()
        };
        assert_eq!(Cgroup::open(folder(TWO).path()).sample(), pressures);
    }

    #[test]
    fn what_is_missing_or_unlimited_is_none() {
        assert_eq!(Cgroup::open(Path::new("/no/such/folder")).sample(), Usage::default());
        assert_eq!(Cgroup::open(folder(&[]).path()).sample(), Usage::default());
        let one = folder(&[
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpuacct.usage", "5000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let usage = Usage { cpu_us: Some(5), ..Usage::default() };
        assert_eq!(Cgroup::open(one.path()).sample(), usage);
        let two = folder(&[
            ("cgroup.controllers", ""),
            ("cpu.max", "max 100000\n"),
            ("memory.max", "max\n"),
            ("memory.current", "7\n"),
        ]);
        let usage = Usage { memory_bytes: Some(7), ..Usage::default() };
        assert_eq!(Cgroup::open(two.path()).sample(), usage);
    }

    #[test]
    fn a_later_sample_reads_the_same_files_anew() {
        let folder = folder(ONE);
        let cgroup = Cgroup::open(folder.path());
        cgroup.sample();
        std::fs::write(folder.path().join("cpu/cpu.cfs_quota_us"), "20000\n").unwrap();
        let quota = Quota { quota_us: 20_000, period_us: 100_000 };
        assert_eq!(cgroup.sample().quota, Some(quota));
    }

    proptest! {
        #[test]
        fn no_text_is_an_error(text in "[a-z_0-9 =.\\n-]{0,60}", number in 0_u64..3) {
            let name = ["some avg10=", "nr_throttled ", ""][usize::try_from(number).unwrap()];
            let text = format!("{name}{text}");
            let _ = (field(&text, "nr_throttled"), super::number(&text), stalled(&text));
        }
    }
}
