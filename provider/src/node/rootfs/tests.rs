//! Roots over a simulated engine: made once, whole or not at all, within their budget.

use std::time::Duration;

use crate::engine::sim::{SimEngine, SimHost};
use crate::engine::{Engine, Image};

use super::*;

fn image(number: u8, user: &str) -> Image {
    Image {
        reference: format!("functions/f{number}:v1"),
        id: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        digest: None,
        env: Vec::new(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: user.into(),
        directory: String::new(),
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Place {
    host: SimHost,
    engine: Arc<dyn Engine>,
    state: tempfile::TempDir,
}

impl Place {
    /// A host with images 1 to 4, whose roots take some 100 KiB each.
    fn new() -> Self {
        let host = SimHost::default();
        for number in 1..=4 {
            let image = image(number, "app");
            host.add_archive(
                &image.id,
                archive(&[
                    ("etc/passwd", b"app:x:7:8::/home/app:/bin/sh\n"),
                    ("large", &[number; 100 << 10]),
                ]),
            );
            host.add_image(image);
        }
        let engine = Arc::new(SimEngine::new(&host, "one"));
        Self { host, engine, state: tempfile::tempdir().unwrap() }
    }

    fn open(&self, budget: u64) -> Roots {
        Roots::open(&self.state.path().join("rootfs"), budget).unwrap()
    }

    async fn ensure(&self, roots: &Roots, number: u8) -> Result<Root, RootError> {
        roots.ensure(&image(number, "app"), &self.engine).await
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.state.path().join("rootfs")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn id(number: u8) -> RootId {
    RootId::parse(&image(number, "").id).unwrap()
}

#[test]
fn only_content_ids_become_file_names() {
    assert!(RootId::parse(&format!("sha256:{}", "a1".repeat(32))).is_some());
    for text in [
        "",
        "sha256:",
        "sha256:../../../../etc",
        &"A1".repeat(32),
        &"a1".repeat(31),
        &"a1".repeat(33),
    ] {
        assert_eq!(RootId::parse(text), None, "{text}");
    }
}

#[tokio::test]
async fn a_root_is_made_once_and_found_again() {
    let place = Place::new();
    let roots = place.open(1 << 30);
    assert_eq!(roots.status(&id(1)), Status::Absent);
    let (one, other) = tokio::join!(place.ensure(&roots, 1), place.ensure(&roots, 1));
    let root = one.unwrap();
    assert_eq!(other.unwrap().id(), root.id());
    let user = root.facts().user.clone().unwrap();
    assert_eq!((user.uid, user.gid, user.home.as_str()), (7, 8, "/home/app"));
    let file = roots.directory().join(id(1).as_str()).join("root/large");
    assert_eq!(std::fs::read(file).unwrap(), [1; 100 << 10]);
    assert_eq!(place.names(), [id(1).as_str()]);
    let bytes = roots.bytes();
    assert!((100 << 10..120 << 10).contains(&bytes), "{bytes}");
    // The engine is not asked again, by this run or the next.
    place.host.go_away("not needed");
    assert!(place.ensure(&roots, 1).await.is_ok());
    let next = place.open(1 << 30);
    assert_eq!(next.hold(&id(1)).unwrap().facts(), root.facts());
    assert_eq!((next.status(&id(1)), next.bytes()), (Status::Ready { bytes }, bytes));
}

#[tokio::test]
async fn what_a_crash_leaves_is_swept_and_never_used() {
    let place = Place::new();
    drop(place.ensure(&place.open(1 << 30), 1).await.unwrap());
    let rootfs = place.state.path().join("rootfs");
    // Killed while unpacking, while removing, between the two writes, and by a disk that lost one.
    std::fs::create_dir_all(rootfs.join(".new-1/root/etc")).unwrap();
    std::fs::create_dir_all(rootfs.join(".gone-1/root")).unwrap();
    std::fs::create_dir_all(rootfs.join(id(2).as_str()).join("root")).unwrap();
    std::fs::create_dir_all(rootfs.join(id(3).as_str())).unwrap();
    std::fs::write(rootfs.join(id(3).as_str()).join("root.json"), "{").unwrap();
    let roots = place.open(1 << 30);
    assert!(roots.hold(&id(1)).is_some());
    assert!(roots.hold(&id(2)).is_none() && roots.hold(&id(3)).is_none());
    let swept = async {
        while place.names() != [id(1).as_str()] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), swept).await.expect("remains are removed");
    assert!(place.ensure(&roots, 2).await.is_ok());
}

#[tokio::test]
async fn the_longest_unused_root_makes_room_and_a_held_one_never() {
    let place = Place::new();
    let roots = place.open(350 << 10);
    let held = place.ensure(&roots, 1).await.unwrap();
    drop(place.ensure(&roots, 2).await.unwrap());
    drop(place.ensure(&roots, 3).await.unwrap());
    drop(roots.hold(&id(2)).unwrap());
    drop(place.ensure(&roots, 4).await.unwrap());
    assert_eq!(roots.status(&id(3)), Status::Absent, "2 was used after it");
    let all = [1, 2, 4].map(|number| roots.hold(&id(number)).expect("still there"));
    assert!(roots.bytes() <= 350 << 10);
    let error = place.ensure(&roots, 3).await.unwrap_err();
    assert!(error.to_string().contains("budget"), "{error}");
    assert!(matches!(roots.status(&id(3)), Status::Failed { .. }));
    assert_eq!(place.names().len(), 3, "nothing of the failed one is left");
    drop((held, all));
    assert!(place.ensure(&roots, 3).await.is_ok());
    assert!(matches!(roots.status(&id(3)), Status::Ready { .. }));
}

#[tokio::test]
async fn collecting_spares_what_is_live_or_held() {
    let place = Place::new();
    let roots = place.open(1 << 30);
    let held = place.ensure(&roots, 1).await.unwrap();
    drop(place.ensure(&roots, 2).await.unwrap());
    drop(place.ensure(&roots, 3).await.unwrap());
    assert_eq!(roots.collect(HashSet::from([id(2)])).await, 1);
    assert_eq!(place.names(), [id(1).as_str(), id(2).as_str()]);
    assert!(roots.directory().join(held.id().as_str()).join("root/large").exists());
    drop(held);
    assert_eq!(roots.collect(HashSet::new()).await, 2);
    assert_eq!((place.names().len(), roots.bytes()), (0, 0));
    assert_eq!(roots.summary(), Summary::default());
}

#[tokio::test]
async fn a_broken_export_leaves_nothing_and_is_told() {
    let place = Place::new();
    let roots = place.open(1 << 30);
    let whole = archive(&[("large", &[1; 300 << 10])]);
    place.host.add_archive(&image(1, "").id, whole[..200 << 10].to_vec());
    let error = place.ensure(&roots, 1).await.unwrap_err();
    assert!(matches!(error, RootError::Unpack(_)), "{error}");
    assert_eq!((place.names().len(), roots.bytes()), (0, 0));
    let mut gone = image(2, "");
    gone.id = format!("sha256:{}", "9".repeat(64));
    let error = roots.ensure(&gone, &place.engine).await.unwrap_err();
    assert!(matches!(error, RootError::Engine(_)), "{error}");
    gone.id = "sha256:short".into();
    assert!(matches!(roots.ensure(&gone, &place.engine).await, Err(RootError::Id(_))));
    assert_eq!(roots.summary().failed, 2);
}

#[tokio::test]
async fn a_making_goes_on_when_its_caller_leaves() {
    let place = Place::new();
    let roots = place.open(1 << 30);
    let (image, engine) = (image(1, "app"), Arc::clone(&place.engine));
    {
        let mut leaving = Box::pin(roots.ensure(&image, &engine));
        let first = std::future::poll_fn(|context| {
            std::task::Poll::Ready(leaving.as_mut().poll(context).is_pending())
        });
        assert!(first.await, "it takes longer than one look");
    }
    assert!(!matches!(roots.status(&id(1)), Status::Absent));
    assert!(place.ensure(&roots, 1).await.is_ok());
}
