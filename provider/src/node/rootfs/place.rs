//! Paths inside a root file system, resolved so that nothing in it leads outside.
//!
//! In: a descriptor of the root, a path relative to it. Out: a descriptor of what is there, or the file or directory made.
//! Always: the kernel itself keeps the resolution inside (`openat2`); "within" follows links as a process with that root
//! would, "beneath" follows none.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Mode of directories made on the way.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// What a path must be.
#[derive(Debug, Clone, Copy)]
pub(in crate::node) enum Kind {
    /// A directory; made with this mode, which an existing one need not have.
    Directory(Mode),
    /// A file; made empty.
    File,
}

/// The directory at `path`, for resolving below it.
pub(in crate::node) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// What a process with `root` as its root directory finds at `path`.
pub(in crate::node) fn open_within(
    root: BorrowedFd<'_>,
    path: &str,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// What is at `path` below `root`, without following a link anywhere.
pub(in crate::node) fn open_beneath(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Makes sure that a process with `root` as its root directory finds a `kind` at `path`.
pub(in crate::node) fn ensure(root: BorrowedFd<'_>, path: &str, kind: Kind) -> io::Result<()> {
    if let Ok(found) = open_within(root, path)
        && kind.is(&found)?
    {
        return Ok(());
    }
    let mut parent = open_within(root, ".")?;
    let mut done = String::new();
    let mut names = path.split('/').filter(|name| !matches!(*name, "" | ".")).peekable();
    while let Some(name) = names.next() {
        if name == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path leads upwards"));
        }
        done = format!("{done}/{name}");
        let wanted = if names.peek().is_some() { Kind::Directory(DIRECTORY) } else { kind };
        parent = match open_within(root, &done) {
            Ok(found) if wanted.is(&found)? => found,
            Ok(_) | Err(Errno::NOENT | Errno::LOOP) => {
                wanted.make(&parent, name)?;
                open_within(root, &done)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

impl Kind {
    fn is(self, found: &OwnedFd) -> io::Result<bool> {
        let is_directory =
            FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) == FileType::Directory;
        Ok(is_directory == matches!(self, Self::Directory(_)))
    }

    /// Makes it as `name`, in place of what is no directory: a link to nowhere, a file where a directory is needed.
    fn make(self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        match self.make_new(parent, name) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                Ok(self.make_new(parent, name)?)
            }
            other => Ok(other?),
        }
    }

    fn make_new(self, parent: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        match self {
            Self::Directory(mode) => {
                rustix::fs::mkdirat(parent, name, mode)?;
                // Whatever the file creation mask is.
                rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
            }
            Self::File => {
                let mode = Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_needed_is_made_and_links_stay_inside() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink("/real", root.path().join("link")).unwrap();
        std::fs::create_dir(root.path().join("real")).unwrap();
        symlink("/nowhere/file", root.path().join("real/dangling")).unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();
        let fd = open_root(root.path()).unwrap();
        let directory = |mode| Kind::Directory(Mode::from_raw_mode(mode));
        ensure(fd.as_fd(), "link/a/b", directory(0o700)).unwrap();
        assert!(root.path().join("real/a/b").is_dir(), "absolute links are the root's own");
        ensure(fd.as_fd(), "real/dangling", Kind::File).unwrap();
        assert!(root.path().join("real/dangling").symlink_metadata().unwrap().is_file());
        ensure(fd.as_fd(), "file", directory(0o1777)).unwrap();
        let mode = root.path().join("file").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
        ensure(fd.as_fd(), "/", directory(0o755)).unwrap();
        assert!(
            ensure(fd.as_fd(), "../x", Kind::File).is_err() || !root.path().join("../x").exists()
        );
        ensure(fd.as_fd(), "out/made", Kind::File).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing outside");
    }

    #[test]
    fn beneath_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("real")).unwrap();
        symlink("real", root.path().join("link")).unwrap();
        let fd = open_root(root.path()).unwrap();
        assert!(open_beneath(fd.as_fd(), "real").is_ok());
        assert_eq!(open_beneath(fd.as_fd(), "link/.").unwrap_err(), Errno::LOOP);
        assert_eq!(open_beneath(fd.as_fd(), "..").unwrap_err(), Errno::XDEV);
    }
}
