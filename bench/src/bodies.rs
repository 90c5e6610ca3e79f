//! Large request bodies: what moving them costs our watchdog, through port 8080 and over a lane, by the size of the lane's frames.
//!
//! In: sizes. Out: [`Moved`] for each way, the median over rounds in turn. The watchdog copies frames below 64 KiB and splices
//! what is larger from socket to socket, so both are seen beside each other. Touches: the engine, sockets.

use std::path::Path;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::command_load::{bar, say};
use crate::failure::{Failure, Result, failed};
use crate::hops::{Others, Scene, VIA_8080, VIA_LANE};
use crate::ladder::{Hop, Spread};
use crate::record::{Machine, write};
use crate::usage;

/// Bytes written at once where there are no frames.
const PIECE_KIB: usize = 256;

/// A way of large bodies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// As tables call it.
    pub(crate) way: String,
    /// MiB a second, one request after the other.
    pub(crate) per_second: Spread,
    /// CPU of the watchdog, ms a GiB.
    pub(crate) watchdog_ms: Spread,
}

/// Result of `bodies`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bodies {
    /// Of a body, MiB.
    pub(crate) size_mib: u32,
    /// Rounds of each figure.
    pub(crate) rounds: usize,
    /// The ways.
    pub(crate) ways: Vec<Moved>,
}

/// `bench bodies`.
pub(crate) async fn bodies(options: &cli::Bodies, out: &Path) -> Result<()> {
    let machine = Machine::now();
    let scene = Scene::http(&Others::default(), false).await?;
    let find = |name: &str| {
        scene
            .hops
            .iter()
            .find(|hop| hop.name == name)
            .ok_or_else(|| Failure::Said(format!("no hop {name}")))
    };
    let (plain, lane) = (find(VIA_8080)?, find(VIA_LANE)?);
    let frames =
        options.frames_kib.iter().map(|kib| (format!("lane, frames of {kib} KiB"), lane, *kib));
    let ways = std::iter::once(("port 8080".to_owned(), plain, PIECE_KIB)).chain(frames);
    let ways = ways.collect::<Vec<_>>();
    let bar = bar((ways.len() * options.rounds) as u64);
    let mut seen = vec![Vec::new(); ways.len()];
    for _ in 0..options.rounds {
        for (seen, (_, hop, kib)) in seen.iter_mut().zip(&ways) {
            seen.push(
                visit(hop, u64::from(options.size_mib) << 20, kib << 10, options.length).await?,
            );
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let moved = ways.iter().zip(seen).map(|((way, ..), seen)| Moved {
        way: way.clone(),
        per_second: Spread::of(seen.iter().map(|(per_second, _)| *per_second)),
        watchdog_ms: Spread::of(seen.iter().map(|(_, ms)| *ms)),
    });
    let ways = moved.collect::<Vec<_>>();
    for way in &ways {
        say(&format!(
            "{:<26} {:>6.0} MiB/s, watchdog {:>5.0} ms of CPU a GiB ({:.0}..{:.0})",
            way.way,
            way.per_second.median,
            way.watchdog_ms.median,
            way.watchdog_ms.min,
            way.watchdog_ms.max
        ));
    }
    let (size_mib, rounds) = (options.size_mib, options.rounds);
    write(out, "bodies", machine, Bodies { size_mib, rounds, ways })
}

/// Bodies of `size` one after the other for `length`: MiB a second, and the watchdog's CPU in ms a GiB.
async fn visit(hop: &Hop, size: u64, piece: usize, length: Duration) -> Result<(f64, f64)> {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n",
        hop.target.address
    );
    let zeros = vec![0; piece];
    let told = |fault: crate::call::Fault| Failure::Said(format!("{}: {}", hop.name, fault.name()));
    let mut connection = hop.target.connect().await.map_err(told)?;
    let used = || {
        let watchdogs = hop.processes.iter().filter(|(role, _)| role == "watchdog");
        watchdogs.filter_map(|(_, pid)| usage::cpu(*pid)).sum::<Duration>()
    };
    let clock = SystemClock::start();
    let (began, before, mut bodies) = (clock.now(), used(), 0_u32);
    while clock.now().since(began) < length {
        let answer = connection.upload(head.as_bytes(), size, &zeros).await.map_err(told)?;
        if answer.status >= 400 {
            return failed(format!("{} answered {}", hop.name, answer.status));
        }
        if !answer.is_reusable {
            connection = hop.target.connect().await.map_err(told)?;
        }
        bodies += 1;
    }
    let took = clock.now().since(began).as_secs_f64();
    let mib = f64::from(bodies) * size as f64 / f64::from(1 << 20);
    let ms = used().saturating_sub(before).as_secs_f64() * 1e3;
    Ok((mib / took, ms / mib * 1024.0))
}
