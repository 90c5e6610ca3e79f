//! `bench-cat` brings its own entry: see src/cat.rs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=bench-cat=-nostartfiles");
}
