//! Files of a guest, looked up as the guest would find them: from its own root, whatever its links say.
//!
//! In: a slot's root and a path of the guest's. Out: the file, or that there is none.
//! Always: nothing outside the root is opened, nothing waits for a pipe, and nothing is written.
//! Touches: the slot. Source: `openat2(2)`; kernels that have Landlock have it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A guest's root directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// # Errors
    /// When `path` is no directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A regular file, to be read.
    pub(crate) fn file(&self, path: &Path) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.find(path, flags)?;
        is_file(&file).then(|| file.into())
    }

    /// A directory, to be looked up in.
    ///
    /// # Errors
    /// When it is none, or lies outside.
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.look_up(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Whether there is a regular file that somebody may execute.
    pub(crate) fn is_executable(&self, path: &Path) -> bool {
        let mode = self
            .find(path, OFlags::PATH)
            .and_then(|file| rustix::fs::fstat(file).ok()?.st_mode.into());
        mode.is_some_and(|mode| {
            FileType::from_raw_mode(mode) == FileType::RegularFile && mode & 0o111 != 0
        })
    }

    fn find(&self, path: &Path, flags: OFlags) -> Option<OwnedFd> {
        self.look_up(path, flags).ok()
    }

    fn look_up(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), within)
    }
}

fn is_file(file: &OwnedFd) -> bool {
    let stat = rustix::fs::fstat(file);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_outside_is_found_whatever_links_say() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let slot = outside.path().join("slot");
        std::fs::create_dir_all(slot.join("bin")).unwrap();
        std::fs::write(slot.join("bin/tool"), "x").unwrap();
        std::fs::set_permissions(slot.join("bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(slot.join("plain"), "x").unwrap();
        symlink("/bin/tool", slot.join("absolute")).unwrap();
        symlink("../secret", slot.join("up")).unwrap();
        symlink(outside.path().join("secret"), slot.join("out")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            slot.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o777),
            0,
        )
        .unwrap();
        let root = Root::open(&slot).unwrap();
        for found in ["/bin/tool", "bin/tool", "/absolute", "/../../bin/tool"] {
            assert!(root.is_executable(Path::new(found)), "{found}");
            assert!(root.file(Path::new(found)).is_some(), "{found}");
        }
        for missing in ["/up", "/out", "/../secret", "/pipe", "/bin", "/none"] {
            assert!(!root.is_executable(Path::new(missing)), "{missing}");
            assert!(root.file(Path::new(missing)).is_none(), "{missing}");
        }
        assert!(!root.is_executable(Path::new("/plain")));
        assert!(root.directory(Path::new("/bin")).is_ok());
        for missing in ["/plain", "/none", "/up"] {
            assert!(root.directory(Path::new(missing)).is_err(), "{missing}");
        }
        assert!(Root::open(&slot.join("plain")).is_err());
    }
}
