//! Mode `static`: the files of a directory, without any process.
//!
//! In: a request. Out: a file or a part of it, a directory's list, a redirect, or an error.
//! Always: nothing outside the directory is opened, whatever the path or a symbolic link in it says.
//! Touches: the directory.
//! Source: Go's `http.FileServer`, which of-watchdog uses; `docs/watchdog.md` lists where we differ.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode, Uri};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::answer::{empty, sniffed};
use super::cgi::percent_decoded;
use super::media::Media;
use super::pieces::{Frame, Pieces};
use super::ranges::{self, Choice, Part};
use crate::body::Body;
use crate::rooted::Root;

/// Most entries of a directory that are listed; the list is built in memory.
const LISTED_MAX: usize = 10_000;
/// Bytes looked at to guess the type of a file without a telling name.
const SNIFFED: u64 = 512;

/// A directory being served.
#[derive(Debug)]
pub(crate) struct Site {
    root: PathBuf,
    /// A guest's own root, which `root` is looked up in.
    within: Option<Root>,
    media: Media,
}

/// Something that can be served.
struct Found {
    file: File,
    stat: Stat,
}

impl Found {
    fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }

    /// Second of the last change; `None` for 1970 and before, which means that nobody knows.
    fn modified(&self) -> Option<u64> {
        u64::try_from(self.stat.st_mtime).ok().filter(|second| *second > 0)
    }

    fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }
}

impl Site {
    /// Serves `root`, which need not exist; that of a guest lies `within` its own root, and so do its tables of types.
    pub(super) fn new(root: &Path, within: Option<Root>) -> Self {
        let media = match &within {
            Some(within) => Media::load(|path| within.file(path)),
            None => Media::load(|path| File::open(path).ok()),
        };
        Self { root: root.to_owned(), within, media }
    }

    /// Answers one request; its body does not matter, nor does its method beyond HEAD.
    pub(super) fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
        let decoded = percent_decoded(uri.path()).into_vec();
        if decoded.ends_with(b"/index.html") {
            return redirect("./".into(), uri);
        }
        let path = cleaned(&decoded);
        let found = match self.open(&path) {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        let has_slash = decoded.ends_with(b"/");
        let base = escaped(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
        match (found.is_directory(), has_slash) {
            (true, false) => redirect(format!("{base}/"), uri),
            (false, true) => redirect(format!("../{base}"), uri),
            (false, false) => self.file(method, headers, found, &path),
            (true, true) => {
                let index = [path.as_slice(), b"/index.html"].concat();
                let index = index.strip_prefix(b"/").unwrap_or(&index);
                match self.open(index) {
                    Ok(file) if !file.is_directory() => self.file(method, headers, file, index),
                    _ => list(method, headers, &found),
                }
            }
        }
    }

    /// Opens `path`, relative and without dots, if it is a file or a directory within the root.
    fn open(&self, path: &[u8]) -> Result<Found, Errno> {
        let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }));
        // A pipe must not stop us: it is opened without waiting, and then refused.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let root_flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let root = match &self.within {
            Some(within) => within.directory(&self.root)?,
            None => rustix::fs::open(&self.root, root_flags, Mode::empty())?,
        };
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&root, path, flags, Mode::empty(), within);
        let file = match opened {
            // Kernels before 5.6, and sandboxes that do not know the call; neither has guests.
            Err(Errno::NOSYS | Errno::PERM) if self.within.is_none() => {
                self.open_checked(path, flags)?
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(Found { file: file.into(), stat }),
            _ => Err(Errno::NOENT),
        }
    }

    fn open_checked(&self, path: &Path, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
        let real = |path: &Path| {
            path.canonicalize().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        };
        let target = real(&self.root.join(path))?;
        if !target.starts_with(real(&self.root)?) {
            return Err(Errno::XDEV);
        }
        rustix::fs::open(&target, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    fn file(
        &self,
        method: &Method,
        headers: &HeaderMap,
        found: Found,
        path: &[u8],
    ) -> Response<Body> {
        let (size, modified) = (found.size(), found.modified());
        let choice = ranges::choose(method, headers, size, modified);
        let mut response = match choice {
            Choice::NotModified => empty(StatusCode::NOT_MODIFIED),
            Choice::Failed => empty(StatusCode::PRECONDITION_FAILED),
            Choice::Unsatisfiable { text, tells_size } => {
                let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, text);
                if tells_size {
                    set(&mut response, CONTENT_RANGE, format!("bytes */{size}"));
                }
                return response;
            }
            Choice::Whole => {
                let kind = self.kind(&found.file, path);
                let whole = Pieces::one(found.file, Part { start: 0, length: size });
                content(method, StatusCode::OK, kind, whole)
            }
            Choice::Parts(parts) => self.parts(method, found, parts, path),
        };
        set_modified(&mut response, modified);
        response
    }

    fn parts(
        &self,
        method: &Method,
        found: Found,
        parts: Vec<Part>,
        path: &[u8],
    ) -> Response<Body> {
        let (size, kind) = (found.size(), self.kind(&found.file, path));
        if let [part] = parts[..] {
            let pieces = Pieces::one(found.file, part);
            let mut response = content(method, StatusCode::PARTIAL_CONTENT, kind, pieces);
            set(&mut response, CONTENT_RANGE, part.describe(size));
            return response;
        }
        let boundary = boundary();
        let outer = format!("multipart/byteranges; boundary={boundary}");
        let pieces = Pieces::several(found.file, parts, Frame { boundary, kind, size });
        content(method, StatusCode::PARTIAL_CONTENT, outer, pieces)
    }

    fn kind(&self, file: &File, path: &[u8]) -> String {
        self.media.of(&String::from_utf8_lossy(path)).unwrap_or_else(|| {
            let mut start = vec![0; usize::try_from(SNIFFED).unwrap_or(0)];
            let count = std::os::unix::fs::FileExt::read_at(file, &mut start, 0).unwrap_or(0);
            hyperfaas_protocol::sniff::content_type(&start[..count]).to_owned()
        })
    }
}

/// The segments of a decoded path below the root, without `.` and `..`, joined by single slashes.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    kept.join(&b'/')
}

fn content(method: &Method, status: StatusCode, kind: String, pieces: Pieces) -> Response<Body> {
    let length = pieces.size_hint().exact().unwrap_or(0);
    let body = if *method == Method::HEAD { Body::empty() } else { Body::pieces(pieces) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    set(&mut response, CONTENT_TYPE, kind);
    response
}

fn list(method: &Method, headers: &HeaderMap, found: &Found) -> Response<Body> {
    let modified = found.modified();
    if ranges::is_unmodified(method, headers, modified) {
        return empty(StatusCode::NOT_MODIFIED);
    }
    let Ok(entries) = entries(&found.file) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "Error reading directory");
    };
    let mut text = String::from(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n",
    );
    for name in entries {
        let mut link = escaped(name.as_bytes());
        // Without it a colon would end the name of a scheme.
        if link.split('/').next().is_some_and(|first| first.contains(':')) {
            link.insert_str(0, "./");
        }
        let shown = html(&name.to_string_lossy());
        writeln!(text, "<a href=\"{link}\">{shown}</a>").expect("writing to memory cannot fail");
    }
    text.push_str("</pre>\n");
    let mut response = sniffed(StatusCode::OK, text);
    set(&mut response, CONTENT_TYPE, "text/html; charset=utf-8".into());
    set_modified(&mut response, modified);
    response
}

/// Names in order of their bytes; those of directories end with a slash.
fn entries(directory: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)?.take(LISTED_MAX + 2) {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        names.push((name.to_owned(), entry.file_type() == FileType::Directory));
    }
    names.sort();
    let shown = |(mut name, is_directory): (Vec<u8>, bool)| {
        if is_directory {
            name.push(b'/');
        }
        OsString::from_vec(name)
    };
    Ok(names.into_iter().map(shown).collect())
}

/// Permanently to `target`, relative to the present path; the query stays.
fn redirect(mut target: String, uri: &Uri) -> Response<Body> {
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    set(&mut response, LOCATION, target);
    response
}

fn failed(cause: Errno) -> Response<Body> {
    match cause {
        Errno::ACCESS | Errno::PERM => error(StatusCode::FORBIDDEN, "403 Forbidden"),
        // A path through a file, a NUL in it, and a way out of the root are nothing that exists.
        Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::XDEV | Errno::LOOP => {
            error(StatusCode::NOT_FOUND, "404 page not found")
        }
        _ => error(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
    }
}

fn error(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = sniffed(status, format!("{text}\n"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn set_modified(response: &mut Response<Body>, modified: Option<u64>) {
    if let Some(second) = modified {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        set(response, LAST_MODIFIED, date);
    }
}

fn set(response: &mut Response<Body>, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A name as part of a URL's path, by the rules of Go's `url.URL`.
fn escaped(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(*byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'='
            | b'@' => out.push(char::from(*byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to memory cannot fail"),
        }
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(char),
        }
    }
    out
}

/// Sixty digits that no file contains by chance.
fn boundary() -> String {
    let digits = |_| format!("{:016x}", RandomState::new().build_hasher().finish());
    let mut text: String = (0..4).map(digits).collect();
    text.truncate(60);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cleaned_path_leads_nowhere_else(path in proptest::collection::vec(0_u8..=255, 0..20)) {
            let clean = cleaned(&path);
            let segments = || clean.split(|byte| *byte == b'/');
            prop_assert!(segments().all(|segment| segment != b".." && segment != b"."));
            prop_assert!(clean.is_empty() || segments().all(|segment| !segment.is_empty()));
        }
    }

    #[test]
    fn names_are_escaped_for_links_and_for_pages() {
        assert_eq!(escaped("we(ird)'é:b".as_bytes()), "we%28ird%29%27%C3%A9:b");
        assert_eq!(html("<a href=\"'&\">"), "&lt;a href=&#34;&#39;&amp;&#34;&gt;");
        assert_ne!(boundary(), boundary());
    }
}
