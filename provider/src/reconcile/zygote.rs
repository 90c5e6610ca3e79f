//! Has the interpreter of a function at zero wait in a standby container.
//!
//! In: what the cluster says is to be held. Out: a slot in that container, an order to its watchdog; or a reason.
//! Always: it is made exactly as a visit is, of the revision that was chosen; one that does not come about leaves nothing: its
//! container is ended, slot and all.

use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::script::script_at;
use tracing::info;

use super::Reconciler;
use super::actions::{environment, kind_of, variable};
use crate::catalog::Function;
use crate::cluster::{GUESTS_WORKER, Host};
use crate::engine::{Image, ReplicaId};
use crate::scheduler::{PlaceKind, WorkerPlace};

impl Reconciler {
    /// Whether the interpreter of `revision` of `key`, whose image is `image`, could wait, as far as its settings tell.
    pub(super) fn can_wait(&self, key: &FunctionKey, revision: u64, image: &Image) -> bool {
        let function = self.catalog.function(key);
        let function = function.filter(|function| function.revision == revision);
        function.is_some_and(|function| runs_script(&function, image))
    }

    /// Has `function`'s interpreter wait in `name`.
    pub(super) async fn hold(
        &self,
        name: &ReplicaId,
        host: &Host,
        (function, revision): (FunctionKey, u64),
        epoch: u64,
    ) {
        let begun = self.now();
        let place = WorkerPlace {
            host: name.clone(),
            worker: GUESTS_WORKER,
            epoch,
            kind: PlaceKind::Zygote,
        };
        if self.catalog.function(&function).is_none_or(|it| it.revision != revision) {
            return self.cluster.hold_failed(name, "it is not wanted any more".into(), self.now());
        }
        match self.furnish(&function, &place, host, true).await {
            Ok(order) => {
                // If not, it is over already, for a reason that was told.
                if self.cluster.order_zygote(name, epoch, order, self.now()) {
                    let ordered_us = self.now().since(begun).as_micros();
                    info!(ordered_us, "its interpreter is to wait");
                }
            }
            Err(reason) => self.cluster.hold_failed(name, reason, self.now()),
        }
    }
}

/// Whether a function is a script that an interpreter could wait with; its watchdog has the last word.
fn runs_script(function: &Function, image: &Image) -> bool {
    let env = environment(function);
    let variable = |name: &str| variable(name, &env, image);
    let words = match kind_of(&env, image) {
        FunctionKind::Server => [image.entrypoint.as_slice(), &image.command].concat(),
        FunctionKind::Watchdog => {
            let set = |name: &str| variable(name).filter(|text| !text.is_empty());
            let Some(process) = set("fprocess").or_else(|| set("function_process")) else {
                return false;
            };
            if variable("mode") != Some("http") {
                return false;
            }
            process.split(' ').map(str::to_owned).collect()
        }
    };
    script_at(&words).is_ok()
}
