//! What a container uses: two samples of its control group, a fifth of a second apart.

use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt;
use jiff::Timestamp;

use super::super::{ContainerId, ContainerUsage, EngineError};
use super::connection::{READ, classify, within};

/// Between the two samples; the kernel's own accounting is far finer.
const INTERVAL: Duration = Duration::from_millis(200);

/// Processor use over [`INTERVAL`], memory at its end. A container that does not run uses nothing.
pub(super) async fn usage(
    docker: &Docker,
    container: &ContainerId,
) -> Result<ContainerUsage, EngineError> {
    let first = sample(docker, container).await?;
    tokio::time::sleep(INTERVAL).await;
    let second = sample(docker, container).await?;
    Ok(ContainerUsage {
        cpu_milli: cpu_milli(&first, &second),
        memory_bytes: memory(second.memory_stats.as_ref()),
    })
}

async fn sample(
    docker: &Docker,
    container: &ContainerId,
) -> Result<ContainerStatsResponse, EngineError> {
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let mut answers = Box::pin(docker.stats(&container.0, Some(options)));
    let answer =
        within(READ, async { answers.next().await.transpose() }).await.map_err(classify)?;
    answer.ok_or_else(|| EngineError::Refused("no statistics".into()))
}

/// Processor time between two samples, in thousandths of a processor.
fn cpu_milli(first: &ContainerStatsResponse, second: &ContainerStatsResponse) -> f64 {
    let used = |sample: &ContainerStatsResponse| {
        sample.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage
    };
    let at = |sample: &ContainerStatsResponse| sample.read.as_deref()?.parse::<Timestamp>().ok();
    let (Some(before), Some(after), Some(from), Some(to)) =
        (used(first), used(second), at(first), at(second))
    else {
        return 0.0;
    };
    let elapsed = to.duration_since(from).as_secs_f64();
    if elapsed <= 0.0 {
        return 0.0;
    }
    let nanos = Duration::from_nanos(after.saturating_sub(before));
    nanos.as_secs_f64() / elapsed * 1000.0
}

/// Memory without the page cache that can be dropped at once; the kernel's two hierarchies name it differently.
fn memory(stats: Option<&ContainerMemoryStats>) -> u64 {
    let Some(stats) = stats else { return 0 };
    let usage = stats.usage.unwrap_or(0);
    let counter = |name| stats.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let inactive = counter("total_inactive_file").or_else(|| counter("inactive_file")).unwrap_or(0);
    if inactive < usage { usage - inactive } else { usage }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{ContainerCpuStats, ContainerCpuUsage};

    use super::*;

    fn at(read: &str, nanos: u64) -> ContainerStatsResponse {
        let usage = ContainerCpuUsage { total_usage: Some(nanos), ..ContainerCpuUsage::default() };
        ContainerStatsResponse {
            read: Some(read.to_owned()),
            cpu_stats: Some(ContainerCpuStats {
                cpu_usage: Some(usage),
                ..ContainerCpuStats::default()
            }),
            ..ContainerStatsResponse::default()
        }
    }

    #[test]
    fn half_a_processor_is_500_milli() {
        let (first, second) =
            (at("2024-01-01T00:00:00Z", 7), at("2024-01-01T00:00:00.2Z", 100_000_007));
        assert!((cpu_milli(&first, &second) - 500.0).abs() < 1e-6);
        assert_eq!(cpu_milli(&second, &first), 0.0);
        assert_eq!(cpu_milli(&at("0001-01-01T00:00:00Z", 0), &at("0001-01-01T00:00:00Z", 0)), 0.0);
    }

    #[test]
    fn cache_that_can_be_dropped_is_not_counted() {
        let stats = |pairs: &[(&str, u64)]| ContainerMemoryStats {
            usage: Some(100),
            stats: Some(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect::<HashMap<_, _>>(),
            ),
            ..ContainerMemoryStats::default()
        };
        assert_eq!(memory(Some(&stats(&[("total_inactive_file", 30), ("inactive_file", 10)]))), 70);
        assert_eq!(memory(Some(&stats(&[("inactive_file", 10)]))), 90);
        assert_eq!(memory(Some(&stats(&[("inactive_file", 200)]))), 100);
        assert_eq!(memory(None), 0);
    }
}
