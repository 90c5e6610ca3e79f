//! Results as files: each says how it was made, when and on what, so that no figure travels without that.
//!
//! In: a result. Out: `NAME.json` in the results' folder, and tables as `NAME.csv`. Paths of the machine are cut to their last part.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{During, Result};

/// How long the machine is looked at before a run.
const LOOK: Duration = Duration::from_millis(500);

/// A result and its circumstances.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record<T> {
    /// The command line.
    pub(crate) command: String,
    /// When it ended, UTC, to the minute.
    pub(crate) date: String,
    /// What it ran on.
    pub(crate) machine: Machine,
    /// What was measured.
    pub(crate) result: T,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// As the processor calls itself.
    pub(crate) cpu: String,
    /// Logical processors.
    pub(crate) cores: usize,
    /// GiB.
    pub(crate) memory_gib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The engine's version.
    pub(crate) docker: String,
    /// 1 or 2.
    pub(crate) cgroup: u8,
    /// The commit that was built, with `+` when files differ from it.
    pub(crate) commit: String,
    /// Whether the programs were built for release.
    pub(crate) is_release: bool,
    /// Processors at work in the half second before the run began: about 0 on a calm machine. A load average would still tell
    /// of the run before.
    pub(crate) load_before: f64,
}

impl Machine {
    /// This machine, now.
    pub(crate) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        let version = ["version", "--format", "{{.Server.Version}}"];
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_gib: kib.unwrap_or_default() / 1024 / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            docker: crate::corner::docker(&version).unwrap_or_default().trim().to_owned(),
            cgroup: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
            commit: commit(),
            is_release: !cfg!(debug_assertions),
            load_before: at_work(),
        }
    }
}

/// How many processors are at work, over a short while.
fn at_work() -> f64 {
    let busy_and_all = || {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default().to_owned();
        let ticks = line.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok());
        let ticks = ticks.collect::<Vec<f64>>();
        let idle = ticks.iter().skip(3).take(2).sum::<f64>();
        let all = ticks.iter().sum::<f64>();
        (all - idle, all)
    };
    let before = busy_and_all();
    std::thread::sleep(LOOK);
    let after = busy_and_all();
    let share = (after.0 - before.0) / (after.1 - before.1).max(1.0);
    share * std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let differs = git(&["status", "--porcelain", "-uno"]).is_some_and(|text| !text.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    format!("{commit}{}", if differs { "+" } else { "" })
}

/// Writes `result` as `name`.json into `folder`, with its circumstances.
pub(crate) fn write<T: Serialize>(
    folder: &Path,
    name: &str,
    machine: Machine,
    result: T,
) -> Result<()> {
    let record = Record { command: command(), date: date(), machine, result };
    fs::create_dir_all(folder).during(format!("making {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    let mut text = serde_json::to_string_pretty(&record).during("writing a result")?;
    text.push('\n');
    fs::write(&path, text).during(format!("writing {}", path.display()))
}

/// Writes `rows` as `name`.csv into `folder`.
pub(crate) fn write_table<T: Serialize>(folder: &Path, name: &str, rows: &[T]) -> Result<()> {
    fs::create_dir_all(folder).during(format!("making {}", folder.display()))?;
    let path = folder.join(format!("{name}.csv"));
    let what = || format!("writing {}", path.display());
    let mut writer = csv::Writer::from_path(&path).during(what())?;
    for row in rows {
        writer.serialize(row).during(what())?;
    }
    writer.flush().during(what())
}

/// The table `name`.csv in `folder`; empty when there is none.
pub(crate) fn read_table<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Vec<T>> {
    let path = folder.join(format!("{name}.csv"));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let what = || format!("reading {}", path.display());
    let mut reader = csv::Reader::from_path(&path).during(what())?;
    reader.deserialize().collect::<Result<Vec<_>, _>>().during(what())
}

/// The results in `folder` whose names begin with `prefix`, in the order of their names.
pub(crate) fn read<T: DeserializeOwned>(
    folder: &Path,
    prefix: &str,
) -> Result<Vec<(String, Record<T>)>> {
    let entries = fs::read_dir(folder).during(format!("reading {}", folder.display()))?;
    let mut names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(ToOwned::to_owned))
        .filter(|name| name.starts_with(prefix))
        .collect::<Vec<_>>();
    names.sort_unstable();
    let parse = |name: String| {
        let path = folder.join(format!("{name}.json"));
        let what = || format!("reading {}", path.display());
        let text = fs::read_to_string(&path).during(what())?;
        Ok((name, serde_json::from_str(&text).during(what())?))
    };
    names.into_iter().map(parse).collect()
}

/// The command line, without paths of this machine and without the folder of results.
fn command() -> String {
    told(std::env::args().skip(1))
}

fn told(mut words: impl Iterator<Item = String>) -> String {
    let mut told = "bench".to_owned();
    while let Some(word) = words.next() {
        if word == "--out" {
            words.next();
            continue;
        }
        told.push(' ');
        told.push_str(&told_path(&word));
    }
    told
}

/// `word` with the last part of its path alone.
pub(crate) fn told_path(word: &str) -> String {
    if word.contains("://") {
        return word.to_owned();
    }
    let (name, value) = word.split_once('=').unwrap_or(("", word));
    let last = value.rsplit('/').next().unwrap_or_default();
    if name.is_empty() { last.to_owned() } else { format!("{name}={last}") }
}

fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_hold_no_paths() {
        for (word, cut) in [
            ("--rounds", "--rounds"),
            ("of=/opt/x/of-watchdog", "of=of-watchdog"),
            ("/a/b/inv.csv", "inv.csv"),
            ("go=http://127.0.0.1:8080/", "go=http://127.0.0.1:8080/"),
        ] {
            assert_eq!(told_path(word), cut);
        }
    }

    #[test]
    fn a_command_is_told_without_its_folder_of_results() {
        let words = ["--out", "/x/y", "ladder", "--watchdog", "of=/opt/of-watchdog"];
        let told = told(words.into_iter().map(ToOwned::to_owned));
        assert_eq!(told, "bench ladder --watchdog of=of-watchdog");
    }

    #[test]
    fn results_and_tables_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a-1", Machine::now(), vec![1, 2]).unwrap();
        write(folder.path(), "b-1", Machine::now(), 7).unwrap();
        let read: Vec<(String, Record<Vec<u32>>)> = read(folder.path(), "a-").unwrap();
        assert_eq!((read.len(), &read[0].1.result), (1, &vec![1, 2]));
        write_table(folder.path(), "t", &[(1, "x")]).unwrap();
        assert!(read_table::<(u32, String)>(folder.path(), "absent").unwrap().is_empty());
    }
}
