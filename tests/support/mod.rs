//! What tests share: servers on free ports, images and binaries found and built once.

pub(crate) mod apart;
pub(crate) mod browser;
pub(crate) mod docker;
pub(crate) mod stack;

/// A number from the environment, for tests that can do more than they do by default.
pub(crate) fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    let parse =
        |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"));
    std::env::var(name).map_or(default, parse)
}
