//! Which part of a file a request asks for: preconditions and byte ranges.
//!
//! In: the request's method and headers, the file's size and time of change. Out: a [`Choice`].
//! Units: bytes; seconds since 1970. Always: every range lies within the file.
//! Source: RFC 9110, 13 and 14, as Go's `http.ServeContent` reads them; files have no entity tag.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// What to send of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Whole,
    /// At least one, in the order asked for.
    Parts(Vec<Part>),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416; the file's size is told when the range only missed it.
    Unsatisfiable {
        text: &'static str,
        tells_size: bool,
    },
}

/// One range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Part {
    /// The value of `Content-Range`.
    pub(super) fn describe(self, size: u64) -> String {
        let end = i128::from(self.start) + i128::from(self.length) - 1;
        format!("bytes {}-{end}/{size}", self.start)
    }
}

/// Decides for a file of `size` bytes changed in second `modified`; `None` is a time nobody knows.
pub(super) fn choose(
    method: &Method,
    headers: &HeaderMap,
    size: u64,
    modified: Option<u64>,
) -> Choice {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let fits = match text(headers, &IF_MATCH) {
        Some(tags) => lists_any(tags),
        None => !is_after(modified, headers, &IF_UNMODIFIED_SINCE),
    };
    if !fits {
        return Choice::Failed;
    }
    match text(headers, &IF_NONE_MATCH) {
        Some(tags) if lists_any(tags) && is_read => return Choice::NotModified,
        Some(tags) if lists_any(tags) => return Choice::Failed,
        Some(_) => {}
        None if is_unmodified(method, headers, modified) => return Choice::NotModified,
        None => {}
    }
    let is_same = !is_read
        || text(headers, &IF_RANGE)
            .is_none_or(|since| modified.is_some() && seconds(since) == modified);
    match text(headers, &RANGE).filter(|_| is_same) {
        Some(asked) => parts(asked, size),
        None => Choice::Whole,
    }
}

/// Whether the client already has what was changed in second `modified`.
pub(super) fn is_unmodified(method: &Method, headers: &HeaderMap, modified: Option<u64>) -> bool {
    let since = text(headers, &IF_MODIFIED_SINCE).and_then(seconds);
    matches!(*method, Method::GET | Method::HEAD)
        && modified.zip(since).is_some_and(|(modified, since)| modified <= since)
}

fn is_after(modified: Option<u64>, headers: &HeaderMap, name: &HeaderName) -> bool {
    let since = text(headers, name).and_then(seconds);
    modified.zip(since).is_some_and(|(modified, since)| modified > since)
}

/// The first value, unless it is empty; one that is no text is nonsense to everybody who looks.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?")).filter(|text| !text.is_empty())
}

fn seconds(date: &str) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(date).ok()?;
    time.duration_since(UNIX_EPOCH).ok().as_ref().map(Duration::as_secs)
}

/// Whether a list of entity tags holds `*`, the only entry that can match; what follows nonsense is not looked at.
fn lists_any(mut list: &str) -> bool {
    loop {
        list = list.trim_start_matches([' ', '\t', ',']);
        if list.starts_with('*') {
            return true;
        }
        let tag = list.strip_prefix("W/").unwrap_or(list).strip_prefix('"');
        match tag.and_then(|tag| tag.split_once('"')) {
            Some((_, rest)) => list = rest,
            None => return false,
        }
    }
}

fn parts(asked: &str, size: u64) -> Choice {
    const INVALID: Choice = Choice::Unsatisfiable { text: "invalid range", tells_size: false };
    let Some(list) = asked.strip_prefix("bytes=") else { return INVALID };
    let (mut parts, mut misses) = (Vec::new(), false);
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        match part(range, size) {
            Some(Some(part)) => parts.push(part),
            Some(None) => misses = true,
            None => return INVALID,
        }
    }
    if parts.is_empty() && misses && size > 0 {
        return Choice::Unsatisfiable {
            text: "invalid range: failed to overlap",
            tells_size: true,
        };
    }
    let total = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.length));
    // Ranges that add up to more than the file are a mistake or an attack.
    if parts.is_empty() || total > size { Choice::Whole } else { Choice::Parts(parts) }
}

/// One range; `Some(None)` lies behind the file's end, `None` is nonsense.
fn part(range: &str, size: u64) -> Option<Option<Part>> {
    let number = |text: &str| text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok());
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.trim(), end.trim());
    if start.is_empty() {
        let length = number(end)?.min(size);
        return Some(Some(Part { start: size - length, length }));
    }
    let start = number(start)?;
    if start >= size {
        return Some(None);
    }
    let last = if end.is_empty() { size - 1 } else { number(end)? };
    (start <= last).then(|| Some(Part { start, length: last.min(size - 1) - start + 1 }))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 1_577_934_245;
    const SAME: &str = "Thu, 02 Jan 2020 03:04:05 GMT";
    const EARLIER: &str = "Wed, 01 Jan 2020 03:04:05 GMT";

    fn of(method: &Method, list: &[(HeaderName, &str)]) -> Choice {
        let headers = list
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::try_from(*value).unwrap()))
            .collect();
        choose(method, &headers, 10, Some(DAY))
    }

    fn range(text: &str) -> Choice {
        of(&Method::GET, &[(RANGE, text)])
    }

    fn one(start: u64, length: u64) -> Choice {
        Choice::Parts(vec![Part { start, length }])
    }

    #[test]
    fn ranges_are_read_as_go_reads_them() {
        assert_eq!(range("bytes=0-3"), one(0, 4));
        assert_eq!(range("bytes=5-"), one(5, 5));
        assert_eq!(range("bytes=-3"), one(7, 3));
        assert_eq!(range("bytes=-30"), one(0, 10));
        assert_eq!(range("bytes=0-100"), one(0, 10));
        assert_eq!(range("bytes=0-1,"), one(0, 2));
        let two = [Part { start: 0, length: 2 }, Part { start: 3, length: 2 }];
        assert_eq!(range("bytes= 0-1 , 3 - 4"), Choice::Parts(two.into()));
        assert_eq!(range("bytes=0-9,0-9"), Choice::Whole);
        for nonsense in ["bytes=5-2", "bytes=abc", "lines=1-2", "bytes=-", "bytes=--1", "bytes=1"] {
            let invalid = Choice::Unsatisfiable { text: "invalid range", tells_size: false };
            assert_eq!(range(nonsense), invalid, "{nonsense}");
        }
        assert!(matches!(range("bytes=20-"), Choice::Unsatisfiable { tells_size: true, .. }));
        assert_eq!(Part { start: 5, length: 2 }.describe(10), "bytes 5-6/10");
    }

    #[test]
    fn preconditions_come_before_ranges() {
        let get = |list: &[(HeaderName, &str)]| of(&Method::GET, list);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, SAME)]), Choice::NotModified);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, EARLIER)]), Choice::Whole);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, "junk")]), Choice::Whole);
        assert_eq!(of(&Method::POST, &[(IF_MODIFIED_SINCE, SAME)]), Choice::Whole);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, EARLIER)]), Choice::Failed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, SAME)]), Choice::Whole);
        assert_eq!(get(&[(IF_NONE_MATCH, "*")]), Choice::NotModified);
        assert_eq!(of(&Method::POST, &[(IF_NONE_MATCH, "\"x\", *")]), Choice::Failed);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, SAME)]), Choice::Whole);
        assert_eq!(get(&[(IF_MATCH, "\"x\"")]), Choice::Failed);
        assert_eq!(get(&[(IF_MATCH, "*")]), Choice::Whole);
        let ranged = |value| get(&[(RANGE, "bytes=0-1"), (IF_RANGE, value)]);
        assert_eq!(ranged(SAME), one(0, 2));
        assert_eq!(ranged(EARLIER), Choice::Whole);
        assert_eq!(ranged("\"x\""), Choice::Whole);
    }

    proptest! {
        #[test]
        fn ranges_stay_within_the_file(text in "bytes=[0-9,+ -]{0,20}", size in 0_u64..30) {
            if let Choice::Parts(parts) = parts(&text, size) {
                prop_assert!(parts.iter().all(|part| part.start + part.length <= size));
            }
        }
    }
}
