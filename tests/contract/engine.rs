//! The contract of `trait Engine`: each claim is one function, tried on the real engine and on the simulated one.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use hyperfaas_protocol::quantity::{Cpu, Memory};
use hyperfaas_provider::engine::{
    Bounds, ContainerId, EngineError, EngineEvent, Image, LogQuery, PullPolicy, StartOrder,
};
use tokio::time::{Instant, timeout};

use super::lab::{DockerLab, Lab, PATIENCE, SimLab, function, lines_until, secret};
use crate::support::docker::standby_order;

/// Grace for containers that end at once when told to.
const GRACE: Duration = Duration::from_secs(20);

macro_rules! claims {
    ($($claim:ident),* $(,)?) => {
        mod on_docker {
            $(#[tokio::test] async fn $claim() { super::$claim(&<super::DockerLab as super::Lab>::new().await).await; })*
        }
        mod on_sim {
            $(#[tokio::test] async fn $claim() { super::$claim(&<super::SimLab as super::Lab>::new().await).await; })*
        }
    };
}

claims!(
    preparing_twice_at_once_is_harmless,
    a_started_replica_is_listed_with_address_and_labels,
    many_start_at_once,
    a_failed_start_leaves_nothing,
    a_name_is_not_used_twice,
    a_start_goes_on_when_its_caller_leaves,
    a_missing_image_is_named,
    a_present_image_needs_no_registry,
    stopping_what_is_not_there_is_fine,
    a_polite_container_ends_before_its_grace,
    a_stubborn_container_is_killed_after_its_grace,
    events_tell_who_died_and_was_removed,
    what_is_made_is_told_with_the_name_it_was_made_with,
    a_container_that_dies_at_once_is_told,
    installations_do_not_see_each_other,
    logs_hold_both_streams_and_are_cut_as_asked,
    following_ends_with_the_container,
    logs_of_nobody_are_not_found,
    usage_tells_busy_from_idle,
    what_a_running_container_may_use_can_change,
    secrets_are_seen_to_the_byte_and_collected,
    new_bytes_of_a_secret_reach_the_next_replica_only,
    standby_containers_are_listed_apart_and_end_like_others,
    a_renamed_container_is_found_by_its_new_name,
    a_first_process_is_told_while_it_runs,
    an_image_is_exported_whole_and_leaves_nothing,
);

async fn standby_containers_are_listed_apart_and_end_like_others(lab: &impl Lab) {
    let engine = lab.engine();
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    let (first, second) = (standby_order(), standby_order());
    let (one, two) =
        tokio::join!(engine.start_standby(first.clone()), engine.start_standby(second));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((&one.name, one.control_port), (&first.name, first.boot.control_port));
    assert!(one.is_running && one.address.is_some() && one.address != two.address);
    let replica = engine.start(lab.order("f", &[]).await).await.unwrap();
    assert_eq!(engine.list().await.unwrap(), [replica]);
    let mut listed = engine.list_standby().await.unwrap();
    listed.sort_by_key(|standby| standby.container != one.container);
    assert_eq!(listed, [one.clone(), two.clone()]);
    assert_eq!(lab.neighbour().list_standby().await.unwrap(), []);
    let error = engine.start_standby(first).await.unwrap_err();
    assert!(matches!(&error, EngineError::Refused(text) if text.contains("is taken")), "{error}");
    engine.stop(&one.container, GRACE).await.unwrap();
    assert!(
        matches!(next(&mut events).await, EngineEvent::Died { container, .. } if container == one.container)
    );
    assert_eq!(next(&mut events).await, EngineEvent::Removed { container: one.container });
    assert_eq!(engine.list_standby().await.unwrap(), [two]);
}

async fn a_renamed_container_is_found_by_its_new_name(lab: &impl Lab) {
    let engine = lab.engine();
    let standby = engine.start_standby(standby_order()).await.unwrap();
    let replica = engine.start(lab.order("f", &[]).await).await.unwrap();
    let name = standby_order().name;
    engine.rename(&standby.container, &name).await.unwrap();
    engine.rename(&standby.container, &name).await.expect("it has that name already");
    assert_eq!(engine.list_standby().await.unwrap()[0].name, name);
    let error = engine.rename(&standby.container, &replica.replica).await.unwrap_err();
    assert!(matches!(&error, EngineError::Refused(text) if text.contains("is taken")), "{error}");
    let nobody = ContainerId("f".repeat(64));
    let error = engine.rename(&nobody, &standby_order().name).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound), "{error}");
}

async fn a_first_process_is_told_while_it_runs(lab: &impl Lab) {
    let engine = lab.engine();
    let standby = engine.start_standby(standby_order()).await.unwrap();
    assert!(engine.process(&standby.container).await.unwrap() > 1);
    lab.kill(&standby.container).await;
    let ended = async {
        while engine.list_standby().await.unwrap()[0].is_running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("it ends");
    assert!(matches!(engine.process(&standby.container).await, Err(EngineError::Refused(_))));
    let nobody = ContainerId("f".repeat(64));
    assert!(matches!(engine.process(&nobody).await, Err(EngineError::NotFound)));
}

async fn an_image_is_exported_whole_and_leaves_nothing(lab: &impl Lab) {
    let engine = lab.engine();
    let image = engine.image(&lab.present(), PullPolicy::Missing).await.unwrap();
    let pieces: Vec<_> = engine.export(&image).collect().await;
    let bytes = pieces.into_iter().map(Result::unwrap).fold(Vec::new(), |mut all, piece| {
        all.extend_from_slice(&piece);
        all
    });
    let mut files = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        files.push(entry.unwrap().path().unwrap().into_owned());
    }
    assert!(files.contains(&"srv/it".into()), "{files:?}");
    // A reader that leaves early.
    drop(engine.export(&image).next().await);
    let gone = Image { id: format!("sha256:{}", "0".repeat(64)), ..image };
    let pieces: Vec<_> = engine.export(&gone).collect().await;
    assert!(matches!(pieces.as_slice(), [Err(EngineError::ImageUnavailable { .. })]), "{pieces:?}");
    assert_eq!(engine.list().await.unwrap(), []);
    lab.no_helpers_left().await;
}

async fn preparing_twice_at_once_is_harmless(lab: &impl Lab) {
    let engine = lab.engine();
    let (first, second) = tokio::join!(engine.prepare(), engine.prepare());
    let facts = first.unwrap();
    assert_eq!(facts, second.unwrap());
    assert!(facts.cpu.0 >= 1_000_000_000 && facts.memory.0 > 64 << 20, "{facts:?}");
    assert!(facts.api_version.starts_with("1."), "{facts:?}");
    engine.start(lab.order("f", &[]).await).await.unwrap();
    assert_eq!(engine.prepare().await.unwrap(), facts);
    assert!(engine.list().await.unwrap()[0].is_running);
}

async fn a_started_replica_is_listed_with_address_and_labels(lab: &impl Lab) {
    let order = lab.order("f", &[]).await;
    let started = lab.engine().start(order.clone()).await.unwrap();
    assert_eq!(
        (&started.replica, &started.function, started.revision),
        (&order.replica, &order.function, 7)
    );
    assert_eq!(
        (started.http_port, started.control_port),
        (order.boot.http_port, order.boot.control_port)
    );
    assert!(started.is_running && started.address.is_some());
    assert_eq!(lab.engine().list().await.unwrap(), [started]);
}

async fn many_start_at_once(lab: &impl Lab) {
    let engine = lab.engine();
    let mut orders = Vec::new();
    for number in 0..6 {
        let mut order =
            lab.order(if number % 2 == 0 { "f" } else { "g" }, &[("SECRETS", "1")]).await;
        order.secrets = vec![secret("shared", b"once")];
        orders.push(order);
    }
    let started = join_all(orders.into_iter().map(|order| engine.start(order))).await;
    let mut started: Vec<_> = started.into_iter().map(Result::unwrap).collect();
    let mut listed = engine.list().await.unwrap();
    started.sort_by(|a, b| a.replica.cmp(&b.replica));
    listed.sort_by(|a, b| a.replica.cmp(&b.replica));
    assert_eq!(started, listed);
    let mut addresses: Vec<_> = listed.iter().filter_map(|replica| replica.address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 6);
    assert_eq!(lab.secrets_kept().await, 2, "one set for each function");
}

async fn a_failed_start_leaves_nothing(lab: &impl Lab) {
    let mut order = lab.order("f", &[]).await;
    order.image.id = format!("sha256:{}", "0".repeat(64));
    let error = lab.engine().start(order.clone()).await.unwrap_err();
    match &error {
        EngineError::ImageUnavailable { reference, .. } => {
            assert_eq!(*reference, order.image.reference);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(error.to_string().lines().count(), 1);
    assert_eq!(lab.engine().list().await.unwrap(), []);
}

async fn a_name_is_not_used_twice(lab: &impl Lab) {
    let order = lab.order("f", &[]).await;
    let first = lab.engine().start(order.clone()).await.unwrap();
    let error = lab.engine().start(order).await.unwrap_err();
    assert!(matches!(&error, EngineError::Refused(text) if text.contains("is taken")), "{error}");
    assert_eq!(lab.engine().list().await.unwrap(), [first], "the first one is untouched");
}

async fn a_start_goes_on_when_its_caller_leaves(lab: &impl Lab) {
    let (engine, order) = (lab.engine(), lab.order("f", &[]).await);
    let start = engine.start(order.clone());
    // Polled once and dropped.
    assert!(timeout(Duration::ZERO, start).await.is_err());
    let appears = async {
        loop {
            let listed = engine.list().await.unwrap();
            if listed.iter().any(|replica| replica.replica == order.replica && replica.is_running) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, appears).await.expect("the start is finished");
}

async fn a_missing_image_is_named(lab: &impl Lab) {
    for reference in ["127.0.0.1:1/no/such:v9", "UPPER/case", "a b", "../x", ""] {
        for policy in [PullPolicy::Missing, PullPolicy::Always] {
            let error = lab.engine().image(reference, policy).await.unwrap_err();
            assert!(
                matches!(&error, EngineError::ImageUnavailable { reference: named, .. } if named == reference),
                "{error:?}"
            );
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
}

async fn a_present_image_needs_no_registry(lab: &impl Lab) {
    for policy in [PullPolicy::Missing, PullPolicy::Always] {
        let image = lab.engine().image(&lab.present(), policy).await.unwrap();
        assert_eq!(image.reference, lab.present());
        assert!(image.id.starts_with("sha256:") && image.digest.is_none(), "{image:?}");
        assert_eq!(
            (image.entrypoint, image.command),
            (vec!["/server".to_owned()], vec!["a".to_owned(), "b c".to_owned()])
        );
        assert_eq!(image.user, "1000:1000");
        assert!(
            image.env.contains(&("FROM_IMAGE".to_owned(), "yes".to_owned())),
            "{:?}",
            image.env
        );
    }
}

async fn stopping_what_is_not_there_is_fine(lab: &impl Lab) {
    let engine = lab.engine();
    engine.stop(&ContainerId("0123456789ab".repeat(5)), GRACE).await.unwrap();
    let started = engine.start(lab.order("f", &[]).await).await.unwrap();
    let (first, second) = tokio::join!(
        engine.stop(&started.container, GRACE),
        engine.stop(&started.container, GRACE)
    );
    first.and(second).unwrap();
    engine.stop(&started.container, GRACE).await.unwrap();
    assert_eq!(engine.list().await.unwrap(), []);
}

async fn a_polite_container_ends_before_its_grace(lab: &impl Lab) {
    let engine = lab.engine();
    let started = engine.start(lab.order("f", &[]).await).await.unwrap();
    lines_until(&*engine, &started, "ready").await;
    let began = Instant::now();
    engine.stop(&started.container, PATIENCE).await.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(engine.list().await.unwrap(), []);
}

async fn a_stubborn_container_is_killed_after_its_grace(lab: &impl Lab) {
    let engine = lab.engine();
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    let started = engine.start(lab.order("f", &[("STUBBORN", "1")]).await).await.unwrap();
    lines_until(&*engine, &started, "ready").await;
    let began = Instant::now();
    engine.stop(&started.container, Duration::from_secs(1)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    assert_eq!(
        next(&mut events).await,
        EngineEvent::Died { container: started.container.clone(), exit_code: 137 }
    );
    assert_eq!(next(&mut events).await, EngineEvent::Removed { container: started.container });
}

async fn events_tell_who_died_and_was_removed(lab: &impl Lab) {
    let engine = lab.engine();
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    let crashed = engine.start(lab.order("f", &[]).await).await.unwrap();
    let snatched = engine.start(lab.order("g", &[]).await).await.unwrap();
    lab.crash(&crashed).await;
    assert_eq!(
        next(&mut events).await,
        EngineEvent::Died { container: crashed.container.clone(), exit_code: 137 }
    );
    let listed = engine.list().await.unwrap();
    let row = listed.iter().find(|row| row.container == crashed.container).unwrap();
    assert!(!row.is_running && row.address.is_none(), "{row:?}");
    lab.snatch(&snatched).await;
    assert_eq!(
        next(&mut events).await,
        EngineEvent::Died { container: snatched.container.clone(), exit_code: 137 }
    );
    assert_eq!(next(&mut events).await, EngineEvent::Removed { container: snatched.container });
    engine.stop(&crashed.container, GRACE).await.unwrap();
    assert_eq!(next(&mut events).await, EngineEvent::Removed { container: crashed.container });
}

async fn what_is_made_is_told_with_the_name_it_was_made_with(lab: &impl Lab) {
    let (engine, neighbour) = (lab.engine(), lab.neighbour());
    let mut events = engine.events();
    assert_eq!(any(&mut events).await, EngineEvent::Connected);
    neighbour.start(lab.order("g", &[]).await).await.unwrap();
    let replica = engine.start(lab.order("f", &[]).await).await.unwrap();
    let standby = engine.start_standby(standby_order()).await.unwrap();
    assert_eq!(
        any(&mut events).await,
        EngineEvent::Created {
            container: replica.container,
            name: replica.replica,
            function: Some(replica.function)
        }
    );
    assert_eq!(
        any(&mut events).await,
        EngineEvent::Created { container: standby.container, name: standby.name, function: None }
    );
}

async fn a_container_that_dies_at_once_is_told(lab: &impl Lab) {
    let engine = lab.engine();
    let mut events = engine.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    let started =
        engine.start(lab.order("f", &[("OUT", "cannot"), ("EXIT", "3")]).await).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        EngineEvent::Died { container: started.container.clone(), exit_code: 3 }
    );
    let lines: Vec<_> = engine.logs(&started.container, LogQuery::default()).collect().await;
    assert_eq!(lines.into_iter().map(|line| line.unwrap().text).collect::<Vec<_>>(), ["cannot"]);
}

async fn installations_do_not_see_each_other(lab: &impl Lab) {
    let (engine, neighbour) = (lab.engine(), lab.neighbour());
    let mut events = neighbour.events();
    assert_eq!(next(&mut events).await, EngineEvent::Connected);
    let mut order = lab.order("f", &[("SECRETS", "1")]).await;
    order.secrets = vec![secret("s", b"one's own")];
    let ours = engine.start(order).await.unwrap();
    let theirs = neighbour.start(lab.order("f", &[]).await).await.unwrap();
    assert_eq!(engine.list().await.unwrap(), std::slice::from_ref(&ours));
    assert_eq!(neighbour.list().await.unwrap(), std::slice::from_ref(&theirs));
    engine.stop(&ours.container, GRACE).await.unwrap();
    neighbour.collect_secrets(&[]).await.unwrap();
    assert_eq!(lab.secrets_kept().await, 1, "a neighbour collects only its own");
    neighbour.prepare().await.unwrap();
    neighbour.stop(&theirs.container, GRACE).await.unwrap();
    let EngineEvent::Died { container, .. } = next(&mut events).await else {
        panic!("not a death")
    };
    assert_eq!(container, theirs.container, "the other's end was not told here");
}

async fn logs_hold_both_streams_and_are_cut_as_asked(lab: &impl Lab) {
    let engine = lab.engine();
    let script = [("OUT", "one\ntwo\n\n  thrée "), ("ERR", "four")];
    let started = engine.start(lab.order("f", &script).await).await.unwrap();
    let read = async |query| -> Vec<_> {
        let lines: Vec<_> = engine.logs(&started.container, query).collect().await;
        lines.into_iter().map(Result::unwrap).collect()
    };
    let texts = |lines: &[hyperfaas_provider::engine::LogLine]| {
        lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>()
    };
    // Two pipes that the engine reads independently: what one says last may be kept before what the other has said first.
    let said = ["one", "two", "", "  thrée ", "ready"];
    let following = LogQuery { follow: true, ..LogQuery::default() };
    let whole = engine.logs(&started.container, following).take(said.len() + 1);
    timeout(PATIENCE, whole.for_each(async |line| drop(line.unwrap()))).await.expect("six lines");
    let all = read(LogQuery::default()).await;
    let (error, output): (Vec<_>, Vec<_>) =
        texts(&all).into_iter().partition(|text| text == "four");
    assert_eq!(
        (error.len(), output.iter().map(String::as_str).collect::<Vec<_>>()),
        (1, said.into())
    );
    assert_eq!(
        texts(&read(LogQuery { tail: Some(2), ..LogQuery::default() }).await),
        texts(&all[4..])
    );
    assert_eq!(read(LogQuery { tail: Some(0), ..LogQuery::default() }).await, []);
    assert_eq!(read(LogQuery { tail: Some(99), ..LogQuery::default() }).await, all);
    let since = all[5].timestamp;
    let expected: Vec<_> = all.iter().filter(|line| line.timestamp >= since).cloned().collect();
    assert_eq!(read(LogQuery { since: Some(since), ..LogQuery::default() }).await, expected);
    let later = since + Duration::from_secs(3600);
    assert_eq!(read(LogQuery { since: Some(later), ..LogQuery::default() }).await, []);
}

async fn following_ends_with_the_container(lab: &impl Lab) {
    let engine = lab.engine();
    let started =
        engine.start(lab.order("f", &[("OUT", "hello"), ("BYE", "good bye")]).await).await.unwrap();
    let follow = LogQuery { follow: true, tail: Some(10), since: None };
    let mut lines = engine.logs(&started.container, follow);
    for expected in ["hello", "ready"] {
        assert_eq!(timeout(PATIENCE, lines.next()).await.unwrap().unwrap().unwrap().text, expected);
    }
    assert!(
        timeout(Duration::from_millis(50), lines.next()).await.is_err(),
        "nothing was said since"
    );
    engine.stop(&started.container, GRACE).await.unwrap();
    let rest: Vec<_> =
        timeout(PATIENCE, lines.map(|line| line.unwrap().text).collect()).await.expect("it ends");
    assert_eq!(rest, ["good bye"]);
}

async fn logs_of_nobody_are_not_found(lab: &impl Lab) {
    let nobody = ContainerId("0123456789ab".repeat(5));
    let lines: Vec<_> = lab
        .engine()
        .logs(&nobody, LogQuery { follow: true, ..LogQuery::default() })
        .collect()
        .await;
    assert!(matches!(lines.as_slice(), [Err(EngineError::NotFound)]), "{lines:?}");
    assert!(matches!(lab.engine().usage(&nobody).await, Err(EngineError::NotFound)));
}

async fn usage_tells_busy_from_idle(lab: &impl Lab) {
    let engine = lab.engine();
    let idle = engine.start(lab.order("f", &[]).await).await.unwrap();
    let busy = engine.start(lab.order("g", &[("BURN", "1")]).await).await.unwrap();
    lines_until(&*engine, &idle, "ready").await;
    lines_until(&*engine, &busy, "ready").await;
    let (idle, busy) = tokio::join!(engine.usage(&idle.container), engine.usage(&busy.container));
    let (idle, busy) = (idle.unwrap(), busy.unwrap());
    // A busy machine gives the busy one less than a whole processor.
    assert!(busy.cpu_milli > 50.0 && busy.cpu_milli < 1500.0, "{busy:?}");
    assert!(idle.cpu_milli < busy.cpu_milli / 2.0, "{idle:?} {busy:?}");
    assert!((64 << 10..256 << 20).contains(&idle.memory_bytes), "{idle:?}");
}

async fn what_a_running_container_may_use_can_change(lab: &impl Lab) {
    let engine = lab.engine();
    let of = |milli: u64, mib: u64| Bounds {
        cpu: Some(Cpu(milli * 1_000_000)),
        memory: Some(Memory(mib << 20)),
    };
    let mut order = lab.order("f", &[]).await;
    order.limits = of(200, 32);
    let started = engine.start(order).await.unwrap();
    engine.update(&started.container, Bounds { memory: None, ..of(500, 0) }).await.unwrap();
    assert_eq!(lab.bounds(&started).await, of(500, 32), "what is not named stays");
    engine.update(&started.container, of(100, 64)).await.unwrap();
    assert_eq!(lab.bounds(&started).await, of(100, 64));
    assert!(engine.list().await.unwrap()[0].is_running);
    let nobody = ContainerId("0".repeat(64));
    let answer = engine.update(&nobody, of(100, 64)).await;
    assert!(matches!(answer, Err(EngineError::NotFound)), "{answer:?}");
}

async fn secrets_are_seen_to_the_byte_and_collected(lab: &impl Lab) {
    let engine = lab.engine();
    let mut order = lab.order("f", &[("SECRETS", "1")]).await;
    let every: Vec<u8> = (0..=255).collect();
    let long = format!("{}.z", "a".repeat(60));
    order.secrets =
        vec![secret("empty", b""), secret("every.byte", &every), secret(&long, b"line\n")];
    let started = engine.start(order.clone()).await.unwrap();
    let mut seen = lab.secrets_seen(&started).await;
    seen.sort();
    let mut expected = vec![
        ("empty".to_owned(), Vec::new()),
        ("every.byte".to_owned(), every),
        (long, b"line\n".to_vec()),
    ];
    expected.sort();
    assert_eq!(seen, expected);
    engine.collect_secrets(&[]).await.unwrap();
    assert_eq!(lab.secrets_kept().await, 1, "a running container keeps its secrets");
    engine.stop(&started.container, GRACE).await.unwrap();
    engine.collect_secrets(&[(function("f"), 7)]).await.unwrap();
    assert_eq!(lab.secrets_kept().await, 1, "a live revision at zero replicas keeps them too");
    engine.collect_secrets(&[(function("f"), 8), (function("g"), 7)]).await.unwrap();
    assert_eq!(lab.secrets_kept().await, 0);
    order = StartOrder { replica: lab.order("f", &[]).await.replica, ..order };
    let again = engine.start(order).await.unwrap();
    let mut seen = lab.secrets_seen(&again).await;
    seen.sort();
    assert_eq!(seen, expected, "collected secrets come back with the next start");
}

async fn new_bytes_of_a_secret_reach_the_next_replica_only(lab: &impl Lab) {
    let engine = lab.engine();
    let mut order = lab.order("f", &[("SECRETS", "1")]).await;
    order.secrets = vec![secret("password", b"old")];
    let old = engine.start(order.clone()).await.unwrap();
    order.replica = lab.order("f", &[]).await.replica;
    order.secrets = vec![secret("password", b"new")];
    let new = engine.start(order).await.unwrap();
    assert_eq!(lab.secrets_seen(&new).await, [("password".to_owned(), b"new".to_vec())]);
    engine.stop(&old.container, GRACE).await.unwrap();
    engine.collect_secrets(&[(function("f"), 7)]).await.unwrap();
    assert_eq!(lab.secrets_kept().await, 1);
}

/// The next event but for those of containers being made.
async fn next(events: &mut BoxStream<'static, EngineEvent>) -> EngineEvent {
    loop {
        match any(events).await {
            EngineEvent::Created { .. } => {}
            event => return event,
        }
    }
}

async fn any(events: &mut BoxStream<'static, EngineEvent>) -> EngineEvent {
    timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream never ends")
}
