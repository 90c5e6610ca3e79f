//! What functions use, asked of the engine for those who want to know.
//!
//! In: functions. Out: sums over their replicas; a function whose replicas did not answer in time is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::openfaas::FunctionUsage;
use tokio::time::{Instant, timeout_at};

use super::Api;

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

/// The sum over the function's replicas; `None` when none of them could be measured.
async fn of_function(api: &Api, key: FunctionKey) -> (FunctionKey, Option<FunctionUsage>) {
    let replicas = api.cluster.replicas(&key);
    if replicas.is_empty() {
        return (key, Some(FunctionUsage::default()));
    }
    let mut sum = None;
    for (_, container) in replicas {
        // A replica that left meanwhile uses nothing.
        let Ok(usage) = api.engine.usage(&container).await else { continue };
        let sum: &mut FunctionUsage = sum.get_or_insert_default();
        sum.cpu += usage.cpu_milli;
        #[expect(
            clippy::cast_precision_loss,
            reason = "the wire's number is a float; 2^53 bytes are 8 PiB"
        )]
        let bytes = usage.memory_bytes as f64;
        sum.total_memory_bytes += bytes;
    }
    (key, sum)
}
