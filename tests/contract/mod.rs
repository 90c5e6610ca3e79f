//! What both engines promise, claim by claim; and what only a real one can show.

mod docker_only;
mod engine;
mod lab;
mod registry;
mod sim_only;
