//! The time zone of log lines.
//!
//! In: the variable `TZ`, the system's files. Out: a [`TimeZone`], UTC where nothing better is known.
//! Always: no more than a handful of files are looked at, each bounded; a data base of all zones is never read, which in an image
//! that has one would take milliseconds of every start.
//! Touches: files.
//! Source: Go's `time` package, as in the originals: where it looks, and in which order. POSIX rules, such as `CET-1CEST`, are ours.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

/// What holds where `TZ` is not set.
const LOCAL: &str = "/etc/localtime";
/// Where zones are looked for by name.
const PLACES: [&str; 4] =
    ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/usr/lib/locale/TZ", "/etc/zoneinfo"];
/// Longest file of a zone that is read, in bytes; the longest of today's has some 4 KiB.
const FILE_MAX: u64 = 64 << 10;

/// The zone that `TZ` names: `None` is what the system has, an empty name is UTC, a colon in front means nothing.
pub(crate) fn find(variable: Option<&str>) -> TimeZone {
    let Some(name) = variable else { return read(Path::new(LOCAL)).unwrap_or(TimeZone::UTC) };
    match name.strip_prefix(':').unwrap_or(name) {
        "" | "UTC" => TimeZone::UTC,
        name => named(name).or_else(|| TimeZone::posix(name).ok()).unwrap_or(TimeZone::UTC),
    }
}

fn named(name: &str) -> Option<TimeZone> {
    if name.starts_with('/') {
        return read(Path::new(name));
    }
    PLACES.iter().find_map(|place| read(&PathBuf::from(place).join(name)))
}

fn read(path: &Path) -> Option<TimeZone> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    TimeZone::tzif("", &bytes).ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn hour_of(zone: &TimeZone, second: i64) -> i8 {
        zone.to_datetime(Timestamp::from_second(second).unwrap()).hour()
    }

    /// A zone two hours east of Greenwich, without any rule.
    fn two_hours_east() -> Vec<u8> {
        let header = |version: u8| {
            let mut bytes = b"TZif".to_vec();
            bytes.push(version);
            bytes.extend([0; 15]);
            // Indicators, leap seconds, transitions: none. One type, with a name of four bytes.
            for count in [0_u32, 0, 0, 0, 1, 4] {
                bytes.extend(count.to_be_bytes());
            }
            bytes.extend(7200_i32.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(b"EET\0");
            bytes
        };
        [header(b'2'), header(b'2'), b"\nEET-2\n".to_vec()].concat()
    }

    #[test]
    fn zones_are_files_rules_or_utc() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
        std::fs::write(&good, two_hours_east()).unwrap();
        std::fs::write(&bad, "nonsense").unwrap();
        let hour = |name: &str| hour_of(&find(Some(name)), 0);
        assert_eq!(hour(good.to_str().unwrap()), 2);
        assert_eq!(hour(&format!(":{}", good.display())), 2);
        assert_eq!(hour(bad.to_str().unwrap()), 0);
        assert_eq!(hour("<+03>-3"), 3);
        for utc in ["", ":", "UTC", "No/Where", "../nowhere"] {
            assert_eq!(hour(utc), 0, "{utc}");
        }
    }
}
