//! Puts files into volumes through the engine's API alone, so no path of the host is needed.
//!
//! A container that is never started mounts the volume; the engine unpacks an archive into it. The container is made from
//! a blank image, imported from a tar of one directory, so nothing is pulled.
//! Always: a volume counts as filled only after what is in it was read back and compared; a crash in between leaves at
//! most a half-filled volume and a helper, both found at the next start.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ListContainersOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bollard::{Docker, body_full};
use bytes::Bytes;
use futures_util::StreamExt;
use uuid::Uuid;

use super::super::EngineError;
use super::connection::{CHANGE, READ, classify, status, within};
use super::labels::{self, Labels};
use super::replica::remove;

/// The blank image and its version; a new content gets a new number.
const BLANK: (&str, &str) = ("hyperfaas-blank", "1");
/// Where the helper mounts the volume.
const AT: &str = "/volume";

/// A volume's files: names, and modes with contents. All belong to root. A name that ends in `/` is an empty directory's.
pub(super) type Files = BTreeMap<String, (u32, Bytes)>;

/// A volume to be mounted read-only at `target`; made with `labels` should it be missing.
pub(super) fn mount(volume: &str, target: &str, labels: Labels, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some(labels),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// Makes sure that `volume` holds exactly `files`; returns whether it had to be filled.
pub(super) async fn ensure(
    docker: &Docker,
    volume: &str,
    labels: Labels,
    helper: Labels,
    files: &Files,
) -> Result<bool, EngineError> {
    if seen_by_users(docker, volume, files).await? {
        return Ok(false);
    }
    let request = VolumeCreateRequest {
        name: Some(volume.to_owned()),
        labels: Some(labels.clone()),
        ..VolumeCreateRequest::default()
    };
    within(CHANGE, docker.create_volume(request)).await.map_err(classify)?;
    with_helper(docker, volume, labels, helper, async |container| {
        if read(docker, container, AT, files).await? {
            return Ok(false);
        }
        write(docker, container, files).await?;
        if read(docker, container, AT, files).await? {
            return Ok(true);
        }
        Err(EngineError::Refused(format!("volume {volume} does not keep what is put into it")))
    })
    .await
}

/// Whether `volume`, which exists, holds exactly `files`.
pub(super) async fn holds(
    docker: &Docker,
    volume: &str,
    labels: Labels,
    helper: Labels,
    files: &Files,
) -> Result<bool, EngineError> {
    if seen_by_users(docker, volume, files).await? {
        return Ok(true);
    }
    with_helper(docker, volume, labels, helper, async |container| {
        read(docker, container, AT, files).await
    })
    .await
}

/// Whether a container that has `volume` mounted already sees exactly `files` there: a restart next to running containers
/// then costs no helper, which takes as long as a start.
async fn seen_by_users(docker: &Docker, volume: &str, files: &Files) -> Result<bool, EngineError> {
    let filters = HashMap::from([("volume".to_owned(), vec![volume.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let users = within(READ, docker.list_containers(Some(options))).await.map_err(classify)?;
    for user in users.into_iter().take(3) {
        let mounts = user.mounts.unwrap_or_default();
        let place = mounts.into_iter().find(|mount| mount.name.as_deref() == Some(volume));
        let place = place.and_then(|mount| mount.destination);
        if let (Some(id), Some(place)) = (user.id, place)
            && read(docker, &id, &place, files).await.unwrap_or(false)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs `work` with a container that has `volume` mounted, and removes the container afterwards.
async fn with_helper<T>(
    docker: &Docker,
    volume: &str,
    labels: Labels,
    helper: Labels,
    work: impl AsyncFnOnce(&str) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let name = format!("hyperfaas-fill-{}", Uuid::new_v4().simple());
    let body = ContainerCreateBody {
        image: Some(format!("{}:{}", BLANK.0, BLANK.1)),
        entrypoint: Some(vec!["/never-started".to_owned()]),
        labels: Some(helper),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            mounts: Some(vec![mount(volume, AT, labels, false)]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let create = || {
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        within(CHANGE, docker.create_container(Some(options), body.clone()))
    };
    let created = match create().await {
        Err(error) if status(&error) == Some(404) => {
            import_blank(docker).await?;
            create().await
        }
        other => other,
    };
    let result = match created {
        Ok(_) => work(&name).await,
        Err(error) => Err(classify(error)),
    };
    let removed = remove(docker, &name).await;
    result.and_then(|value| removed.map(|()| value))
}

/// Makes the blank image.
async fn import_blank(docker: &Docker) -> Result<(), EngineError> {
    import(docker, BLANK, ("volume/", 0o755)).await
}

/// Makes an image of one directory.
pub(super) async fn import(
    docker: &Docker,
    (name, version): (&str, &str),
    (directory, mode): (&str, u32),
) -> Result<(), EngineError> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, directory, tar::EntryType::Directory, mode, &[])?;
    let archive = archive.into_inner().map_err(unpackable)?;
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(version)
        .changes(vec![format!("LABEL {}=true", labels::MANAGED)])
        .build();
    let mut answers =
        Box::pin(docker.create_image(Some(options), Some(body_full(archive.into())), None));
    while let Some(answer) =
        within(CHANGE, async { Ok(answers.next().await) }).await.map_err(classify)?
    {
        answer.map_err(classify)?;
    }
    Ok(())
}

/// Whether `container` sees exactly `files` in the directory `place`.
async fn read(
    docker: &Docker,
    container: &str,
    place: &str,
    files: &Files,
) -> Result<bool, EngineError> {
    let options = DownloadFromContainerOptionsBuilder::default().path(place).build();
    let mut chunks = Box::pin(docker.download_from_container(container, Some(options)));
    let mut archive = Vec::new();
    while let Some(chunk) =
        within(READ, async { Ok(chunks.next().await) }).await.map_err(classify)?
    {
        archive.extend_from_slice(&chunk.map_err(classify)?);
        if archive.len() > size(files) {
            return Ok(false);
        }
    }
    Ok(is_archive_of(&archive, files).unwrap_or(false))
}

async fn write(docker: &Docker, container: &str, files: &Files) -> Result<(), EngineError> {
    let options = UploadToContainerOptionsBuilder::default().path(AT).build();
    let archive = pack(files)?;
    within(CHANGE, docker.upload_to_container(container, Some(options), body_full(archive.into())))
        .await
        .map_err(classify)
}

/// The most bytes an archive of `files` can have: blocks of 512, long names and time records, the end and its padding.
fn size(files: &Files) -> usize {
    files.iter().map(|(name, (_, bytes))| bytes.len() + name.len() + 8 * 512).sum::<usize>()
        + (32 << 10)
}

fn pack(files: &Files) -> Result<Vec<u8>, EngineError> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, (mode, bytes)) in files {
        let is_directory = name.ends_with('/');
        let kind = if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular };
        append(&mut archive, name, kind, *mode, bytes)?;
    }
    archive.into_inner().map_err(unpackable)
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
) -> Result<(), EngineError> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes).map_err(unpackable)
}

#[expect(clippy::needless_pass_by_value, reason = "used as map_err(unpackable)")]
fn unpackable(error: std::io::Error) -> EngineError {
    EngineError::Refused(format!("archive: {error}"))
}

/// Whether the regular files in an archive of one directory are exactly `files`; `None` when it cannot be read.
fn is_archive_of(archive: &[u8], files: &Files) -> Option<bool> {
    let mut same = 0;
    for entry in tar::Archive::new(archive).entries().ok()? {
        let entry = entry.ok()?;
        let path = entry.path().ok()?.to_str()?.to_owned();
        let name = path.split_once('/').map_or("", |(_, name)| name).trim_end_matches('/');
        match entry.header().entry_type() {
            tar::EntryType::Directory if name.is_empty() => {}
            tar::EntryType::Directory => {
                let mode = entry.header().mode().ok()? & 0o7777;
                if files.get(&format!("{name}/")).is_none_or(|(wanted, _)| *wanted != mode) {
                    return Some(false);
                }
                same += 1;
            }
            tar::EntryType::Regular => {
                let mode = entry.header().mode().ok()? & 0o7777;
                let start = usize::try_from(entry.raw_file_position()).ok()?;
                let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                let found = archive.get(start..end)?;
                if files.get(name).is_none_or(|(wanted, bytes)| *wanted != mode || bytes != found) {
                    return Some(false);
                }
                same += 1;
            }
            _ => return Some(false),
        }
    }
    Some(same == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_told_from_every_other() {
        let long = "a.".repeat(126) + "z";
        let files = Files::from([
            ("x".to_owned(), (0o444, Bytes::from_static(b"one\0two"))),
            (long, (0o755, Bytes::new())),
            ("directory/".to_owned(), (0o755, Bytes::new())),
        ]);
        let in_directory = |files: &Files| {
            let files = files.iter().map(|(name, file)| (format!("volume/{name}"), file.clone()));
            pack(&files.collect()).unwrap()
        };
        let archive = in_directory(&files);
        assert!(archive.len() <= size(&files));
        assert_eq!(is_archive_of(&archive, &files), Some(true));
        assert_ne!(is_archive_of(&archive[..700], &files), Some(true));
        assert_ne!(is_archive_of(&[], &files), Some(true));
        let changed = |change: &dyn Fn(&mut Files)| {
            let mut other = files.clone();
            change(&mut other);
            is_archive_of(&in_directory(&other), &files)
        };
        assert_eq!(changed(&|_| {}), Some(true));
        assert_eq!(changed(&|files| drop(files.remove("x"))), Some(false));
        assert_eq!(changed(&|files| drop(files.remove("directory/"))), Some(false));
        assert_eq!(
            changed(&|files| drop(files.insert("y".into(), (0o444, Bytes::new())))),
            Some(false)
        );
        assert_eq!(changed(&|files| files.get_mut("x").unwrap().0 = 0o644), Some(false));
        assert_eq!(
            changed(&|files| files.get_mut("x").unwrap().1 = Bytes::from_static(b"one\0twx")),
            Some(false)
        );
    }
}
