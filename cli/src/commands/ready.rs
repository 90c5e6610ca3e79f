//! `hyperfaas ready`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::api::Gateway;
use crate::args::ReadyArgs;
use crate::error::Error;
use crate::output::say;
use crate::wait::{Target, until_ready};

/// Pause between two looks at the gateway's health.
const PAUSE: Duration = Duration::from_millis(250);

/// Waits for a function, or for the gateway.
pub(crate) async fn run(args: ReadyArgs) -> Result<(), Error> {
    let Some(name) = args.name else {
        let gateway = Gateway::open(&args.gateway, None, true)?;
        return gateway_ready(&gateway, args.wait).await;
    };
    let gateway = Gateway::open(&args.gateway, None, false)?;
    let target = Target { name: name.clone(), namespace: args.namespace.unwrap_or_default() };
    let failed = until_ready(&gateway, &[target], args.wait).await;
    if failed == 0 { Ok(()) } else { Err(Error::NotReady(name)) }
}

async fn gateway_ready(gateway: &Gateway, limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    loop {
        match gateway.health().await {
            Ok(()) => {
                say(&format!("gateway at {} is ready", gateway.url()));
                return Ok(());
            }
            Err(error) if Instant::now() + PAUSE > deadline => return Err(error.into()),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
