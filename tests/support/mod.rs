//! What tests share: servers on free ports, images and binaries found and built once.

pub(crate) mod apart;
pub(crate) mod browser;
pub(crate) mod docker;
pub(crate) mod stack;
