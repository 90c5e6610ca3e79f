//! The function that everything is measured with: an HTTP server that does next to nothing.
//!
//! In: any request; `?sleep_ms=N` waits, as a function does that asks a database; `?burn_ms=N` burns CPU time on the one thread
//! there is, first come first served, as a Python or Node function does. Out: `ok`, after the body was read.
//! Always: one thread, keep-alive, no logging, so that what is added by others is all that differs.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

use crate::failure::{During, Result};

/// Longest sleep or burning that may be asked for.
const LONGEST: Duration = Duration::from_secs(60);
/// Rounds between two looks at the clock, so that burning is not all system calls: a few µs.
const BETWEEN_LOOKS: u32 = 1000;

/// The server, listening.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on all interfaces; port 0 is a free one.
    pub(crate) async fn bind(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .during(format!("listening on port {port}"))?;
        let port = listener.local_addr().during("reading the port")?.port();
        Ok(Self { listener, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    /// How this machine reaches it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped.
    pub(crate) async fn run(self) {
        while let Ok((stream, _)) = self.listener.accept().await {
            let _ = stream.set_nodelay(true);
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A caller that breaks its connection has nothing to be told.
            tokio::spawn(async move { drop(connection.await) });
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let wait = ms(&request, "sleep_ms=");
    let work = ms(&request, "burn_ms=");
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
    if let Some(work) = work {
        burn(work);
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"ok\n"))))
}

fn ms(request: &Request<Incoming>, name: &str) -> Option<Duration> {
    let ms = request.uri().query()?.strip_prefix(name)?.parse().ok()?;
    Some(Duration::from_millis(ms).min(LONGEST))
}

/// Spends `work` of this thread's CPU time; a throttled container takes longer on the wall, as real work would.
fn burn(work: Duration) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap_or_default()
    };
    let end = now() + work;
    while now() < end {
        for _ in 0..BETWEEN_LOOKS {
            std::hint::spin_loop();
        }
    }
}
