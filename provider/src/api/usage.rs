//! What functions use, asked of the engine for those who want to know.
//!
//! In: functions. Out: sums over their replicas, without what others' guests use there, and over the places where they are guests
//! themselves; a function whose containers did not answer in time is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::openfaas::FunctionUsage;
use tokio::time::{Instant, timeout_at};

use super::Api;
use crate::cluster::Elsewhere;

/// How long a status answer may wait for the engine: faas-cli gives it far longer, a person does not.
const PATIENCE: Duration = Duration::from_secs(3);
/// Questions to the engine under way at the same time.
const AT_ONCE: usize = 8;

/// The usage of each of `keys` that could be measured in time.
pub(super) async fn of_functions<'a>(
    api: &Api,
    keys: impl IntoIterator<Item = &'a FunctionKey>,
) -> BTreeMap<FunctionKey, FunctionUsage> {
    let deadline = Instant::now() + PATIENCE;
    let questions: Vec<_> = keys.into_iter().cloned().map(|key| of_function(api, key)).collect();
    let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
    let mut out = BTreeMap::new();
    while let Ok(Some((key, usage))) = timeout_at(deadline, answers.next()).await {
        out.extend(usage.map(|usage| (key, usage)));
    }
    out
}

/// The sum over the function's places; `None` when none of them could be measured.
async fn of_function(api: &Api, key: FunctionKey) -> (FunctionKey, Option<FunctionUsage>) {
    let (replicas, elsewhere) = (api.cluster.replicas(&key), api.cluster.used_elsewhere(&key));
    if replicas.is_empty() && elsewhere.is_empty() {
        return (key, Some(FunctionUsage::default()));
    }
    let mut sum: Option<FunctionUsage> = None;
    let mut add = |cpu_milli: f64, memory_bytes: u64| {
        let sum = sum.get_or_insert_default();
        sum.cpu += cpu_milli.max(0.0);
        #[expect(
            clippy::cast_precision_loss,
            reason = "the wire's number is a float; 2^53 bytes are 8 PiB"
        )]
        let bytes = memory_bytes as f64;
        sum.total_memory_bytes += bytes;
    };
    let guests = api.cluster.used_by_guests(&key);
    for (replica, container) in replicas {
        // A replica that left meanwhile uses nothing.
        let Ok(usage) = api.engine.usage(&container).await else { continue };
        let theirs = guests.get(&replica).copied().unwrap_or_default();
        let own = usage.memory_bytes.saturating_sub(theirs.memory_bytes);
        add(usage.cpu_milli - f64::from(theirs.cpu_millicores), own);
    }
    for place in elsewhere {
        match place {
            Elsewhere::All(container) => {
                let Ok(usage) = api.engine.usage(&container).await else { continue };
                add(usage.cpu_milli, usage.memory_bytes);
            }
            Elsewhere::Part(used) => add(f64::from(used.cpu_millicores), used.memory_bytes),
        }
    }
    (key, sum)
}
