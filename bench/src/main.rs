//! `bench`: measures HyperFaaS, and what stands beside it, on real processes and a real Docker engine.
#![allow(dead_code)]
mod call;
mod chunked;
mod closed;
mod convergence;
mod failure;
mod load;
mod sample;
mod serve;
mod timer;
mod usage;
fn main() {}
