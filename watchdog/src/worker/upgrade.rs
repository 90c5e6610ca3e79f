//! A connection that changes its protocol, such as to WebSocket: from then on bytes go both ways untouched.
//!
//! In: the function's `101` and both connections. Out: the `101` for the client.
//! Always: no deadline applies afterwards; when one side ends, the other learns it; the request counts until both have.

use std::io;

use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::headers;
use super::relayed::Flow;
use crate::body::Body;
use crate::exchange::Exchange;
use crate::guarded::Guarded;
use crate::guestlog;
use crate::log::line;

/// Joins the client's connection and the function's, in the background, once the `101` is out.
pub(super) fn join(
    client: OnUpgrade,
    mut response: Response<()>,
    flow: Flow,
    exchange: Exchange,
) -> Response<Body> {
    let function = hyper::upgrade::on(&mut response);
    guestlog::spawn(async move {
        let joined = async {
            let (client, function) = (client.await?, function.await?);
            drop(flow);
            // An abrupt end of either side is how most of these connections end.
            let _ = copy(client, function).await;
            Ok::<_, hyper::Error>(())
        };
        if let Err(error) = joined.await {
            line!("Upgrade failed: {error}");
        }
        drop(exchange);
    });
    let protocol = response.headers().get(UPGRADE).cloned();
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    headers::strip(&mut parts.headers, None);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(UPGRADE, protocol);
    }
    Response::from_parts(parts, Body::empty())
}

/// Moves bytes both ways until both sides have ended.
async fn copy(client: Upgraded, function: Upgraded) -> io::Result<()> {
    let mut function = TokioIo::new(function);
    match client.downcast::<TokioIo<Guarded>>() {
        Ok(client) => {
            // What the client sent right behind its request.
            function.write_all(&client.read_buf).await?;
            let mut client = client.io.into_inner().into_inner();
            tokio::io::copy_bidirectional(&mut client, &mut function).await?;
        }
        Err(client) => {
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut function).await?;
        }
    }
    Ok(())
}
