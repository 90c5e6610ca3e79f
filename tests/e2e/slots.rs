//! Slots in real containers of a real engine: what a guest sees, that nothing stays, what is said when a right is missing.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyperfaas_protocol::SecretName;
use hyperfaas_provider::engine::docker::DockerEngine;
use hyperfaas_provider::engine::{Engine, Image, PullPolicy, SecretFile, Standby};
use hyperfaas_provider::node::rights;
use hyperfaas_provider::node::rootfs::{Root, Roots};
use hyperfaas_provider::node::slot::{
    Exchange, Identity, SlotError, SlotName, SlotOrder, Slots, Target,
};
use tokio::time::Instant;

use crate::support::docker::{Corner, standby_order};

/// The guest's number, as no image has it.
const GUEST: Identity = Identity { uid: 200_007, gid: 200_007 };

/// A corner with a running standby container and the root of the corner's image.
pub(super) struct Bench {
    corner: Corner,
    engine: Arc<DockerEngine>,
    pub(super) roots: Roots,
    pub(super) slots: Slots,
    pub(super) image: Image,
    pub(super) root: Root,
    pub(super) standby: Standby,
    pub(super) target: Target,
    _state: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let corner = Corner::new().await;
        let engine = Arc::new(corner.engine(1));
        Self::with(corner, engine).await
    }

    /// With an engine of the caller's making.
    pub(super) async fn with(corner: Corner, engine: Arc<DockerEngine>) -> Self {
        engine.prepare().await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let roots = Roots::open(&state.path().join("rootfs"), 1 << 30).unwrap();
        let (slots, ability) = rights::slots(&roots).await;
        let slots = slots.unwrap_or_else(|| {
            panic!("slots are {ability}; run these tests as root of the engine's host")
        });
        let image = engine.image(&corner.image(), PullPolicy::Missing).await.unwrap();
        let shared: Arc<dyn Engine> = Arc::clone(&engine) as Arc<dyn Engine>;
        let root = roots.ensure(&image, &shared).await.unwrap();
        let standby = engine.start_standby(standby_order()).await.unwrap();
        let pid = engine.process(&standby.container).await.unwrap();
        let target = Target { container: standby.container.clone(), pid };
        Self { corner, engine, roots, slots, image, root, standby, target, _state: state }
    }

    pub(super) fn order(&self, name: &str) -> SlotOrder {
        let user = self.root.facts().user.clone().expect("the image has a user");
        SlotOrder {
            name: SlotName::parse(name).unwrap(),
            root: self.root.clone(),
            exchange: Exchange { from: Identity { uid: user.uid, gid: user.gid }, to: GUEST },
            directory: "/srv".into(),
            read_only: false,
            size_bytes: 8 << 20,
            files_max: 4096,
            secrets: vec![SecretFile {
                name: SecretName::parse("key").unwrap(),
                bytes: Bytes::from_static(b"of this function"),
            }],
        }
    }

    /// A path of the slot, seen from here.
    fn inside(&self, name: &SlotName, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/{path}", self.target.pid, name.path()))
    }

    pub(super) fn mounts(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.target.pid)).unwrap()
    }
}

/// Runs the corner's stand-in as a guest in a slot: in the container's namespaces, with the slot as its root and the guest's
/// user; what it says.
fn run_as_guest(bench: &Bench, name: &SlotName, script: &[(&str, &str)]) -> Vec<String> {
    let mut guest = Command::new("nsenter");
    guest
        .arg(format!("--target={}", bench.target.pid))
        .args(["--mount", "--pid", "--net", "--uts"])
        .arg(format!("--root=/proc/{}/root{}", bench.target.pid, name.path()))
        .arg("--wdns=/srv")
        .arg(format!("--setuid={}", GUEST.uid))
        .arg(format!("--setgid={}", GUEST.gid))
        .args(["--", "/server"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (key, value) in script {
        guest.env(format!("STAND_IN_{key}"), value);
    }
    let output = guest.env("STAND_IN_EXIT", "0").output().expect("nsenter is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_guest_sees_its_image_its_secrets_and_nobody_else() {
    let bench = Bench::new().await;
    let order = bench.order("1-7");
    bench.slots.prepare(&bench.target, order.clone()).await.unwrap();
    let lines =
        run_as_guest(&bench, &order.name, &[("FACTS", "1"), ("SECRETS", "1"), ("SLOT", "1")]);
    let host = format!("host {}", &bench.target.container.0[..12]);
    for expected in [
        "Uid: 200007 200007 200007 200007",
        "dir /srv",
        "tmp writable true",
        "root writable false",
        "secret key 444 6f6620746869732066756e6374696f6e",
        "secrets writable false",
        &host,
        "own file writable true",
        "others' file readable true writable false",
        "processes of others 0",
        "kept out of /.hyperfaas true",
        "devices full null random tty urandom zero",
        "null works true",
        "shm writable true",
        "limited true",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is not in {lines:#?}");
    }
    let image = bench.roots.directory().join(bench.root.id().as_str()).join("root");
    assert_eq!(
        std::fs::read(image.join("srv/own")).unwrap(),
        b"it\n",
        "the image's root is never written"
    );
}

#[tokio::test]
async fn a_read_only_slot_has_a_writable_tmp_alone() {
    let bench = Bench::new().await;
    let order = SlotOrder { read_only: true, secrets: Vec::new(), ..bench.order("1-8") };
    bench.slots.prepare(&bench.target, order.clone()).await.unwrap();
    let lines = run_as_guest(&bench, &order.name, &[("FACTS", "1"), ("SLOT", "1")]);
    for expected in
        ["root writable false", "tmp writable true", "own file writable false", "shm writable true"]
    {
        assert!(lines.iter().any(|line| line == expected), "{expected} is not in {lines:#?}");
    }
}

/// Mounts in the namespaces of this process's threads for slots.
fn staged() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let is_slots = |task: &PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "slots")
    };
    let mounts =
        |task: PathBuf| std::fs::read_to_string(task.join("mountinfo")).unwrap_or_default();
    tasks.filter(is_slots).map(|task| mounts(task).lines().count()).sum()
}

/// Children of this process, ended ones that nobody has waited for included.
fn children() -> usize {
    let parent = format!("PPid:\t{}", std::process::id());
    let is_child = |entry: &std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line == parent)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(is_child).count()
}

#[tokio::test]
async fn nothing_is_left_of_a_slot_after_many_rounds() {
    let bench = Bench::new().await;
    let rounds: u64 = crate::support::number("HYPERFAAS_SLOT_ROUNDS", 200);
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let before = bench.mounts();
    let warm = bench.order("0-1");
    bench.slots.prepare(&bench.target, warm.clone()).await.unwrap();
    bench.slots.remove(&bench.target, &warm.name).await.unwrap();
    assert_eq!(bench.mounts(), before);
    let (descriptors, tasks, staged_before) =
        (count("/proc/self/fd"), count("/proc/self/task"), staged());
    let (mut made, mut removed) = (Vec::new(), Vec::new());
    for epoch in 0..rounds {
        let name = SlotName::of(1, epoch);
        // Each for a user of its own, as the scheduler gives them.
        let mut order = SlotOrder { name: name.clone(), ..bench.order("x") };
        let number = 300_000 + u32::try_from(epoch).unwrap();
        order.exchange.to = Identity { uid: number, gid: number };
        let began = Instant::now();
        bench.slots.prepare(&bench.target, order).await.unwrap();
        made.push(began.elapsed());
        std::fs::write(bench.inside(&name, "tmp/left"), "behind").unwrap();
        let began = Instant::now();
        bench.slots.remove(&bench.target, &name).await.unwrap();
        removed.push(began.elapsed());
    }
    assert_eq!(bench.mounts(), before, "the container's mount table is as it was");
    assert_eq!(count(&format!("/proc/{}/root/.hyperfaas/slots", bench.target.pid)), 0);
    // Other tests of this process come and go meanwhile; what leaked in each round would be more than they have.
    // A few namespaces for users are kept.
    let most = usize::try_from(rounds / 2).unwrap() + 32;
    assert!(count("/proc/self/fd") < descriptors + most, "descriptors");
    assert!(count("/proc/self/task") < tasks + most, "threads");
    assert!(staged() < staged_before + most, "mounts where slots are put together");
    assert!(children() < most, "children");
    assert_eq!(
        bench.roots.collect(std::collections::HashSet::new()).await,
        0,
        "the test holds the root"
    );
    made.sort();
    removed.sort();
    let at = |times: &[Duration], percent| times[times.len() * percent / 100];
    println!(
        "{rounds} rounds: made in {:?} median, {:?} p90; removed in {:?} median, {:?} p90",
        at(&made, 50),
        at(&made, 90),
        at(&removed, 50),
        at(&removed, 90),
    );
}

#[tokio::test]
async fn slots_outlive_their_provider_and_hold_their_roots() {
    let bench = Bench::new().await;
    let (one, two) = (bench.order("0-1"), bench.order("1-2"));
    bench.slots.prepare(&bench.target, one.clone()).await.unwrap();
    bench.slots.prepare(&bench.target, two.clone()).await.unwrap();
    let again = bench.slots.prepare(&bench.target, one.clone()).await.unwrap_err();
    assert!(matches!(again, SlotError::Taken(_)), "{again}");
    let Bench { corner: _corner, engine, roots, slots, root, image: _, standby, target, _state } =
        bench;
    let id = root.id().clone();
    drop((one.root, two.root, root, slots, roots));
    // A provider that starts anew on the same state.
    let roots = Roots::open(&_state.path().join("rootfs"), 1 << 30).unwrap();
    let slots = Slots::start(&roots).unwrap();
    let found = slots.adopt(&target, &roots).await.unwrap();
    let names: Vec<_> = found.iter().map(|slot| slot.name.as_str()).collect();
    assert_eq!(names, ["0-1", "1-2"]);
    assert!(found.iter().all(|slot| slot.root.as_ref() == Some(&id)));
    assert_eq!(roots.collect(std::collections::HashSet::new()).await, 0, "in use");
    slots.remove(&target, &two.name).await.unwrap();
    slots.remove(&target, &two.name).await.expect("what is not there is removed");
    assert_eq!(roots.collect(std::collections::HashSet::new()).await, 0, "still in use");
    engine.stop(&standby.container, Duration::from_secs(5)).await.unwrap();
    let gone = slots.prepare(&target, SlotOrder { root: roots.hold(&id).unwrap(), ..two }).await;
    assert!(matches!(gone.unwrap_err(), SlotError::Gone(_)));
    slots.remove(&target, &one.name).await.expect("gone with its container");
    assert_eq!(roots.collect(std::collections::HashSet::new()).await, 1);
}

#[tokio::test]
async fn a_process_that_is_not_the_containers_is_left_alone() {
    let bench = Bench::new().await;
    let wrong = Target { pid: std::process::id(), ..bench.target.clone() };
    let error = bench.slots.prepare(&wrong, bench.order("1-1")).await.unwrap_err();
    assert!(matches!(error, SlotError::Gone(_)), "{error}");
    assert!(error.to_string().contains("does not see the host's processes"));
    // Other tests' containers come and go in this table.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/.hyperfaas/slots/"), "{mounts}");
}

#[tokio::test]
async fn a_failed_slot_leaves_nothing() {
    let bench = Bench::new().await;
    let before = bench.mounts();
    let tight = SlotOrder { files_max: 4, ..bench.order("1-1") };
    let error = bench.slots.prepare(&bench.target, tight).await.unwrap_err();
    assert!(matches!(error, SlotError::Failed(_)), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
    assert_eq!(bench.mounts(), before);
    bench.slots.prepare(&bench.target, bench.order("1-1")).await.expect("the next one is fine");
}
