//! Requests byte for byte as OpenFaaS' clients send them, against the provider's router in this process.
//!
//! Each `*.json` file is one client's story: steps in order, on a provider of its own that has nothing but the default
//! namespace. A step names the request and the whole answer. [`bad_input`] is what no well-behaved client sends.
//! Source of the requests: captures of faas-cli, the Go gateway, go-sdk, the certifier and the UI (docs/compat.md).

mod bad_input;
mod invoking;
mod openapi;
mod provider;
mod sockets;
mod stories;
