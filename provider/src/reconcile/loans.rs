//! Takes guests' slots out of functions' own containers once nothing of the guest runs there.
//!
//! In: loans that the cluster says are over. Out: slots gone, and the cluster told. A worker whose slot cannot be taken out is not
//! lent again: it is tried for as long as the container lives.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::{Instrument, debug, info_span, warn};

use super::Reconciler;
use super::actions::{STOP_RETRY_FIRST, STOP_RETRY_MOST};
use crate::cluster::LoanOver;
use crate::engine::EngineError;
use crate::node::slot::SlotName;

impl Reconciler {
    /// Clears up after guests until shutdown.
    pub(super) async fn tend_loans(self: Arc<Self>) {
        loop {
            for over in self.cluster.loans_over() {
                let span = info_span!("clear loan", function = %over.owner, replica = over.name.0);
                self.spawn(|this| async move { this.clear_loan(over).await }.instrument(span));
            }
            self.cluster.loans_changed().await;
        }
    }

    async fn clear_loan(&self, over: LoanOver) {
        let mut wait = STOP_RETRY_FIRST;
        while let Err(reason) = self.take_out_slot(&over).await {
            warn!(reason, "slot of a guest not taken out yet");
            tokio::select! {
                () = sleep(wait) => {}
                () = over.host.route.gone.cancelled() => {} // nothing is left to take it out of
            }
            wait = (wait * 2).min(STOP_RETRY_MOST);
        }
        debug!("worker is the owner's again");
        self.cluster.loan_cleared(&over.name);
    }

    /// # Errors
    /// Why it may still be there.
    async fn take_out_slot(&self, over: &LoanOver) -> Result<(), String> {
        let Some(guests) = &self.guests else {
            return Ok(()); // slots were switched off meanwhile: what is left of one ends with the container
        };
        if over.host.route.gone.is_cancelled() {
            guests.slots.forget(&over.host.container);
            return Ok(());
        }
        let (worker, epoch) = over.place;
        match self.target(&over.host).await {
            Ok(target) => {
                let removed = guests.slots.remove(&target, &SlotName::of(worker, epoch)).await;
                removed.map_err(|error| error.to_string())
            }
            Err(EngineError::NotFound) => {
                guests.slots.forget(&over.host.container);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
