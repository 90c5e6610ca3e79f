//! Decides; never acts. A snapshot of the cluster goes in, the actions to take come out.
//!
//! [`plan_function`] looks at one function and says what to start, drain, resize or specialise for it; [`plan()`] does so for all
//! of them; [`place()`] says where one request goes, and [`Seats`] says the same faster where there are many workers. All are
//! functions of plain data: no clock, no lock, no I/O, no chance. [`crate::reconcile`] carries the actions out, and
//! [`crate::cluster`] counts an action as begun before it runs, so that it is never planned twice.

mod action;
mod demand;
mod hosts;
mod lend;
mod look;
mod multiplex;
mod out;
mod place;
mod plan;
mod policy;
mod scaling;
mod seats;
mod snapshot;
mod traffic;
mod up;
mod why;
mod window;

#[cfg(test)]
mod tests;

pub use action::{Action, PlaceKind, Plan, WorkerPlace};
pub use demand::{comfort, expected_use, need};
pub use hosts::Hosts;
pub use lend::{Unlent, lends};
pub use multiplex::{is_unserved, wants_places};
pub use out::{Scale, is_pressed, is_served};
pub use place::{Seat, place};
pub use plan::{Budget, FunctionPlan, Lacks, Missing, plan, plan_function, share_starts};
pub use policy::{Mode, Policy};
pub use scaling::{Metric, Scaling};
pub use seats::Seats;
pub use snapshot::{
    Failure, FunctionView, Grant, GuestView, ImageState, LoadView, NodeId, NodeView, Offer, Phase,
    ReplicaView, Snapshot, Wanted, WorkerView,
};
pub use traffic::Traffic;
pub use why::{Rule, Why};
pub use window::Peak;
