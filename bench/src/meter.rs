//! What the containers of an installation use while a burst runs.
//!
//! In: the installation's name. Out: a [`Reading`] every quarter of a second: CPU time and memory of all its containers, those
//! that have ended included with what they had used. Touches: the engine's API, the cgroup tree.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use hyperfaas_protocol::moment::{Clock, Moment, SystemClock};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use crate::failure::{During, Result};
use crate::usage::Group;

/// Between two readings.
const EVERY: Duration = Duration::from_millis(250);

/// A moment's use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Since the meter's start.
    pub(crate) at: Duration,
    /// Containers that run.
    pub(crate) containers: usize,
    /// CPU time of all containers ever seen.
    pub(crate) cpu: Duration,
    /// Memory of those that run, bytes.
    pub(crate) memory: u64,
}

/// A running meter; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Meter {
    readings: Rc<RefCell<Vec<Reading>>>,
    task: JoinHandle<()>,
}

impl Meter {
    /// Starts to read; moments count from now.
    pub(crate) async fn start(installation: &str) -> Result<Self> {
        let docker = Docker::connect_with_defaults().during("connecting to the engine")?;
        let filter = format!("com.hyperfaas.installation={installation}");
        let filters = HashMap::from([("label".to_owned(), vec![filter])]);
        let clock = SystemClock::start();
        let mut gauge = Gauge { docker, filters, groups: HashMap::new(), began: clock.now() };
        let first = gauge.read(&clock).await?;
        let readings = Rc::new(RefCell::new(vec![first]));
        let kept = readings.clone();
        let task = spawn_local(async move {
            loop {
                sleep(EVERY).await;
                // The engine may be busy for a moment; the next reading counts on.
                if let Ok(reading) = gauge.read(&clock).await {
                    kept.borrow_mut().push(reading);
                }
            }
        });
        Ok(Self { readings, task })
    }

    /// The newest reading.
    pub(crate) fn last(&self) -> Reading {
        self.readings.borrow().last().copied().unwrap_or_default()
    }

    /// All readings so far.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        self.readings.borrow().clone()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Gauge {
    docker: Docker,
    filters: HashMap<String, Vec<String>>,
    /// By container: its place, and the CPU time it had used when last seen.
    groups: HashMap<String, (Group, Duration)>,
    began: Moment,
}

impl Gauge {
    async fn read(&mut self, clock: &SystemClock) -> Result<Reading> {
        let options = ListContainersOptionsBuilder::default().filters(&self.filters).build();
        let rows = self.docker.list_containers(Some(options)).await.during("listing containers")?;
        let mut reading = Reading { containers: rows.len(), ..Reading::default() };
        for id in rows.into_iter().filter_map(|row| row.id) {
            if !self.groups.contains_key(&id)
                && let Some(group) = self.group(&id).await
            {
                self.groups.insert(id.clone(), (group, Duration::ZERO));
            }
            if let Some((group, cpu)) = self.groups.get_mut(&id) {
                *cpu = group.cpu().unwrap_or(*cpu);
                reading.memory += group.memory().unwrap_or_default();
            }
        }
        reading.cpu = self.groups.values().map(|(_, cpu)| *cpu).sum();
        reading.at = clock.now().since(self.began);
        Ok(reading)
    }

    async fn group(&self, id: &str) -> Option<Group> {
        let seen = self.docker.inspect_container(id, None::<InspectContainerOptions>).await.ok()?;
        let pid = u32::try_from(seen.state?.pid?).ok().filter(|pid| *pid > 0)?;
        Group::of(pid)
    }
}

/// Of readings between two moments: CPU seconds, and MiB seconds of memory.
pub(crate) fn used(readings: &[Reading], from: Duration, to: Duration) -> (f64, f64) {
    let within = readings.iter().filter(|reading| reading.at >= from && reading.at <= to);
    let within = within.collect::<Vec<_>>();
    let cpu = match (within.first(), within.last()) {
        (Some(first), Some(last)) => last.cpu.saturating_sub(first.cpu).as_secs_f64(),
        _ => 0.0,
    };
    let memory = within.windows(2).map(|pair| {
        let mean = f64::midpoint(pair[0].memory as f64, pair[1].memory as f64);
        mean / f64::from(1 << 20) * (pair[1].at - pair[0].at).as_secs_f64()
    });
    (cpu, memory.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_what_came_between_two_moments() {
        let seconds = Duration::from_secs;
        let reading = |at, cpu, mib: u64| Reading {
            at: seconds(at),
            containers: 1,
            cpu: seconds(cpu),
            memory: mib << 20,
        };
        let readings =
            [reading(0, 1, 9), reading(10, 2, 10), reading(20, 7, 20), reading(30, 9, 9)];
        assert_eq!(used(&readings, seconds(10), seconds(20)), (5.0, 150.0));
        assert_eq!(used(&readings, seconds(40), seconds(50)), (0.0, 0.0));
    }
}
