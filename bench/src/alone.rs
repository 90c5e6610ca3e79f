//! A function's own program without any watchdog: from its start to its first answer, which no start from zero can be faster than.
//!
//! In: a server's command and where it answers; run inside a container of its image ([`Corner::bench_in`]). Out: milliseconds of
//! each start. Touches: processes, sockets.

use std::process::Stdio;
use std::time::Duration;

use hyperfaas_protocol::moment::{Clock, SystemClock};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::cli;
use crate::command_load::say;
use crate::corner::Corner;
use crate::failure::{During, Result, failed};
use crate::hops::resolve;
use crate::load::Target;
use crate::stack::get;

/// Between two tries to connect.
const POLL: Duration = Duration::from_micros(200);
/// Longest wait for a program's first answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// `bench alone`: a line for each start.
pub(crate) async fn alone(options: &cli::Alone) -> Result<()> {
    let (address, path) = resolve(&options.url)?;
    let target = get(address, &path);
    for _ in 0..options.rounds {
        say(&format!("{:.3}", start(&options.command, &target).await?));
    }
    Ok(())
}

async fn start(command: &[String], target: &Target) -> Result<f64> {
    let Some((program, arguments)) = command.split_first() else { return failed("no command") };
    let clock = SystemClock::start();
    let before = clock.now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .during(format!("starting {program}"))?;
    let answer = async {
        loop {
            match target.connect().await {
                Ok(mut connection) => return connection.call(&target.request).await,
                Err(_) => sleep(POLL).await,
            }
        }
    };
    let answer = timeout(PATIENCE, answer).await;
    let ms = clock.now().since(before).as_secs_f64() * 1e3;
    child.kill().await.during(format!("ending {program}"))?;
    match answer {
        Ok(Ok(_)) => Ok(ms),
        Ok(Err(fault)) => failed(format!("{program}: {}", fault.name())),
        Err(_) => failed(format!("{program} did not answer in a minute")),
    }
}

/// The starts of the program of `image` in milliseconds; none where the image does not say that it is a server of its own.
pub(crate) fn of(corner: &Corner, image: &str, rounds: usize) -> Result<Vec<f64>> {
    let variables = corner.variables(image)?;
    let of = |name: &str| {
        let named = variables.iter().find(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let (Some(command), Some(url)) = (of("fprocess"), of("upstream_url")) else {
        return Ok(Vec::new());
    };
    let rounds = rounds.to_string();
    // Words as the watchdogs split them.
    let words =
        ["alone", "--rounds", &rounds, url, "--"].into_iter().chain(command.split_whitespace());
    let text = corner.bench_in(image, &words.collect::<Vec<_>>())?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}
