//! The program against a gateway that records what it is sent.

#![expect(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

mod calls;
mod deploying;
mod support;
