//! Mode `static`: what of-watchdog does alike, and what it must not be talked into.
//!
//! Runs against ours, or against the of-watchdog that `WATCHDOG_UNDER_TEST` names.

use std::path::PathBuf;

use crate::support::{Answer, Watchdog, is_ours};

/// A directory being served.
struct Site {
    watchdog: Watchdog,
    _directory: tempfile::TempDir,
}

impl Site {
    /// `None` when the binary under test knows no mode `static`.
    fn start() -> Option<Self> {
        if std::env::var("WATCHDOG_KIND").is_ok_and(|kind| kind != "of") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("public");
        let write = |name: &str, text: &str| {
            let path: PathBuf = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("digits", "0123456789");
        write("page.html", "page");
        write("with/index.html", "index");
        write("list/a&b:c", "x");
        write("list/inner/x", "x");
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("digits", root.join("link")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("secret"), root.join("escape")).unwrap();
        make_pipe(&root.join("pipe"));
        let path = root.display().to_string();
        let watchdog = Watchdog::start(&[("mode", "static"), ("static_path", &path)]);
        Some(Self { watchdog, _directory: directory })
    }

    fn get(&self, target: &str) -> Answer {
        self.watchdog.get(target)
    }

    fn with(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.watchdog.ask("GET", target, headers, b"")
    }
}

fn make_pipe(path: &std::path::Path) {
    let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn files_are_served_with_type_and_time() {
    let Some(site) = Site::start() else { return };
    let answer = site.get("/page.html");
    assert_eq!((answer.status, answer.text().as_str()), (200, "page"));
    assert_eq!(answer.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("Accept-Ranges"), Some("bytes"));
    assert_eq!(answer.header("Content-Length"), Some("4"));
    let changed = answer.header("Last-Modified").unwrap().to_owned();
    let again = site.with("/page.html", &[("If-Modified-Since", &changed)]);
    assert_eq!((again.status, again.header("Last-Modified")), (304, Some(changed.as_str())));
    let sniffed = site.get("/digits");
    assert_eq!(sniffed.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(site.watchdog.post("/digits", b"ignored").text(), "0123456789");
    assert_eq!(site.get("/link").text(), "0123456789");
    let mut client = site.watchdog.client();
    client.send("HEAD", "/digits", &[], b"");
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")));
    client.send("GET", "/digits", &[], b"");
    assert_eq!(client.answer().text(), "0123456789", "the connection is kept");
}

#[test]
fn ranges_are_served() {
    let Some(site) = Site::start() else { return };
    let range = |text: &str| site.with("/digits", &[("Range", text)]);
    let one = range("bytes=2-4");
    assert_eq!((one.status, one.text().as_str()), (206, "234"));
    assert_eq!(one.header("Content-Range"), Some("bytes 2-4/10"));
    let several = range("bytes=0-0,-2");
    let kind = several.header("Content-Type").unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let part = |range: &str, text: &str| {
        let kind = "text/plain; charset=utf-8";
        format!(
            "--{boundary}\r\nContent-Range: bytes {range}/10\r\nContent-Type: {kind}\r\n\r\n{text}\r\n"
        )
    };
    let expected = format!("{}{}--{boundary}--\r\n", part("0-0", "0"), part("8-9", "89"));
    assert_eq!((several.status, several.text()), (206, expected));
    assert!(!several.is_cut);
    let missed = range("bytes=20-");
    assert_eq!((missed.status, missed.header("Content-Range")), (416, Some("bytes */10")));
    assert_eq!(missed.text(), "invalid range: failed to overlap\n");
    assert_eq!(range("bytes=x").status, 416);
    assert_eq!(range("bytes=0-9,0-9").status, 200);
}

#[test]
fn directories_are_listed_or_have_an_index() {
    let Some(site) = Site::start() else { return };
    assert_eq!(site.get("/with/").text(), "index");
    for (from, to) in [
        ("/with", "with/"),
        ("/with/index.html?q=1", "./?q=1"),
        ("/page.html/", "../page.html"),
        ("/list?a", "list/?a"),
    ] {
        let answer = site.get(from);
        assert_eq!((answer.status, answer.header("Location")), (301, Some(to)), "{from}");
    }
    let list = site.get("/list/");
    assert_eq!(list.header("Content-Type"), Some("text/html; charset=utf-8"));
    let head = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n";
    let links = "<a href=\"./a&b:c\">a&amp;b:c</a>\n<a href=\"inner/\">inner/</a>\n</pre>\n";
    assert_eq!(list.text(), format!("{head}{links}"));
}

#[test]
fn nothing_outside_is_served() {
    let Some(site) = Site::start() else { return };
    for target in ["/%2e%2e/secret", "/with/..%2f..%2fsecret", "/secret%00", "/digits%00", "/no"] {
        let answer = site.get(target);
        assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"));
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    }
    if is_ours() {
        assert_eq!(site.get("/escape").status, 404, "a link leads out");
        assert_eq!(site.get("/pipe").status, 404, "a pipe would block");
    }
}

#[test]
fn a_missing_directory_is_a_404_and_an_empty_path_a_mistake() {
    if std::env::var("WATCHDOG_KIND").is_ok_and(|kind| kind != "of") {
        return;
    }
    let watchdog = Watchdog::start(&[("mode", "static"), ("static_path", "/no/such/directory")]);
    assert_eq!(watchdog.get("/").status, 404);
    assert_eq!(watchdog.get("/_/health").status, 200);
    drop(watchdog);
    let mut watchdog = Watchdog::launch(&[("mode", "static"), ("static_path", "")]);
    assert_eq!(watchdog.exit().code(), Some(1));
}
