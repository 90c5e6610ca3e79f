//! Many functions at zero, all asked for at once: how fast standby containers take them on.
//!
//! In: how many functions, calls of each, standby containers that wait. Out: [`Surge`]. All are of one image, the static reference
//! function, and each call has a connection of its own to the gateway. Touches: the engine, processes, sockets.

use std::path::Path;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli;
use crate::command_load::{bar, say};
use crate::corner::Corner;
use crate::failure::Result;
use crate::ladder::Spread;
use crate::record::{Machine, write};
use crate::stack::{Stack, until};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Result of `surge`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Surge {
    /// Functions at zero.
    pub(crate) functions: usize,
    /// Calls of each, all at once.
    pub(crate) calls: usize,
    /// Standby containers that waited.
    pub(crate) standby: usize,
    /// From the first call to the end of a function's first answer, ms: the function in the middle.
    pub(crate) median_ms: Spread,
    /// The last function's, or that of the last for which a standby container waited.
    pub(crate) last_ms: Spread,
    /// Functions whose first answer came from a standby container, a second.
    pub(crate) per_second: Spread,
    /// Calls without an answer below 400, all rounds.
    pub(crate) failed: usize,
    /// Rounds.
    pub(crate) rounds: usize,
}

/// `bench surge`.
pub(crate) async fn surge(options: &cli::Surge, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let (count, waiting) = (options.functions.max(1), options.standby.max(1));
    let bar = bar(options.rounds as u64);
    let (mut medians, mut lasts, mut rates, mut failed) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..options.rounds {
        let round = round(count, options.calls.max(1), waiting).await?;
        failed += round.failed;
        if let (Some(middle), Some(last)) =
            (round.first_ms.get(count / 2), round.first_ms.get(count.min(waiting) - 1))
        {
            medians.push(*middle);
            lasts.push(*last);
            rates.push(count.min(waiting) as f64 / last * 1e3);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let surge = Surge {
        functions: count,
        calls: options.calls.max(1),
        standby: waiting,
        median_ms: Spread::of(medians),
        last_ms: Spread::of(lasts),
        per_second: Spread::of(rates),
        failed,
        rounds: options.rounds,
    };
    say(&format!(
        "{count} functions at zero, {} calls at once, {waiting} standby containers: first answers after {:.0} ms in the median, \
         {:.0} ms at the latest ({:.0}..{:.0}); {:.0} functions a second ({:.0}..{:.0}); {failed} calls failed",
        count * surge.calls,
        surge.median_ms.median,
        surge.last_ms.median,
        surge.last_ms.min,
        surge.last_ms.max,
        surge.per_second.median,
        surge.per_second.min,
        surge.per_second.max,
    ));
    write(out, "surge", machine, surge)
}

/// One surge.
struct Round {
    /// Each function's first answer, in order of time.
    first_ms: Vec<f64>,
    failed: usize,
}

async fn round(functions: usize, calls: usize, standby: usize) -> Result<Round> {
    let corner = Corner::new()?;
    corner.build_users_image()?;
    let pool = standby.to_string();
    let settings = [
        ("HYPERFAAS_SLOTS", "true"),
        ("HYPERFAAS_STANDBY_MIN", pool.as_str()),
        ("HYPERFAAS_STANDBY_MAX", pool.as_str()),
    ];
    let stack = Stack::start(&corner, &settings).await?;
    let names = (0..functions).map(|nth| format!("surge-{nth}")).collect::<Vec<_>>();
    for name in &names {
        stack.deploy(name, &corner.image(), json!({})).await?;
        stack.scale(name, 0).await?;
    }
    for name in &names {
        corner.until_at_zero(name).await?;
    }
    until(format!("{standby} standby containers wait"), async || {
        Ok(stack.is_standby_settled().await? && corner.running()?.len() == standby)
    })
    .await?;
    // At zero that says that a standby container could serve it at once.
    for name in &names {
        stack.until_available(name, 1).await?;
    }
    let clock = SystemClock::start();
    let began = clock.now();
    let mut callers = JoinSet::new();
    for nth in 0..functions * calls {
        let (function, clock) = (nth % functions, clock);
        let target = stack.function(&names[function], "");
        callers.spawn_local(async move {
            let call = async { target.connect().await?.call(&target.request).await };
            let answer = tokio::time::timeout(PATIENCE, call).await;
            let is_good = matches!(answer, Ok(Ok(answer)) if answer.status < 400);
            (function, is_good, clock.now().since(began).as_secs_f64() * 1e3)
        });
    }
    let (mut first, mut failed) = (vec![f64::INFINITY; functions], 0);
    while let Some(done) = callers.join_next().await {
        match done {
            Ok((function, true, ms)) => first[function] = first[function].min(ms),
            _ => failed += 1,
        }
    }
    first.retain(|ms| ms.is_finite());
    first.sort_by(f64::total_cmp);
    Ok(Round { first_ms: first, failed })
}
