//! What two crates of HyperFaaS must agree on: wire types and pure parsing.
//!
//! In: bytes and strings from outside. Out: valid values, or an error that names the field.
//! Always: no I/O, no async, no clock except [`moment::SystemClock`].

pub mod control;
pub mod duration;
pub mod go_json;
pub mod image;
pub mod lane;
pub mod moment;
pub mod names;
pub mod openfaas;
pub mod quantity;
pub mod script;
pub mod sniff;

pub use names::{FunctionKey, FunctionName, Namespace, SecretName};
