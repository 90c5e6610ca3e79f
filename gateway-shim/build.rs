//! Puts the commit into the program as `HYPERFAAS_SHA`; a variable of that name wins, for builds without a repository.

use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "HYPERFAAS_SHA";

fn main() {
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
