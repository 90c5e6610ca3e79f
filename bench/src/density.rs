//! What an idle function holds in memory, on this machine: its container, the engine's helper beside it, the provider's share.
//!
//! In: a number of functions. Out: [`Held`]. Touches: the engine, processes, the cgroup tree.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli;
use crate::command_load::{bar, say};
use crate::corner::Corner;
use crate::failure::Result;
use crate::ladder::Spread;
use crate::record::{Machine, write};
use crate::stack::Stack;
use crate::usage::{self, Group};

/// Memory by whom, KiB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Functions with one idle replica each.
    pub(crate) functions: usize,
    /// A container's processes' own memory, by its cgroup.
    pub(crate) container_kib: Spread,
    /// Of it, resident: the watchdog with its helpers; pages shared with other containers count in each.
    pub(crate) watchdog_kib: Spread,
    /// Resident: the engine's shim beside each container.
    pub(crate) shim_kib: Spread,
    /// The provider's growth per function with a replica.
    pub(crate) provider_kib: f64,
    /// The provider's growth per function, scaled to zero.
    pub(crate) provider_at_zero_kib: f64,
}

/// `bench density`.
pub(crate) async fn density(options: &cli::Density, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let corner = Corner::new()?;
    corner.build_image(&[])?;
    let settings = options.setting.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let stack = Stack::start(&corner, &settings.collect::<Vec<_>>()).await?;
    // One first, so that what grows once is not counted per function.
    deploy(&stack, &corner, "first").await?;
    let provider = || usage::resident(stack.provider.pid()).unwrap_or_default() as f64 / 1024.0;
    let alone = provider();
    let names = (0..options.functions.max(1)).map(|nth| format!("idle-{nth}")).collect::<Vec<_>>();
    let bar = bar(names.len() as u64);
    for name in &names {
        deploy(&stack, &corner, name).await?;
        bar.inc(1);
    }
    let full = provider();
    let mut containers = Vec::new();
    for name in &names {
        containers.extend(corner.replicas(name)?);
    }
    let kib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1024.0;
    let watchdog = |pid: u32| {
        let helpers = usage::descendants(pid)
            .into_iter()
            .filter(|pid| usage::name(*pid).is_none_or(|name| name != "bench"));
        std::iter::once(pid).chain(helpers).map(|pid| kib(usage::resident(pid))).sum::<f64>()
    };
    let count = names.len() as f64;
    let mut held = Held {
        functions: names.len(),
        container_kib: Spread::of(
            containers.iter().map(|c| kib(Group::of(c.pid).and_then(|group| group.memory()))),
        ),
        watchdog_kib: Spread::of(containers.iter().map(|c| watchdog(c.pid))),
        shim_kib: Spread::of(
            containers.iter().map(|c| kib(usage::parent(c.pid).and_then(usage::resident))),
        ),
        provider_kib: (full - alone) / count,
        provider_at_zero_kib: 0.0,
    };
    for name in &names {
        stack.scale(name, 0).await?;
    }
    for name in &names {
        corner.until_at_zero(name).await?;
    }
    held.provider_at_zero_kib = (provider() - alone) / count;
    bar.finish_and_clear();
    drop(stack);
    say(&format!(
        "{} functions: container {:.0} KiB (watchdog resident {:.0}), engine's shim {:.0} KiB, provider {:.0} KiB; \
         at zero, provider {:.0} KiB",
        held.functions,
        held.container_kib.median,
        held.watchdog_kib.median,
        held.shim_kib.median,
        held.provider_kib,
        held.provider_at_zero_kib
    ));
    write(out, "density", machine, held)
}

async fn deploy(stack: &Stack, corner: &Corner, name: &str) -> Result<()> {
    let labels =
        json!({ "labels": { "com.openfaas.scale.min": "1", "com.openfaas.scale.max": "1" } });
    stack.deploy(name, &corner.image(), labels).await?;
    stack.until_available(name, 1).await
}
