//! `hyperfaas remove`.

use crate::api::Gateway;
use crate::args::RemoveArgs;
use crate::error::Error;
use crate::output::{complain, say};
use crate::stack::Stack;

/// Removes the named functions, or those of the stack file; a function that is not there counts as failed.
pub(crate) async fn run(args: RemoveArgs) -> Result<(), Error> {
    let wanted = args.namespace.clone().unwrap_or_default();
    let (targets, stack_gateway) = match &args.stack.file {
        None => {
            (args.names.into_iter().map(|name| (name, wanted.clone())).collect::<Vec<_>>(), None)
        }
        Some(file) => {
            let stack = Stack::load(file, &args.stack)?;
            let gateway = stack.gateway().map(str::to_owned);
            let namespace = |own: String| if wanted.is_empty() { own } else { wanted.clone() };
            (
                stack
                    .functions
                    .into_iter()
                    .map(|(name, f)| (name, namespace(f.namespace)))
                    .collect(),
                gateway,
            )
        }
    };
    let gateway = Gateway::open(&args.gateway, stack_gateway.as_deref(), false)?;
    let mut failed = 0;
    for (name, namespace) in &targets {
        match gateway.remove(name, namespace).await {
            Ok(true) => say(&format!("{name}: removed")),
            Ok(false) => {
                complain(&format!("{name}: there is no such function"));
                failed += 1;
            }
            Err(error) => {
                complain(&format!("{name}: {error}"));
                failed += 1;
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(Error::Some { failed, all: targets.len() }) }
}
