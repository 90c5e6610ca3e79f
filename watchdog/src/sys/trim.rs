//! Gives back the memory that only the start, or a load that is over, needed.
//!
//! Out: our own program's text and constants are unmapped; the pages that are needed come back by themselves, from the page
//! cache. Memory that was freed goes back to the system.
//! Always: only what is mapped read-only from a file and was never written, and what is free: nothing can be lost.
//! Touches: our memory. Without `/proc` text and constants stay.
//! Why: the kernel maps 16 pages around each page that is touched, so that after the start most of the program counts as
//! resident in every container; and the C library keeps what was freed in the middle of its heap for ever.

use std::io::Read;

/// Longest list of mappings that is read, in bytes; ours has some twenty lines.
const MAPS_MAX: u64 = 64 << 10;

/// Lets go of the program's text and constants, and of what is free.
pub(crate) fn trim() {
    trim_program();
    trim_heap();
}

/// Some milliseconds where much is free.
#[expect(unsafe_code, reason = "a call of the C library without a safe form")]
fn trim_heap() {
    // Only glibc has it, and only glibc needs it.
    #[cfg(target_env = "gnu")]
    // SAFETY: returns pages to the system that the allocator itself knows to be free, under its own locks.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[expect(unsafe_code, reason = "madvise takes addresses")]
fn trim_program() {
    let Ok(maps) = std::fs::File::open("/proc/self/maps") else { return };
    let mut text = String::new();
    if maps.take(MAPS_MAX).read_to_string(&mut text).is_err() {
        return;
    }
    for (start, end) in text.lines().filter_map(never_written) {
        let place = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: private, read-only pages of a file: dropping them only means that they are read again when touched.
        let _ = unsafe { libc::madvise(place, end - start, libc::MADV_DONTNEED) };
    }
}

/// The addresses of a line of `/proc/self/maps` that is backed by a file and was never written: the program's text, or what its
/// file begins with, which is constants. What is read-only further behind was written when the program was relocated.
fn never_written(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset, _device, inode) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let is_beginning = rights == "r--p" && offset.bytes().all(|digit| digit == b'0');
    let is_ours = (rights == "r-xp" || is_beginning) && inode != "0";
    is_ours.then_some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_let_go() {
        for (line, expected) in [
            ("1000-3000 r-xp 00001000 fe:01 42   /fwatchdog", Some((0x1000, 0x3000))),
            ("1000-3000 r--p 00000000 fe:01 42   /fwatchdog", Some((0x1000, 0x3000))),
            ("1000-3000 r--p 00001000 fe:01 42   /fwatchdog", None),
            ("1000-3000 rw-p 00000000 fe:01 42   /fwatchdog", None),
            ("1000-3000 r--p 00000000 00:00 0    [vvar]", None),
            ("1000-3000 rwxp 00001000 fe:01 42   /fwatchdog", None),
            ("7fff0000-7fff2000 r-xp 00000000 00:00 0   [vdso]", None),
            ("", None),
        ] {
            assert_eq!(never_written(line), expected, "{line}");
        }
    }

    #[test]
    fn the_program_goes_on_with_less_memory() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        trim();
        let after = resident();
        assert!(after < before, "{before} KiB, then {after}");
    }
}
