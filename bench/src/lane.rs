//! A lane to a watchdog, as the provider opens it: HTTP/1.1 in frames. For what the lane itself costs.
//!
//! In: whole requests. Out: the answer's bytes, as a plain connection would bring them.
//! Always: one request at a time; what has come is read at once and copied, so that a frame's header costs no call of its own.
//! Touches: one socket. Source of the frames: [`hyperfaas_protocol::lane`]. A frame that a worker in mode http never gets is
//! [`Fault::Garbage`].

use std::net::SocketAddr;

use hyperfaas_protocol::lane::{Flags, Greeting, HEADER_LEN, Header, Kind, Summary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::call::Fault;

/// Size of reads, in bytes.
const BUFFER: usize = 16 * 1024;
/// Dials at once, as many as the provider makes: a watchdog keeps only so many peers that have not yet shown the key.
static DIALS: Semaphore = Semaphore::const_new(8);
/// The container's owner, since its start.
const OWNER: (u8, u64) = (0, 0);

/// A lane to the container's owner.
#[derive(Debug)]
pub(crate) struct Lane {
    stream: TcpStream,
    /// The present request.
    id: u64,
    /// Bytes to come of the frame that is being read.
    left: usize,
    /// Bytes of the present answer so far.
    heard: u32,
    /// What has come, unused between the two ends.
    buffer: Box<[u8]>,
    used: usize,
    filled: usize,
    /// Frames are put together here.
    frame: Vec<u8>,
}

impl Lane {
    /// Opens a lane with `key`.
    pub(crate) async fn open(address: SocketAddr, key: &str) -> Result<Self, Fault> {
        let _dial = DIALS.acquire().await.map_err(|_| Fault::Connect)?;
        let stream = TcpStream::connect(address).await.map_err(|_| Fault::Connect)?;
        stream.set_nodelay(true).map_err(|_| Fault::Connect)?;
        let mut lane = Self {
            stream,
            id: 0,
            left: 0,
            heard: 0,
            buffer: vec![0; BUFFER].into(),
            used: 0,
            filled: 0,
            frame: Vec::new(),
        };
        let greeting = Greeting::new(OWNER.0, OWNER.1, key).encode();
        lane.stream.write_all(&greeting).await.map_err(|_| Fault::Connect)?;
        let welcome = lane.header().await.map_err(|_| Fault::Connect)?;
        let is_raw = welcome.kind == Kind::Welcome && !welcome.flags.has(Flags::DESCRIBED);
        if is_raw { Ok(lane) } else { Err(Fault::Connect) }
    }

    /// Begins a request; one that is whole can be repeated.
    pub(crate) async fn send(&mut self, request: &[u8], is_whole: bool) -> Result<(), Fault> {
        self.id += 1;
        self.heard = 0;
        let header = Header {
            flags: Flags::NONE.with_if(Flags::ENDS.with(Flags::REPEATABLE), is_whole),
            worker: OWNER.0,
            epoch: OWNER.1,
            ..Header::new(Kind::Request, self.id)
        };
        self.put(header, |frame| frame.extend_from_slice(request)).await
    }

    /// Sends more of the request, in a frame.
    pub(crate) async fn send_piece(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.put(Header::new(Kind::Data, self.id), |frame| frame.extend_from_slice(piece)).await
    }

    /// The next bytes of the answer; 0 when the worker has closed its connection.
    pub(crate) async fn read(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        while self.left == 0 {
            let header = self.header().await?;
            match header.kind {
                Kind::Data if header.id == self.id => self.left = header.length as usize,
                Kind::End if header.id == self.id => return Ok(0),
                // Still about the request before.
                Kind::End if header.id < self.id => {}
                Kind::Bounce if header.id == self.id => {
                    self.skip(header.length as usize).await?;
                    return Err(Fault::Bounced);
                }
                _ => return Err(Fault::Garbage),
            }
        }
        if self.used == self.filled {
            self.fill(0).await?;
        }
        let count = self.left.min(self.filled - self.used).min(into.len());
        into[..count].copy_from_slice(&self.buffer[self.used..self.used + count]);
        self.used += count;
        self.left -= count;
        self.heard = self.heard.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count)
    }

    /// Says that the answer, with `status`, is over, and whether its end was certain.
    pub(crate) async fn done(&mut self, status: u16, is_certain: bool) -> Result<(), Fault> {
        let flags = Flags::NONE.with_if(Flags::REUSABLE, is_certain);
        let header =
            Header { flags, status, heard: self.heard, ..Header::new(Kind::Done, self.id) };
        let summary = Summary { method: b"GET", target: b"/", call_id: b"", content_length: -1 };
        self.put(header, |frame| summary.write(frame)).await
    }

    async fn put(
        &mut self,
        header: Header,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Fault> {
        self.frame.clear();
        self.frame.resize(HEADER_LEN, 0);
        payload(&mut self.frame);
        let length = u32::try_from(self.frame.len() - HEADER_LEN).map_err(|_| Fault::Garbage)?;
        self.frame[..HEADER_LEN].copy_from_slice(&Header { length, ..header }.encode());
        self.stream.write_all(&self.frame).await.map_err(|_| Fault::Closed)
    }

    /// Passes over bytes that are no answer's.
    async fn skip(&mut self, length: usize) -> Result<(), Fault> {
        let mut left = length;
        while left > 0 {
            if self.used == self.filled {
                self.fill(0).await?;
            }
            let count = left.min(self.filled - self.used);
            self.used += count;
            left -= count;
        }
        Ok(())
    }

    async fn header(&mut self) -> Result<Header, Fault> {
        loop {
            let unused = &self.buffer[self.used..self.filled];
            if let Some(bytes) = unused.first_chunk::<HEADER_LEN>() {
                self.used += HEADER_LEN;
                return Header::decode(bytes).map_err(|_| Fault::Garbage);
            }
            let kept = unused.len();
            self.buffer.copy_within(self.used..self.filled, 0);
            self.fill(kept).await?;
        }
    }

    /// Reads what there is behind the first `kept` bytes, at least one.
    async fn fill(&mut self, kept: usize) -> Result<(), Fault> {
        match self.stream.read(&mut self.buffer[kept..]).await {
            Ok(0) | Err(_) if self.heard == 0 => Err(Fault::Closed),
            Ok(0) | Err(_) => Err(Fault::Cut),
            Ok(count) => {
                (self.used, self.filled) = (0, kept + count);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hyperfaas_protocol::lane::GREETING_LEN;
    use tokio::net::TcpListener;

    use super::*;

    async fn take(peer: &mut TcpStream) -> (Header, Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        peer.read_exact(&mut header).await.unwrap();
        let header = Header::decode(&header).unwrap();
        let mut payload = vec![0; header.length as usize];
        peer.read_exact(&mut payload).await.unwrap();
        (header, payload)
    }

    fn frame(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&Header { length, ..Header::new(kind, id) }.encode(), payload].concat()
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_one_and_what_is_left_of_the_last_is_passed_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let watchdog = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut greeting = [0; GREETING_LEN];
            peer.read_exact(&mut greeting).await.unwrap();
            assert!(Greeting::decode(&greeting).unwrap().knows("k"));
            peer.write_all(&Header::new(Kind::Welcome, 0).encode()).await.unwrap();
            for id in 1..=2 {
                let (header, payload) = take(&mut peer).await;
                assert_eq!((header.kind, header.id), (Kind::Request, id));
                assert_eq!(payload, b"GET");
                let stale = frame(Kind::End, id - 1, b"");
                let answer = [stale, frame(Kind::Data, id, b"hel"), frame(Kind::Data, id, b"lo")];
                let bytes = answer.concat();
                let (first, rest) = bytes.split_at(HEADER_LEN + 50);
                peer.write_all(first).await.unwrap();
                peer.write_all(rest).await.unwrap();
                let (done, summary) = take(&mut peer).await;
                assert_eq!((done.kind, done.id, done.heard, done.status), (Kind::Done, id, 5, 200));
                assert!(done.flags.has(Flags::REUSABLE) && Summary::decode(&summary).is_ok());
            }
            for (id, kind) in [(3, Kind::Bounce), (4, Kind::Failed)] {
                take(&mut peer).await;
                peer.write_all(&frame(kind, id, &[0; 12])).await.unwrap();
            }
        });
        let mut lane = Lane::open(address, "k").await.unwrap();
        for _ in 0..2 {
            lane.send(b"GET", true).await.unwrap();
            let (mut text, mut piece) = (Vec::new(), [0; 2]);
            while text.len() < 5 {
                let count = lane.read(&mut piece).await.unwrap();
                text.extend_from_slice(&piece[..count]);
            }
            assert_eq!(text, b"hello");
            lane.done(200, true).await.unwrap();
        }
        for fault in [Fault::Bounced, Fault::Garbage] {
            lane.send(b"GET", true).await.unwrap();
            assert_eq!(lane.read(&mut [0; 2]).await, Err(fault));
        }
        watchdog.await.unwrap();
    }
}
