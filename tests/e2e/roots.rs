//! Root file systems of real images, compared with what the engine itself says is in them.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::ContainerCreateBody;
use futures_util::TryStreamExt;
use hyperfaas_provider::engine::{Engine, PullPolicy};
use hyperfaas_provider::node::rootfs::Roots;
use tar::EntryType;

use crate::support::docker::Corner;
use crate::support::stack::probe_image;

/// Everything below `directory`, itself left out, relative to it.
fn walk(directory: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(directory).unwrap().to_owned());
        }
    }
    found
}

/// Asserts that `root` is what `archive` says, to the owner, mode, time and byte; the number of entries. Times from `began` on
/// are those of files that the engine makes for each container anew.
fn compare(root: &Path, archive: &[u8], began: i64) -> usize {
    let mut left = walk(root);
    let mut count = 0;
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let header = entry.header().clone();
        if matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
            continue;
        }
        count += 1;
        let file = root.join(&path).symlink_metadata().unwrap_or_else(|_| panic!("{path:?}"));
        left.remove(&path.components().collect::<PathBuf>());
        let owner = (u64::from(file.uid()), u64::from(file.gid()));
        assert_eq!(owner, (header.uid().unwrap(), header.gid().unwrap()), "{path:?}");
        if !file.is_symlink() {
            assert_eq!(file.mode() & 0o7777, header.mode().unwrap() & 0o7777, "{path:?}");
        }
        let time = i64::try_from(header.mtime().unwrap()).unwrap();
        if header.entry_type() != EntryType::Link && time < began {
            assert_eq!(file.mtime(), time, "{path:?}");
        }
        match header.entry_type() {
            EntryType::Directory => assert!(file.is_dir(), "{path:?}"),
            EntryType::Symlink => {
                let target = std::fs::read_link(root.join(&path)).unwrap();
                assert_eq!(target.as_os_str().as_bytes(), &*entry.link_name_bytes().unwrap());
            }
            EntryType::Link => {
                let other = root.join(entry.link_name().unwrap().unwrap());
                assert_eq!(file.ino(), other.symlink_metadata().unwrap().ino(), "{path:?}");
            }
            EntryType::Fifo => assert!(file.file_type().is_fifo(), "{path:?}"),
            _ => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                assert!(std::fs::read(root.join(&path)).unwrap() == content, "{path:?}");
            }
        }
    }
    assert_eq!(left, BTreeSet::new(), "nothing else is there");
    count
}

/// Further images, such as those of the samples, can be named in `HYPERFAAS_ROOT_IMAGES`, with blanks between them.
#[tokio::test]
async fn a_root_is_what_the_engine_says_is_in_the_image() {
    let corner = Corner::new().await;
    let engine: Arc<dyn Engine> = Arc::new(corner.engine(1));
    engine.prepare().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let began = state.path().metadata().unwrap().mtime();
    let roots = Roots::open(&state.path().join("rootfs"), 8 << 30).unwrap();
    let further = std::env::var("HYPERFAAS_ROOT_IMAGES").unwrap_or_default();
    let own = corner.image();
    for reference in [own.as_str(), probe_image()].into_iter().chain(further.split_whitespace()) {
        let image = engine.image(reference, PullPolicy::Missing).await.unwrap();
        let root = roots.ensure(&image, &engine).await.unwrap();
        let body = ContainerCreateBody {
            image: Some(image.id.clone()),
            entrypoint: Some(vec!["/never-started".to_owned()]),
            labels: Some(
                [("com.hyperfaas.installation".into(), format!("{}-1", corner.name))].into(),
            ),
            ..ContainerCreateBody::default()
        };
        let id = corner.docker.create_container(None, body).await.unwrap().id;
        let archive =
            corner.docker.export_container(&id).try_collect::<Vec<_>>().await.unwrap().concat();
        let path = roots.directory().join(root.id().as_str()).join("root");
        let count = compare(&path, &archive, began);
        println!(
            "{reference}: {count} entries, {} bytes, {:?}",
            root.facts().bytes,
            root.facts().user
        );
    }
}
