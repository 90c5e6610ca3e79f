//! Archives of ordinary and of hostile images.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{Access, AtFlags as At};
use tar::{Builder, Header};
use tempfile::TempDir;

use super::super::place::open_root;
use super::*;

/// One entry: kind, name, link target, content.
type Part<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

/// An archive whose names are written as they are, `..` and all.
fn archive(parts: &[Part<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target, content) in parts {
        let mut header = header(*kind, content.len());
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getegid().as_raw()));
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header
}

fn unpack_into(directory: &TempDir, archive: &[u8]) -> Result<Totals, UnpackError> {
    let root = open_root(directory.path()).unwrap();
    // A few bytes at a time, as a network would.
    unpack(Dribble(archive), root.as_fd(), &mut |_| Ok(()))
}

struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(777).min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

/// Owners, devices and capabilities are root's to give.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn what_an_image_has_is_there_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let zeros = vec![0; 3 * BUFFER + 5];
    let mut holed = zeros.clone();
    holed[BUFFER + 1] = 7;
    let totals = unpack_into(
        &directory,
        &archive(&[
            (DIR, "./", "", b""),
            (DIR, "etc/", "", b""),
            (FILE, "etc/passwd", "", b"root:x:0:0::/:\n"),
            (SYMLINK, "etc/absolute", "/etc/passwd", b""),
            (HARD, "etc/hard", "etc/passwd", b""),
            (HARD, "etc/hard-link-to-link", "./etc/absolute", b""),
            (FILE, "no/directory/entries/file", "", b"x"),
            (FILE, "holed", "", &holed),
            (FILE, "zeros", "", &zeros),
            (EntryType::Fifo, "pipe", "", b""),
            (FILE, "/absolute/name", "", b"inside"),
            (FILE, "twice", "", b"first"),
            (FILE, "twice", "", b"second"),
        ]),
    )
    .unwrap();
    assert_eq!(totals.entries, 13);
    let at = |name: &str| directory.path().join(name);
    let file = at("etc/passwd").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime(), file.nlink()), (0o640, 1_000_000_000, 2));
    assert_eq!(at("etc").metadata().unwrap().mtime(), 1_000_000_000, "of directories too");
    assert_eq!(at("etc/hard").metadata().unwrap().ino(), file.ino());
    assert_eq!(
        std::fs::read_link(at("etc/absolute")).unwrap().as_os_str().as_bytes(),
        b"/etc/passwd"
    );
    assert!(at("etc/hard-link-to-link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(at("holed")).unwrap(), holed);
    assert_eq!(std::fs::read(at("zeros")).unwrap(), zeros);
    assert!(at("zeros").metadata().unwrap().blocks() < 16, "zeros take no room");
    assert_eq!(std::fs::read(at("absolute/name")).unwrap(), b"inside");
    assert_eq!(std::fs::read(at("twice")).unwrap(), b"second");
    assert!(rustix::fs::accessat(CWD_FD, at("pipe"), Access::EXISTS, At::empty()).is_ok());
}

const CWD_FD: BorrowedFd<'static> = rustix::fs::CWD;

#[test]
fn owners_modes_and_capabilities_are_kept_and_devices_are_not() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // cap_net_bind_service+ep, as the kernel stores it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc/shadow"),
            ("SCHILY.xattr.security.selinux", b"system_u"),
        ])
        .unwrap();
    let mut header = header(FILE, 1);
    header.set_uid(1_000_000_000);
    header.set_gid(101);
    header.set_mode(0o4751);
    builder.append_data(&mut header, "bin", &b"x"[..]).unwrap();
    for (kind, name) in [(EntryType::Char, "dev/null"), (EntryType::Block, "dev/sda")] {
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        builder.append_data(&mut header, name, io::empty()).unwrap();
    }
    unpack_into(&directory, &builder.into_inner().unwrap()).unwrap();
    let bin = directory.path().join("bin");
    let file = bin.metadata().unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1_000_000_000, 101, 0o4751));
    let attribute = |name: &str| {
        let mut value = [0; 64];
        rustix::fs::getxattr(&bin, name, &mut value[..]).map(|count| value[..count].to_vec())
    };
    assert_eq!(attribute("security.capability").unwrap(), capability);
    assert!(
        matches!(attribute("user.note"), Err(Errno::NOTSUP))
            || attribute("user.note").unwrap() == b"kept"
    );
    assert!(attribute("trusted.overlay.redirect").is_err());
    assert!(
        !directory.path().join("dev/null").exists() && !directory.path().join("dev/sda").exists()
    );
}

#[test]
fn nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let out = outside.path().to_str().unwrap();
    let through = |kind| {
        let target = victim.to_str().unwrap();
        archive(&[(SYMLINK, "a", out, b""), (kind, "a/victim", target, b"")])
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("upwards", archive(&[(FILE, "../victim", "", b"bad")])),
        ("upwards within", archive(&[(FILE, "a/../../victim", "", b"bad")])),
        (
            "file through a link",
            archive(&[(SYMLINK, "a", out, b""), (FILE, "a/victim", "", b"bad")]),
        ),
        ("directory through a link", archive(&[(SYMLINK, "a", out, b""), (DIR, "a/new", "", b"")])),
        ("below a link", archive(&[(SYMLINK, "a", out, b""), (FILE, "a/b/c", "", b"bad")])),
        ("link through a link", through(SYMLINK)),
        ("hard link through a link", through(HARD)),
        (
            "hard link from outside",
            archive(&[(SYMLINK, "a", out, b""), (HARD, "mine", "a/victim", b"")]),
        ),
        ("hard link upwards", archive(&[(HARD, "mine", "../victim", b"")])),
        ("hard link to a host's path", archive(&[(HARD, "mine", victim.to_str().unwrap(), b"")])),
        ("relative link", archive(&[(SYMLINK, "a", "..", b""), (FILE, "a/victim", "", b"bad")])),
        ("a file as directory", archive(&[(FILE, "a", "", b"x"), (FILE, "a/victim", "", b"bad")])),
        ("the root replaced", archive(&[(SYMLINK, "./", out, b""), (FILE, "victim", "", b"bad")])),
    ];
    for (what, archive) in hostile {
        let directory = tempfile::tempdir_in(outside.path()).unwrap();
        let error = unpack_into(&directory, &archive).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{what}: {error}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched", "{what}");
        assert_eq!(victim.metadata().unwrap().nlink(), 1, "{what}");
        assert!(
            !outside.path().join("new").exists() && !outside.path().join("b").exists(),
            "{what}"
        );
    }
}

#[test]
fn a_link_may_become_a_directory_and_back() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let parts = [(SYMLINK, "a", out, &b""[..]), (DIR, "a", "", b""), (FILE, "a/inside", "", b"x")];
    unpack_into(&directory, &archive(&parts)).unwrap();
    assert!(directory.path().join("a/inside").exists());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link in the place of a directory that has files is refused, so nothing put there earlier can move.
    let directory = tempfile::tempdir().unwrap();
    let parts = [(FILE, "a/inside", "", &b"x"[..]), (SYMLINK, "a", out, b"")];
    assert!(unpack_into(&directory, &archive(&parts)).is_err());
}

#[test]
fn a_link_that_was_there_before_is_not_followed() {
    // Nobody else has access to a root being made; should that ever change, this must hold.
    let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), directory.path().join("etc")).unwrap();
    assert!(unpack_into(&directory, &archive(&[(FILE, "etc/passwd", "", b"x")])).is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn an_archive_that_ends_early_is_an_error() {
    let whole = archive(&[(FILE, "a", "", &[1; 2000]), (FILE, "b", "", b"x")]);
    let directory = tempfile::tempdir().unwrap();
    assert!(unpack_into(&directory, &whole).is_ok());
    for length in (0..whole.len() - 512).step_by(256) {
        let directory = tempfile::tempdir().unwrap();
        let result = unpack_into(&directory, &whole[..length]);
        assert!(result.is_err(), "cut to {length} of {} bytes", whole.len());
    }
}

#[test]
fn bytes_are_charged_before_they_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = open_root(directory.path()).unwrap();
    let archive = archive(&[(FILE, "a", "", &[1; 5000]), (FILE, "b", "", &[1; 5000])]);
    let mut left: u64 = 10_000;
    let result = unpack(&archive[..], root.as_fd(), &mut |bytes| {
        left = left.checked_sub(bytes).ok_or_else(|| UnpackError::NoRoom("full".into()))?;
        Ok(())
    });
    assert!(matches!(result, Err(UnpackError::NoRoom(_))));
    assert!(directory.path().join("a").exists() && !directory.path().join("b").exists());
}

#[test]
fn garbage_is_an_error_and_not_a_panic() {
    for seed in 0..200_u32 {
        let mut bytes =
            archive(&[(DIR, "d/", "", b""), (FILE, "d/a", "", b"abc"), (SYMLINK, "d/l", "a", b"")]);
        let at = (seed as usize * 7919) % (bytes.len() - 1024);
        bytes[at] ^= 1 << (seed % 8);
        let directory = tempfile::tempdir().unwrap();
        let _ = unpack_into(&directory, &bytes);
    }
}
