//! Puts the commit into the program as `HYPERFAAS_SHA`; a variable of that name wins, for builds without a repository. Puts the
//! page's files into it too, plain and compressed.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

const VARIABLE: &str = "HYPERFAAS_SHA";

fn main() {
    page();
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    for file in ["HEAD", "logs/HEAD"].map(|name| Path::new("../.git").join(name)) {
        if file.exists() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    let given = std::env::var(VARIABLE).ok().filter(|sha| !sha.trim().is_empty());
    let sha = given.or_else(commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env={VARIABLE}={}", sha.trim());
}

/// The checked-out commit, if this is a repository with one and git is there to ask.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--verify", "HEAD"]).output().ok()?;
    let sha = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !sha.is_empty()).then_some(sha)
}

/// Writes `ui_files.rs`: a table of the files in `ui/`.
fn page() {
    println!("cargo::rerun-if-changed=ui");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let entries = std::fs::read_dir("ui").expect("the page's files are there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let mut table = String::from("/// The page's files.\npub(crate) const FILES: &[File] = &[\n");
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let bytes = std::fs::read(&path).expect("a readable file");
        let packed = out.join(format!("{name}.gz"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&bytes).expect("memory takes it");
        std::fs::write(&packed, encoder.finish().expect("memory takes it")).expect("written");
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let tag = hasher.finish();
        let plain = std::fs::canonicalize(&path).expect("it was just read");
        let at = if name == "index.html" { "" } else { name };
        let kind = kind(name);
        writeln!(
            table,
            "    File {{ path: \"/ui/{at}\", kind: {kind:?}, plain: include_bytes!({plain:?}), \
             gzip: include_bytes!({packed:?}), tag: \"W/\\\"{tag:016x}\\\"\" }},",
        )
        .expect("a string takes it");
    }
    table.push_str("];\n");
    std::fs::write(out.join("ui_files.rs"), table).expect("written");
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => panic!("no content type for {name}"),
    }
}
