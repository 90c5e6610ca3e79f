//! What the image's own watchdog file says about the watchdog it expects.
//!
//! In: the places where official images keep `fwatchdog`. Out: a [`Dialect`], if one of them tells.
//! Source: Go's build information holds the module's path and survives stripping.
//! Touches: reads those files, piece by piece; our own binary under that name is skipped.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;

use crate::config::Dialect;

/// Read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// Longest part of a file that is looked at; the originals are below 20 MB.
const FILE_MAX: u64 = 64 << 20;

/// The module paths written backwards, so that this program does not hold the very text it searches for.
const OF_WATCHDOG: &[u8] = b"godhctaw-fo/saafnepo/moc.buhtig";
const CLASSIC: [&[u8]; 2] =
    [b"godhctaw-cissalc/saafnepo/moc.buhtig", b"godhctaw/saaf/saafnepo/moc.buhtig"];

/// Looks into `/usr/bin/fwatchdog`, `./fwatchdog` and `fwatchdog` in each directory of `path`; the first that tells wins.
///
/// `open` opens one of them, if it is there.
pub(crate) fn scan(path: &str, open: impl Fn(&Path) -> Option<File>) -> Option<Dialect> {
    let fixed = ["/usr/bin/fwatchdog", "./fwatchdog"].map(PathBuf::from);
    let searched = path
        .split(':')
        .filter(|d| !d.is_empty())
        .map(|directory| Path::new(directory).join("fwatchdog"));
    fixed.into_iter().chain(searched).find_map(|path| scan_file(open(&path)?))
}

fn scan_file(file: File) -> Option<Dialect> {
    let meta = file.metadata().ok()?;
    let is_us = std::fs::metadata("/proc/self/exe")
        .is_ok_and(|us| (us.dev(), us.ino()) == (meta.dev(), meta.ino()));
    if is_us || !meta.is_file() { None } else { scan_bytes(file.take(FILE_MAX)) }
}

fn scan_bytes(mut from: impl Read) -> Option<Dialect> {
    let mark =
        |reversed: &[u8]| std::hint::black_box(reversed).iter().rev().copied().collect::<Vec<u8>>();
    let marks = [
        (mark(OF_WATCHDOG), Dialect::OfWatchdog),
        (mark(CLASSIC[0]), Dialect::Classic),
        (mark(CLASSIC[1]), Dialect::Classic),
    ];
    let finders: Vec<_> =
        marks.iter().map(|(mark, dialect)| (Finder::new(mark), *dialect)).collect();
    let overlap = marks.iter().map(|(mark, _)| mark.len() - 1).max().unwrap_or(0);
    let mut buffer = vec![0; CHUNK];
    let mut kept = 0;
    loop {
        let count = from.read(&mut buffer[kept..]).ok().filter(|count| *count > 0)?;
        let filled = kept + count;
        if let Some((_, dialect)) =
            finders.iter().find(|(finder, _)| finder.find(&buffer[..filled]).is_some())
        {
            return Some(*dialect);
        }
        kept = overlap.min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte fewer than asked, so that marks fall on the borders of pieces.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let size = into.len().min(7);
            self.0.read(&mut into[..size])
        }
    }

    fn file(mark: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'x'; 300_000];
        bytes.extend(mark.iter().rev());
        bytes.extend_from_slice(&[0; 1000]);
        bytes
    }

    #[test]
    fn marks_are_found_wherever_pieces_end() {
        assert_eq!(scan_bytes(&file(OF_WATCHDOG)[..]), Some(Dialect::OfWatchdog));
        assert_eq!(scan_bytes(Dribble(&file(OF_WATCHDOG)[299_000..])), Some(Dialect::OfWatchdog));
        assert_eq!(scan_bytes(&file(CLASSIC[0])[..]), Some(Dialect::Classic));
        assert_eq!(scan_bytes(&file(CLASSIC[1])[..]), Some(Dialect::Classic));
        assert_eq!(scan_bytes(&file(b"nothing")[..]), None);
        assert_eq!(scan_bytes(&b""[..]), None);
    }

    #[test]
    fn this_program_does_not_look_like_an_original() {
        let us = File::open("/proc/self/exe").unwrap();
        assert_eq!(scan_bytes(us), None);
    }
}
