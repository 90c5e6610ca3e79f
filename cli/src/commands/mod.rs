//! One file a command.

pub(crate) mod deploy;
pub(crate) mod invoke;
pub(crate) mod list;
pub(crate) mod ready;
pub(crate) mod remove;
