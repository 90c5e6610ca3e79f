//! Lanes: requests from the provider, moved to a worker without a look into them.
//!
//! In: connections that begin with a greeting, then frames. Out: the same, and a request's counts in [`Books`].
//! Always: a peer without the key gets not a byte, and neither does one too slow to say it; the number of lanes is bounded; a
//! lane serves one request at a time; a request runs only in the very epoch of the worker it names, and what is sent back as
//! bounced has reached no worker; a frame that stops half-way ends the lane.
//! Touches: TCP. Who runs, waits or bounces is decided by `admission`; a worker with a server of its own is served by `raw`,
//! all others by `described`.
//! Source of the frames: [`hyperfaas_protocol::lane`].

mod described;
mod duct;
mod frames;
mod raw;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::lane::{
    Crowd, Flags, GREETING_LEN, Greeting, Header, Kind, LANE_VERSION, Reason,
};
use rustix::net::sockopt;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::exchange::Books;
use crate::http::Doors;
use crate::worker::{Miss, Running, Table};
use frames::{Inlet, send};

/// Most lanes. An idle one takes about 2 KiB.
const LANES_MAX: usize = 2048;
/// Seconds of silence after which the kernel asks whether the peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Everything that lanes need.
#[derive(Debug)]
pub(crate) struct Lanes {
    table: Arc<Table>,
    books: Arc<Books>,
    closing: watch::Receiver<bool>,
    /// Held while a request runs, so that the drain waits for it; gone once the doors are closed.
    guest: mpsc::WeakSender<()>,
    room: Semaphore,
}

/// What becomes of a lane after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Next,
    Close,
}

impl Lanes {
    pub(crate) fn new(table: Arc<Table>, books: Arc<Books>, doors: &Doors) -> Self {
        let (closing, guest) = doors.watch();
        Self { table, books, closing, guest, room: Semaphore::new(LANES_MAX) }
    }

    /// The greeting that comes on `stream`, if it is one of somebody who knows `key`.
    pub(crate) async fn greet(stream: &mut TcpStream, key: &str) -> Option<Greeting> {
        let mut bytes = [0; GREETING_LEN];
        stream.read_exact(&mut bytes).await.ok()?;
        let greeting = Greeting::decode(&bytes)?;
        (greeting.knows(key) && greeting.version == LANE_VERSION).then_some(greeting)
    }

    /// Serves a lane that was greeted with `greeting`, until either side closes it.
    pub(crate) async fn serve(&self, stream: TcpStream, greeting: Greeting) {
        let Ok(_room) = self.room.try_acquire() else { return };
        // Whoever is at the other end sees that it is over.
        let _ = self.lane(&stream, greeting).await;
    }

    async fn lane(&self, stream: &TcpStream, greeting: Greeting) -> io::Result<()> {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
        stream.set_nodelay(true)?;
        let welcome = match self.table.find(greeting.worker, greeting.epoch) {
            Ok(running) => welcome(&running),
            Err(miss) => return bounce(stream, 0, reason(miss), Crowd::default()).await,
        };
        send(stream, &welcome, &[]).await?;
        let mut closing = self.closing.clone();
        let mut inlet = Inlet::default();
        let mut last = 0;
        loop {
            let header = tokio::select! {
                header = inlet.header(stream) => header?,
                _ = closing.wait_for(|closing| *closing) => return Ok(()),
            };
            let Some(header) = header else { return Ok(()) };
            match header.kind {
                // About a request that was over before the provider knew.
                Kind::Data | Kind::End | Kind::Done if header.id <= last => {
                    inlet.skip(stream, header.length).await?;
                }
                Kind::Request if header.id > last => {
                    last = header.id;
                    if self.request(stream, &mut inlet, &header).await? == After::Close {
                        return Ok(());
                    }
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
            inlet.rest_if_idle();
        }
    }

    async fn request(
        &self,
        stream: &TcpStream,
        inlet: &mut Inlet,
        header: &Header,
    ) -> io::Result<After> {
        // While it is held the doors are not closed.
        let guest = self.guest.upgrade();
        let found = self.table.find(header.worker, header.epoch);
        let running = match (found, &guest) {
            (Ok(running), Some(_)) => running,
            (Ok(_), None) => return back(stream, inlet, header, Reason::NotReady).await,
            (Err(miss), _) => return back(stream, inlet, header, reason(miss)).await,
        };
        // What is logged about a guest's request is the guest's.
        match running.guest.clone() {
            Some(guest) => guest.hold(self.run(stream, inlet, header, running)).await,
            None => self.run(stream, inlet, header, running).await,
        }
    }

    async fn run(
        &self,
        stream: &TcpStream,
        inlet: &mut Inlet,
        header: &Header,
        running: Arc<Running>,
    ) -> io::Result<After> {
        match (running.mode.takes_heads(), header.flags.has(Flags::DESCRIBED)) {
            (false, false) => self.raw(stream, inlet, header, running).await,
            (true, true) => self.described(stream, inlet, header, running).await,
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn welcome(running: &Running) -> Header {
    let relay = running.mode.relay();
    let status = relay.map_or(500, |relay| relay.unreachable_status());
    let flags = Flags::NONE.with_if(Flags::DESCRIBED, running.mode.takes_heads());
    Header { flags, status, ..Header::new(Kind::Welcome, 0) }
}

const fn reason(miss: Miss) -> Reason {
    match miss {
        Miss::NoWorker | Miss::Epoch { .. } => Reason::Stale,
        Miss::State(_) => Reason::NotReady,
    }
}

async fn bounce(stream: &TcpStream, id: u64, reason: Reason, crowd: Crowd) -> io::Result<()> {
    let payload = crowd.encode();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = Header { code: reason as u8, length, ..Header::new(Kind::Bounce, id) };
    send(stream, &header, &payload).await
}

/// Sends a request back that has been looked at no further.
async fn back(
    stream: &TcpStream,
    inlet: &mut Inlet,
    header: &Header,
    reason: Reason,
) -> io::Result<After> {
    bounce(stream, header.id, reason, Crowd::default()).await?;
    inlet.skip(stream, header.length).await?;
    Ok(After::Next)
}
