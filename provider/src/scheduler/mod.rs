//! Decides; never acts. A snapshot of the cluster goes in, the actions to take come out.
//!
//! [`plan()`] looks at every function and says what to start, drain or clear away; [`place()`] says where one request goes.
//! Both are functions of plain data: no clock, no lock, no I/O, no chance. [`crate::reconcile`] carries the actions out, and
//! [`crate::cluster`] counts an action as begun before it runs, so that it is never planned twice.

mod action;
mod place;
mod plan;
mod policy;
mod snapshot;

pub use action::{Action, Plan};
pub use place::{Candidate, place};
pub use plan::plan;
pub use policy::Policy;
pub use snapshot::{Failure, FunctionView, ImageState, Phase, ReplicaView, Snapshot, Wanted};
