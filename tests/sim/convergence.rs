//! Whatever is asked for and whatever fails, in the end exactly what is wanted runs; a function that is only updated and
//! scaled above zero never refuses a caller meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use hyperfaas_protocol::FunctionKey;
use hyperfaas_provider::catalog::CatalogError;
use hyperfaas_provider::engine::EngineError;
use tokio::time::{sleep, timeout};

use super::world::{Caller, World, key, spec};

/// How many changes and faults one run makes.
const STEPS: usize = 120;
/// Time for everything to settle; a tenth of it is plenty on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator of its own, so that a seed means the same run for ever: a linear congruential one (Knuth's MMIX).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Makes one change or fault. Refusals for what does not exist (any more) are part of the game.
async fn step(world: &World, chance: &mut Chance) {
    let names = ["a", "b", "c", "d"];
    let any = key(names[chance.below(names.len())]);
    let steady = key("steady");
    let done: Result<(), CatalogError> = match chance.below(12) {
        0..3 => world.catalog.create(spec(&any)).await.map(drop),
        3 => world.catalog.update(spec(&any)).await.map(drop),
        4 => world.catalog.delete(any).await,
        5 => world.catalog.scale(any, chance.below(5) as u64).await.map(drop),
        6 => world.catalog.scale(steady, 1 + chance.below(4) as u64).await.map(drop),
        7 => world.catalog.update(spec(&steady)).await.map(drop),
        8 => {
            world.host.fail_next_start(EngineError::Refused("scripted".into()));
            Ok(())
        }
        9 | 10 => {
            let containers = world.containers().await;
            let mortal: Vec<_> = containers.iter().filter(|c| c.function != steady).collect();
            if !mortal.is_empty() {
                let victim = mortal[chance.below(mortal.len())];
                match chance.below(2) {
                    0 => world.host.exit(&victim.container, 1),
                    _ => world.host.remove(&victim.container),
                }
            }
            Ok(())
        }
        _ => {
            world.host.go_away("scripted");
            sleep(Duration::from_millis(chance.below(30) as u64)).await;
            world.host.come_back();
            Ok(())
        }
    };
    match done {
        Ok(()) | Err(CatalogError::FunctionUnknown(_) | CatalogError::FunctionExists(_)) => {}
        Err(error) => panic!("{error}"),
    }
    sleep(Duration::from_millis(chance.below(8) as u64)).await; // lets some of it happen before the next
}

/// Calls `key` until told to stop; every call must be answered by a running replica. How many were.
async fn keep_calling(caller: Caller, key: FunctionKey, stop: Arc<AtomicBool>) -> usize {
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        match caller.call(&key).await {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::OK, "sent to a stopped container");
            }
            Err(error) => panic!("call {served}: {error}"),
        }
        served += 1;
        sleep(Duration::from_millis(1)).await; // a caller's own pace
    }
    served
}

async fn run(seed: u64) {
    eprintln!("seed {seed}");
    let world = World::start();
    let steady = key("steady");
    world.catalog.create(spec(&steady)).await.unwrap();
    world.caller().call(&steady).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(keep_calling(world.caller(), steady.clone(), Arc::clone(&stop))))
        .collect();
    let mut chance = Chance(seed);
    for _ in 0..STEPS {
        step(&world, &mut chance).await;
    }
    if timeout(PATIENCE, world.settled()).await.is_err() {
        panic!(
            "seed {seed} never settled: {:#?}\n{:#?}",
            world.containers().await,
            world.catalog.snapshot()
        );
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0, "seed {seed}: nobody was served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_runs_in_the_end_whatever_fails() {
    let seeds = match std::env::var("HYPERFAAS_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => vec![1, 2, 3, 4],
    };
    for seed in seeds {
        run(seed).await;
    }
}
