//! The provider: HyperFaaS' global scheduler behind the OpenFaaS provider API.

pub mod api;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod dispatch;
pub mod engine;
pub mod lanes;
pub mod link;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod reconcile;
pub mod scheduler;
pub mod secrets;
pub mod spec;
pub mod store;
