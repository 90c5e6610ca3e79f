//! What is done to containers on their host, beside what the engine offers.

pub mod keeper;
pub mod rights;
pub mod rootfs;
pub mod slot;
pub mod standby;
mod sys;
pub mod view;
