//! From no replica to the first answer: how long a caller waits whose call wakes a function.
//!
//! In: images. Out: [`Starts`] for each, with what the function's program takes by itself. How: scale to 0, wait until the last container is gone and no standby container
//! serves, starts or leaves, call once; images take turns, so that a slower engine is slower for all. Touches: the engine, processes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use crate::alone;
use crate::cli;
use crate::command_load::{bar, say};
use crate::corner::{Corner, docker};
use crate::failure::{Result, failed};
use crate::ladder::Spread;
use crate::record::{Machine, write, write_table};
use crate::stack::{Stack, until};

/// The sample functions, which are measured if their images are there.
const SAMPLES: [&str; 4] = ["hello", "plain", "pyhello", "shout"];

/// After how long whoever is to wait does.
const SETTLES: Duration = Duration::from_secs(10);
/// What an interpreter gets for loading what its script imports before it is called.
const LOADS: Duration = Duration::from_secs(1);

/// One image's first answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Starts {
    /// As tables call it.
    pub(crate) name: String,
    /// From the call to the end of its answer, ms.
    pub(crate) first_ms: Spread,
    /// The call after it, ms.
    pub(crate) second_ms: Spread,
    /// From the start of the function's program, without a watchdog in a container that runs, to its first answer, ms; none
    /// where the image does not name a server.
    #[serde(default)]
    pub(crate) alone_ms: Option<Spread>,
    /// How many.
    pub(crate) rounds: usize,
}

/// One start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The image's name in tables.
    pub(crate) name: String,
    /// Counted from 0.
    pub(crate) round: usize,
    /// From the call to the end of its answer, ms.
    pub(crate) first_ms: f64,
    /// The call after it, ms.
    pub(crate) second_ms: f64,
}

/// `bench cold`.
pub(crate) async fn cold(options: &cli::Cold, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let corner = Corner::new()?;
    corner.build_image(&[])?;
    let images = images(options, &corner);
    let mut alone = BTreeMap::new();
    for (name, image) in &images {
        let ms = alone::of(&corner, image, options.rounds)?;
        alone.extend((!ms.is_empty()).then(|| (name.clone(), Spread::of(ms))));
    }
    let settings = options.setting.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let stack = Stack::start(&corner, &settings.collect::<Vec<_>>()).await?;
    for (name, image) in &images {
        let labels =
            json!({ "labels": { "com.openfaas.scale.min": "1", "com.openfaas.scale.max": "1" } });
        stack.deploy(name, image, labels).await?;
        stack.until_available(name, 1).await?;
    }
    let zygotes = zygotes(options, &images, &stack).await?;
    let bar = bar((images.len() * options.rounds) as u64);
    let mut starts = Vec::new();
    for round in 0..options.rounds {
        for (name, _) in &images {
            bar.set_message(name.clone());
            let waits = zygotes.contains(name);
            starts.push(start(name, round, waits, &corner, &stack).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(stack);
    let of = |name: &str, ms: fn(&Start) -> f64| {
        Spread::of(starts.iter().filter(|start| start.name == name).map(ms))
    };
    let table = images.iter().map(|(name, _)| Starts {
        name: name.clone(),
        first_ms: of(name, |start| start.first_ms),
        second_ms: of(name, |start| start.second_ms),
        alone_ms: alone.get(name).copied(),
        rounds: options.rounds,
    });
    let table = table.collect::<Vec<_>>();
    for row in &table {
        let alone = row.alone_ms.map(|ms| format!("; its program alone {:.1} ms", ms.median));
        say(&format!(
            "{:<10} first answer from zero: median {:.1} ms ({:.1}..{:.1}), the next {:.2} ms, {} rounds{}",
            row.name,
            row.first_ms.median,
            row.first_ms.min,
            row.first_ms.max,
            row.second_ms.median,
            row.rounds,
            alone.unwrap_or_default()
        ));
    }
    write_table(out, &format!("cold-{}", options.name), &starts)?;
    write(out, &format!("cold-{}", options.name), machine, table)
}

fn images(options: &cli::Cold, corner: &Corner) -> Vec<(String, String)> {
    let samples = SAMPLES.map(|name| (name.to_owned(), format!("hyperfaas/fn-{name}:latest")));
    let is_there = |image: &str| docker(&["image", "inspect", image]).is_ok();
    let samples = samples.into_iter().filter(|(_, image)| is_there(image));
    std::iter::once(("reference".to_owned(), corner.image()))
        .chain(samples)
        .chain(options.image.iter().cloned())
        .collect()
}

/// The functions whose interpreter waits once they have been called and are at zero; none where none may.
async fn zygotes(
    options: &cli::Cold,
    images: &[(String, String)],
    stack: &Stack,
) -> Result<HashSet<String>> {
    let mut waiting = HashSet::new();
    if !options.setting.iter().any(|(name, most)| name == "HYPERFAAS_ZYGOTES" && most != "0") {
        return Ok(waiting);
    }
    for (name, _) in images {
        call(name, stack).await?;
        stack.scale(name, 0).await?;
    }
    // Nothing announces that nobody else is to wait; whose turn it is is looked at every second.
    sleep(SETTLES).await;
    for (name, _) in images {
        if stack.decisions(name).await?.iter().any(|action| action == "hold") {
            waiting.insert(name.clone());
        }
    }
    Ok(waiting)
}

async fn start(
    name: &str,
    round: usize,
    waits: bool,
    corner: &Corner,
    stack: &Stack,
) -> Result<Start> {
    stack.scale(name, 0).await?;
    corner.until_at_zero(name).await?;
    let settled = async || stack.is_standby_settled().await;
    until("standby containers wait".to_owned(), settled).await?;
    if waits {
        let held = async || Ok(stack.decisions(name).await?.last().is_some_and(|it| it == "hold"));
        until(format!("the interpreter of {name} waits"), held).await?;
        sleep(LOADS).await;
    }
    Ok(Start {
        name: name.to_owned(),
        round,
        first_ms: call(name, stack).await?,
        second_ms: call(name, stack).await?,
    })
}

/// One call of `name` through the gateway, on a connection of its own, ms.
pub(crate) async fn call(name: &str, stack: &Stack) -> Result<f64> {
    let clock = SystemClock::start();
    let target = stack.function(name, "");
    let before = clock.now();
    let answer = async { target.connect().await?.call(&target.request).await };
    let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
    let ms = clock.now().since(before).as_secs_f64() * 1e3;
    match answer {
        Ok(Ok(answer)) if answer.status < 400 => Ok(ms),
        Ok(Ok(answer)) => failed(format!("{name} answered {}", answer.status)),
        Ok(Err(fault)) => failed(format!("{name}: {}", fault.name())),
        Err(_) => failed(format!("{name} did not answer in a minute")),
    }
}
