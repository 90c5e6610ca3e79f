//! An archive becomes a directory, without trusting a byte of it.
//!
//! In: a tar stream as engines export file systems. Out: files with owner, mode, times, links and capabilities kept.
//! Always: nothing outside the directory is touched: the kernel resolves each path beneath it and follows no link
//! (`openat2`), so neither `..`, nor absolute names, nor a link made by an earlier entry leads out. Devices are left out.
//! Of extended attributes, only capabilities and users' own are kept: others would steer an overlay, or a security module.
//! An archive that ends early is an error. Never more than one buffer of it is in memory.
//! Source: POSIX pax; `SCHILY.xattr.` records as Docker and GNU tar write them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::place::open_beneath;

/// Most files, directories and links of one archive: far beyond real images, far below what a file system has.
const ENTRIES_MAX: u64 = 4_000_000;
/// Bytes moved at a time; runs of zeros of this length become holes.
const BUFFER: usize = 128 << 10;
/// What the account of an entry counts beside its bytes: its place in a directory and its inode.
const ENTRY_BYTES: u64 = 512;
/// A file system's block, bytes.
const BLOCK: u64 = 4096;
/// The zeros that end an archive.
const END: u64 = 1024;
/// Before the name of an extended attribute in a record.
const XATTR: &str = "SCHILY.xattr.";

/// Why an archive did not become a directory.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A path that leads out, or through something that is no directory.
    #[error("archive entry \"{path}\" {why}")]
    Hostile {
        /// The entry, shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More entries than any image has.
    #[error("archive has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// It ended before its end.
    #[error("archive is incomplete")]
    Incomplete,
    /// There is no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// Reading or writing failed.
    #[error("\"{path}\": {source}")]
    Io {
        /// The entry being unpacked; empty between two.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// Files, directories and links.
    pub(super) entries: u64,
    /// Bytes on disk, roughly.
    pub(super) bytes: u64,
}

/// Unpacks `archive` into the empty directory `root`; `charge` is told of bytes before they are written and may refuse.
pub(super) fn unpack(
    archive: impl Read,
    root: BorrowedFd<'_>,
    charge: &mut dyn FnMut(u64) -> Result<(), UnpackError>,
) -> Result<Totals, UnpackError> {
    let mut archive = Archive::new(Tail { inner: archive, zeros: 0 });
    let mut unpacker = Unpacker {
        root,
        parent: None,
        times: BTreeMap::new(),
        totals: Totals::default(),
        charge,
        buffer: vec![0; BUFFER].into(),
    };
    let between = |source| UnpackError::Io { path: String::new(), source };
    for entry in archive.entries().map_err(between)? {
        unpacker.add(&mut entry.map_err(between)?)?;
    }
    unpacker.finish()?;
    let totals = unpacker.totals;
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(between)?;
    if rest.zeros < END { Err(UnpackError::Incomplete) } else { Ok(totals) }
}

/// Counts the zeros at the end of what was read.
struct Tail<R> {
    inner: R,
    zeros: u64,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let read = &buffer[..count];
        match read.iter().rposition(|byte| *byte != 0) {
            Some(last) => self.zeros = (count - last - 1) as u64,
            None => self.zeros += count as u64,
        }
        Ok(count)
    }
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    /// The directory of the entry before: entries come by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories' times, set last because what is put into a directory changes them.
    times: BTreeMap<PathBuf, u64>,
    totals: Totals,
    charge: &'a mut dyn FnMut(u64) -> Result<(), UnpackError>,
    buffer: Box<[u8]>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::Block | EntryType::Char) {
            return Ok(());
        }
        let given = entry.path_bytes().into_owned();
        let shown = shorten(&given);
        let path =
            inner_path(&given).map_err(|why| UnpackError::Hostile { path: shown.clone(), why })?;
        self.totals.entries += 1;
        if self.totals.entries > ENTRIES_MAX {
            return Err(UnpackError::TooMany);
        }
        let bytes =
            ENTRY_BYTES + if kind.is_file() { entry.size().div_ceil(BLOCK) * BLOCK } else { 0 };
        (self.charge)(bytes)?;
        self.totals.bytes += bytes;
        self.place(entry, kind, &path).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => UnpackError::Hostile {
                path: shown,
                why: "leads through something that is no directory",
            },
            _ => UnpackError::Io { path: shown, source },
        })
    }

    fn place<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: &Path,
    ) -> io::Result<()> {
        let Some(name) = path.file_name() else { return self.dress_root(entry) };
        let name = Path::new(name);
        let parent = self.parent_of(path)?;
        match kind {
            EntryType::Directory => self.directory(entry, path, parent.as_fd(), name)?,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                replacing(parent.as_fd(), name, || rustix::fs::symlinkat(&*target, &parent, name))?;
                dress_at(entry, parent.as_fd(), name, true)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = inner_path(&target).map_err(io::Error::other)?;
                let old = open_beneath(self.root, directory_of(&target))?;
                let old_name = target.file_name().unwrap_or_default();
                let link = || rustix::fs::linkat(&old, old_name, &parent, name, AtFlags::empty());
                replacing(parent.as_fd(), name, link)?;
            }
            EntryType::Fifo => {
                let make = || {
                    let mode = Mode::from_raw_mode(0o600);
                    rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0)
                };
                replacing(parent.as_fd(), name, make)?;
                dress_at(entry, parent.as_fd(), name, false)?;
            }
            _ if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() => {
                self.file(entry, parent.as_fd(), name)?;
            }
            _ => {}
        }
        self.parent = Some((directory_of(path).to_owned(), parent));
        Ok(())
    }

    /// The directory `path` is in; the missing ones on the way are made, for archives that leave them out.
    fn parent_of(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let directory = directory_of(path);
        if let Some((known, fd)) = self.parent.take()
            && known == directory
        {
            return Ok(fd);
        }
        match open_beneath(self.root, directory) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut made = PathBuf::new();
        for part in directory.components() {
            let parent = if made.as_os_str().is_empty() { Path::new(".") } else { &made };
            let parent = open_beneath(self.root, parent)?;
            match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            made.push(part);
        }
        Ok(open_beneath(self.root, directory)?)
    }

    fn directory<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        parent: BorrowedFd<'_>,
        name: &Path,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
        let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
        let made = match make() {
            Ok(()) => open(),
            Err(Errno::EXIST) => match open() {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    replacing(parent, name, make).and_then(|()| open())
                }
                other => other,
            },
            Err(error) => Err(error),
        };
        dress(entry, made?.as_fd())?;
        self.times.insert(path.to_owned(), entry.header().mtime()?);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &Path,
    ) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let opened = match open() {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                open()
            }
            other => other,
        };
        let mut file = File::from(opened?);
        let mut length = 0;
        loop {
            let count = entry.read(&mut self.buffer)?;
            let Some(read) = self.buffer.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            if read.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(i64::try_from(count).map_err(io::Error::other)?))?;
            } else {
                file.write_all(read)?;
            }
            length += count as u64;
        }
        file.set_len(length)?;
        dress(entry, file.as_fd())?;
        let times = times(entry.header().mtime()?);
        Ok(rustix::fs::futimens(&file, &times)?)
    }

    /// The root directory's own entry.
    fn dress_root<R: Read>(&self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        if !entry.header().entry_type().is_dir() {
            return Err(io::Error::other("the root is no directory"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dress(entry, rustix::fs::openat(self.root, ".", flags, Mode::empty())?.as_fd())
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, seconds) in &self.times {
            let set = open_beneath(self.root, path.as_path()).and_then(|directory| {
                let flags = AtFlags::EMPTY_PATH;
                rustix::fs::utimensat(&directory, "", &times(*seconds), flags)
            });
            // A later entry may have taken its place.
            match set {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => {
                    let path = shorten(path.as_os_str().as_encoded_bytes());
                    return Err(UnpackError::Io { path, source: error.into() });
                }
            }
        }
        Ok(())
    }
}

/// Makes `name`, in place of what an earlier entry put there; a directory stays, and is an error.
fn replacing(
    parent: BorrowedFd<'_>,
    name: &Path,
    make: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        other => other,
    }
}

/// Gives an open file or directory its owner, then its mode, which a change of owner would cut, then its attributes.
fn dress<R: Read>(entry: &mut Entry<'_, R>, file: BorrowedFd<'_>) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.header().mode()? & 0o7777))?;
    for (name, value) in attributes(entry)? {
        match rustix::fs::fsetxattr(file, &*name, &value, XattrFlags::empty()) {
            // Where the file system keeps none, no program of the image could have relied on them.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The same for what cannot be opened: links, and pipes.
fn dress_at<R: Read>(
    entry: &Entry<'_, R>,
    parent: BorrowedFd<'_>,
    name: &Path,
    is_link: bool,
) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_link {
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    let times = times(entry.header().mtime()?);
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    let id = |number: u64| match u32::try_from(number) {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(io::Error::other(format!("owner {number} is out of range"))),
    };
    let header = entry.header();
    Ok((Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?)))
}

/// The extended attributes to be kept.
fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut kept = Vec::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let Some(name) = record.key().ok().and_then(|key| key.strip_prefix(XATTR)) else {
            continue;
        };
        if name == "security.capability" || name.starts_with("user.") {
            kept.push((name.to_owned(), record.value_bytes().to_vec()));
        }
    }
    Ok(kept)
}

fn times(seconds: u64) -> Timestamps {
    let tv_sec = i64::try_from(seconds).unwrap_or(0);
    let time = Timespec { tv_sec, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// The directory that `path` is in; `.` is the root itself.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A path of the archive as one relative to the root; empty is the root itself.
fn inner_path(given: &[u8]) -> Result<PathBuf, &'static str> {
    let given = std::os::unix::ffi::OsStrExt::from_bytes(given);
    let given = Path::new(<std::ffi::OsStr as AsRef<Path>>::as_ref(given));
    let mut path = PathBuf::new();
    for part in given.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err("leads upwards"),
        }
    }
    Ok(path)
}

/// A path for people: one line, not too long.
fn shorten(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().take(200).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
