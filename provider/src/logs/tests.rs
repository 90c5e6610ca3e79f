//! Claims about a function's log, on the simulated engine.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hyperfaas_protocol::Namespace;
use hyperfaas_protocol::control::{Boot, CONTROL_PORT, FUNCTION_PORT, LINK_VERSION};
use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_protocol::openfaas::FunctionDeployment;
use tempfile::TempDir;

use super::*;
use crate::catalog::CatalogSettings;
use crate::engine::sim::{SimEngine, SimHost};
use crate::engine::{Bounds, Image, StartOrder};
use crate::scheduler::Grant;
use crate::spec::FunctionSpec;

struct World {
    sources: Sources,
    host: SimHost,
    key: FunctionKey,
    _state: TempDir,
}

impl World {
    async fn new() -> Self {
        let state = TempDir::new().unwrap();
        let default_namespace = Namespace::parse("openfaas-fn").unwrap();
        let settings = CatalogSettings {
            state_dir: state.path().to_owned(),
            default_namespace: default_namespace.clone(),
            max_replicas: 10,
        };
        let catalog = Catalog::open(&settings).unwrap();
        let deployment = FunctionDeployment {
            service: "fn1".into(),
            image: "a/b:c".into(),
            ..FunctionDeployment::default()
        };
        let spec = FunctionSpec::parse(deployment, &default_namespace).unwrap();
        let key = spec.key.clone();
        catalog.create(spec).await.unwrap();
        let host = SimHost::default();
        host.add_image(image());
        let engine = Arc::new(SimEngine::new(&host, "test"));
        let sources = Sources { catalog: Arc::new(catalog), cluster: Arc::default(), engine };
        Self { sources, host, key, _state: state }
    }

    /// A running replica that the cluster knows.
    async fn replica(&self, name: &str) -> ContainerId {
        let order = StartOrder {
            replica: ReplicaId(name.into()),
            function: self.key.clone(),
            revision: 1,
            image: image(),
            kind: FunctionKind::Watchdog,
            env: Vec::new(),
            boot: boot(),
            limits: Bounds::default(),
            requests: Bounds::default(),
            read_only_root: false,
            secrets: Vec::new(),
        };
        let observed = self.sources.engine.start(order).await.unwrap();
        self.sources.cluster.adopt(&observed, Grant::default(), Moment::ZERO);
        observed.container
    }

    fn leave(&self, container: &ContainerId) {
        self.host.remove(container);
        self.sources.cluster.removed(container);
    }

    async fn open(&self, change: impl FnOnce(&mut LogRequest)) -> BoxStream<'static, LogMessage> {
        let mut request = LogRequest {
            key: self.key.clone(),
            instance: None,
            follow: false,
            tail: None,
            since: None,
        };
        change(&mut request);
        open(self.sources.clone(), request).await.unwrap().boxed()
    }

    async fn texts(&self, change: impl FnOnce(&mut LogRequest)) -> Vec<String> {
        self.open(change).await.map(|message| message.text).collect().await
    }
}

fn image() -> Image {
    Image {
        reference: "a/b:c".into(),
        id: "sha256:1".into(),
        digest: None,
        env: Vec::new(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: String::new(),
        directory: String::new(),
    }
}

fn boot() -> Boot {
    Boot {
        version: LINK_VERSION,
        key: "k".into(),
        control_port: CONTROL_PORT,
        http_port: FUNCTION_PORT,
        kind: FunctionKind::Watchdog,
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: String::new(),
        has_home: false,
        is_standby: false,
        in_flight_max: None,
    }
}

async fn next(lines: &mut BoxStream<'static, LogMessage>) -> (String, String) {
    let message = timeout(Duration::from_secs(10), lines.next())
        .await
        .expect("a line in time")
        .expect("no end");
    (message.instance, message.text)
}

#[tokio::test]
async fn what_there_is_comes_merged_by_time_with_all_its_names() {
    let world = World::new().await;
    let (a, b) = (world.replica("a").await, world.replica("b").await);
    for (container, text) in [(&a, "1"), (&b, "2"), (&b, "3"), (&a, "4")] {
        world.host.say(container, text);
    }
    let messages: Vec<_> = world.open(|_| ()).await.collect().await;
    let seen: Vec<_> = messages.iter().map(|m| (m.instance.as_str(), m.text.as_str())).collect();
    assert_eq!(seen, [("a", "1"), ("b", "2"), ("b", "3"), ("a", "4")]);
    assert!(messages.iter().all(|m| m.name == "fn1" && m.namespace == "openfaas-fn"));
    assert!(messages.is_sorted_by_key(|m| m.timestamp));
}

#[tokio::test]
async fn a_tail_is_cut_over_all_replicas_together() {
    let world = World::new().await;
    let (a, b) = (world.replica("a").await, world.replica("b").await);
    for (container, text) in [(&a, "1"), (&a, "2"), (&b, "3"), (&a, "4")] {
        world.host.say(container, text);
    }
    assert_eq!(world.texts(|request| request.tail = Some(2)).await, ["3", "4"]);
    assert_eq!(world.texts(|request| request.tail = Some(u64::MAX)).await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn one_replica_or_a_time_can_be_asked_for() {
    let world = World::new().await;
    let (a, b) = (world.replica("a").await, world.replica("b").await);
    world.host.say(&a, "1");
    world.host.say(&b, "2");
    world.host.say(&a, "3");
    assert_eq!(world.texts(|request| request.instance = Some("a".into())).await, ["1", "3"]);
    assert_eq!(
        world.texts(|request| request.instance = Some("c".into())).await,
        Vec::<String>::new()
    );
    let all: Vec<_> = world.open(|_| ()).await.collect().await;
    assert_eq!(world.texts(|request| request.since = Some(all[1].timestamp)).await, ["2", "3"]);
}

#[tokio::test]
async fn a_follower_sees_each_line_once_and_new_replicas_too() {
    let world = World::new().await;
    let a = world.replica("a").await;
    world.host.say(&a, "before");
    let mut lines = world.open(|request| request.follow = true).await;
    assert_eq!(next(&mut lines).await, ("a".into(), "before".into()));
    world.host.say(&a, "after");
    assert_eq!(next(&mut lines).await, ("a".into(), "after".into()));
    let b = world.replica("b").await;
    world.host.say(&b, "joined");
    assert_eq!(next(&mut lines).await, ("b".into(), "joined".into()));
    world.leave(&a);
    world.host.say(&b, "still here");
    assert_eq!(next(&mut lines).await, ("b".into(), "still here".into()));
}

#[tokio::test]
async fn a_follower_of_nothing_waits_for_the_first_replica() {
    let world = World::new().await;
    let mut lines = world.open(|request| request.follow = true).await;
    let a = world.replica("a").await;
    world.host.say(&a, "first");
    assert_eq!(next(&mut lines).await, ("a".into(), "first".into()));
}

#[tokio::test]
async fn following_ends_when_the_function_is_gone_and_all_its_lines_are_read() {
    let world = World::new().await;
    let a = world.replica("a").await;
    let mut lines = world.open(|request| request.follow = true).await;
    world.sources.catalog.delete(world.key.clone()).await.unwrap();
    world.host.say(&a, "last words");
    assert_eq!(next(&mut lines).await, ("a".into(), "last words".into()));
    world.leave(&a);
    let end = timeout(Duration::from_secs(10), lines.next()).await.expect("an end in time");
    assert_eq!(end, None);
}

#[tokio::test]
async fn following_ends_when_a_function_without_replicas_goes() {
    let world = World::new().await;
    let mut lines = world.open(|request| request.follow = true).await;
    let deletion = async { world.sources.catalog.delete(world.key.clone()).await.unwrap() };
    let (end, ()) = tokio::join!(timeout(Duration::from_secs(10), lines.next()), deletion);
    assert_eq!(end.expect("an end in time"), None);
}

#[tokio::test]
async fn an_engine_that_is_away_is_an_error_and_a_replica_that_left_is_not() {
    let world = World::new().await;
    let (a, b) = (world.replica("a").await, world.replica("b").await);
    world.host.say(&b, "here");
    world.host.remove(&a);
    assert_eq!(world.texts(|_| ()).await, ["here"]);
    world.host.go_away("restarting");
    let request = LogRequest {
        key: world.key.clone(),
        instance: None,
        follow: false,
        tail: None,
        since: None,
    };
    assert!(matches!(open(world.sources.clone(), request).await.err(), Some(LogError::Engine(_))));
}

#[test]
fn a_log_opened_anew_shows_nothing_twice_also_among_lines_of_one_time() {
    let at = |nanos| Timestamp::from_nanosecond(nanos).unwrap();
    let mut position = Position::default();
    for time in [1, 2, 2] {
        position.advance(at(time));
    }
    let mut replay = Replay(position);
    let again: Vec<_> =
        [1, 2, 2, 2, 3].into_iter().filter(|time| !replay.was_read(at(*time))).collect();
    assert_eq!(again, [2, 3]);
    let mut fresh = Replay(Position::default());
    assert!(!fresh.was_read(at(1)));
}
