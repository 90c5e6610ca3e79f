//! A provider that is killed in the middle of something.

use std::time::Duration;

use futures_util::StreamExt;
use hyperfaas_provider::engine::{Engine, EngineEvent};
use tokio::time::timeout;

use super::world::{World, key, spec};

/// How long the start of the provider that is killed takes: longer than the next one needs to be at work.
const LATE: Duration = Duration::from_millis(500);
/// Time for everything to settle.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_container_that_a_killed_provider_had_ordered_does_not_stay() {
    let mut world = World::start();
    let f = key("f");
    let mut events = world.engine.events();
    world.host.delay_starts(LATE);
    world.catalog.create(spec(&f)).await.unwrap();
    timeout(PATIENCE, world.has_ordered(&f)).await.expect("a start is ordered");
    world.restart().await;
    world.host.delay_starts(Duration::ZERO);
    let mut made = 0;
    while made < 2 {
        let event = timeout(PATIENCE, events.next()).await.expect("both orders come to pass");
        made += usize::from(matches!(event, Some(EngineEvent::Created { .. })));
    }
    let left = timeout(PATIENCE, world.settled()).await;
    assert!(left.is_ok(), "{:#?}", world.containers().await);
}
