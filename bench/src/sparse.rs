//! Many functions that are hardly called: what they hold in memory and how long a call takes, with a container each, and from zero
//! through standby containers, in one run.
//!
//! In: a number of functions, how often each is called. Out: [`Sparse`], a [`Way`] each. How: both ways have the same calls, spread
//! evenly; memory is looked at all the while, so containers that come and go count for as long as they are there. What counts:
//! containers' own memory, the page cache that is charged to them (the roots' files too), the engine's shims, and what the
//! provider has grown by since before the first deployment. Touches: the engine, processes, the cgroup tree.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::cli;
use crate::cold::call;
use crate::command_load::{bar, say};
use crate::corner::{Container, Corner};
use crate::failure::{Result, failed};
use crate::record::{Machine, write};
use crate::stack::{Stack, until};
use crate::usage::{self, Group};

/// Between two looks at memory.
const LOOK: Duration = Duration::from_secs(1);

/// One way to keep functions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// As tables call it.
    pub(crate) name: String,
    /// Mean over the time, KiB: what all processes of all containers have as their own.
    pub(crate) own_kib: f64,
    /// Page cache charged to containers.
    pub(crate) cache_kib: f64,
    /// The engine's shims, resident.
    pub(crate) shims_kib: f64,
    /// What the provider has grown by.
    pub(crate) provider_kib: f64,
    /// The most of the sum of these four at any look.
    pub(crate) most_kib: f64,
    /// Containers, standby ones among them; the mean.
    pub(crate) containers: f64,
    /// Calls' times, ms.
    pub(crate) median_ms: f64,
    /// The same: one of a hundred took longer, or none of fewer.
    pub(crate) p99_ms: f64,
    /// How many.
    pub(crate) calls: usize,
}

impl Way {
    /// All that counts, KiB; the mean.
    pub(crate) fn all_kib(&self) -> f64 {
        self.own_kib + self.cache_kib + self.shims_kib + self.provider_kib
    }
}

/// Both ways.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sparse {
    /// Functions.
    pub(crate) functions: usize,
    /// Seconds between two calls of one.
    pub(crate) every_s: f64,
    /// A container each, then from zero.
    pub(crate) ways: Vec<Way>,
}

/// `bench sparse`.
pub(crate) async fn sparse(options: &cli::Sparse, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let count = options.functions.max(1);
    let mut ways = Vec::new();
    for (name, labels) in [
        (
            "a container each",
            json!({ "com.openfaas.scale.min": "1", "com.openfaas.scale.max": "1" }),
        ),
        (
            "from zero",
            json!({
                "com.openfaas.scale.min": "1",
                "com.openfaas.scale.max": "1",
                "com.openfaas.scale.zero": "true",
                "com.openfaas.scale.zero-duration": format!("{}s", options.idle.as_secs()),
            }),
        ),
    ] {
        let corner = Corner::new()?;
        corner.build_users_image()?;
        // Without standby containers where they serve nobody.
        let is_shared = !ways.is_empty();
        let pool = if is_shared { "true" } else { "false" };
        let mut settings = vec![("HYPERFAAS_SLOTS", pool)];
        settings.extend(options.setting.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let stack = Stack::start(&corner, &settings).await?;
        let provider = || usage::resident(stack.provider.pid()).unwrap_or_default();
        let before = provider();
        let names = (0..count).map(|nth| format!("sparse-{nth}")).collect::<Vec<_>>();
        for name in &names {
            stack.deploy(name, &corner.image(), json!({ "labels": labels })).await?;
            stack.until_available(name, 1).await?;
        }
        if is_shared {
            for name in &names {
                stack.scale(name, 0).await?;
            }
            for name in &names {
                corner.until_at_zero(name).await?;
            }
            until("standby containers wait".to_owned(), async || stack.is_standby_settled().await)
                .await?;
        }
        ways.push(way(name, &names, (&corner, &stack, before), options).await?);
    }
    for way in &ways {
        say(&format!(
            "{:<17} {:.0} KiB in all at the mean (own {:.0}, cache {:.0}, shims {:.0}, provider {:.0}), {:.0} at most, {:.1} containers; \
             a call: median {:.1} ms, p99 {:.1} ms of {}",
            way.name,
            way.all_kib(),
            way.own_kib,
            way.cache_kib,
            way.shims_kib,
            way.provider_kib,
            way.most_kib,
            way.containers,
            way.median_ms,
            way.p99_ms,
            way.calls
        ));
    }
    say(&format!("from zero takes {:.2} of the memory", ways[1].all_kib() / ways[0].all_kib()));
    write(
        out,
        "sparse",
        machine,
        Sparse { functions: count, every_s: options.every.as_secs_f64(), ways },
    )
}

/// Calls each function in turn, every so often, and looks at memory meanwhile.
async fn way(
    name: &str,
    functions: &[String],
    (corner, stack, before): (&Corner, &Stack, u64),
    options: &cli::Sparse,
) -> Result<Way> {
    let apart = options.every / u32::try_from(functions.len()).unwrap_or(u32::MAX);
    let (begun, mut looks, mut times) = (Instant::now(), Looks::default(), Vec::new());
    let bar = bar(options.length.as_secs());
    let (mut next_call, mut next_look, mut turn) = (begun, begun, 0);
    let end = begun + options.length;
    while begun.elapsed() < options.length {
        sleep_until(next_call.min(next_look).min(end)).await;
        let now = Instant::now();
        if now >= next_call && now < end {
            times.push(call(&functions[turn % functions.len()], stack).await?);
            (turn, next_call) = (turn + 1, next_call + apart);
        }
        if now >= next_look {
            let grown =
                usage::resident(stack.provider.pid()).unwrap_or_default().saturating_sub(before);
            looks.look(corner, grown)?;
            bar.set_position(begun.elapsed().as_secs());
            next_look += LOOK;
        }
    }
    bar.finish_and_clear();
    if times.is_empty() || looks.count == 0.0 {
        return failed("the time is too short for one call");
    }
    times.sort_by(f64::total_cmp);
    let last = times.len() - 1;
    Ok(Way {
        name: name.to_owned(),
        median_ms: times[last / 2],
        p99_ms: times[(times.len() * 99).div_ceil(100) - 1],
        calls: times.len(),
        ..looks.mean()
    })
}

/// What was seen so far, summed up; KiB.
#[derive(Debug, Default)]
struct Looks {
    sum: Way,
    count: f64,
    /// Containers by their id: one is asked about once.
    known: HashMap<String, Option<Container>>,
}

impl Looks {
    fn look(&mut self, corner: &Corner, grown: u64) -> Result<()> {
        let kib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1024.0;
        let mut now = Way { provider_kib: kib(Some(grown)), ..Way::default() };
        for id in corner.running()? {
            // One that has ended meanwhile holds nothing.
            let known = self.known.entry(id.clone());
            let known = known.or_insert_with_key(|id| corner.container(id).ok());
            let Some(container) = known else { continue };
            let group = Group::of(container.pid).filter(|group| group.is_of(&id));
            let Some(group) = group else { continue };
            now.own_kib += kib(group.memory());
            now.cache_kib += kib(group.cache());
            now.shims_kib += kib(usage::parent(container.pid).and_then(usage::resident));
            now.containers += 1.0;
        }
        let sum = &mut self.sum;
        sum.own_kib += now.own_kib;
        sum.cache_kib += now.cache_kib;
        sum.shims_kib += now.shims_kib;
        sum.provider_kib += now.provider_kib;
        sum.containers += now.containers;
        sum.most_kib = sum.most_kib.max(now.all_kib());
        self.count += 1.0;
        Ok(())
    }

    fn mean(&self) -> Way {
        let Way { own_kib, cache_kib, shims_kib, provider_kib, containers, .. } = &self.sum;
        let mean = |sum: &f64| sum / self.count;
        Way {
            own_kib: mean(own_kib),
            cache_kib: mean(cache_kib),
            shims_kib: mean(shims_kib),
            provider_kib: mean(provider_kib),
            containers: mean(containers),
            most_kib: self.sum.most_kib,
            ..Way::default()
        }
    }
}
