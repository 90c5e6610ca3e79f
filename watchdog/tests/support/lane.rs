//! The provider's end of a lane, one blocking frame at a time.

use std::io::{Read, Write};
use std::net::TcpStream;

use hyperfaas_protocol::lane::{Flags, Greeting, HEADER_LEN, Header, Kind, Summary, write_request};

use super::{PATIENCE, Watchdog};
use crate::managed::KEY;

/// A lane to the first worker.
pub(crate) struct Lane {
    pub(crate) stream: TcpStream,
    id: u64,
    /// Bytes of the present answer.
    heard: u32,
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

/// The port that control links and lanes are dialled on.
pub(crate) fn control_port(watchdog: &mut Watchdog) -> u16 {
    let line = watchdog.line("Control link listening on port: ");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A connection on which nothing has been said.
pub(crate) fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Lane {
    /// A lane that was welcomed, and the welcome.
    pub(crate) fn open(port: u16) -> (Self, Header) {
        Self::to(port, 0, 0)
    }

    /// The same, to this worker and epoch.
    pub(crate) fn to(port: u16, worker: u8, epoch: u64) -> (Self, Header) {
        let mut lane = Self { stream: dial(port), id: 0, heard: 0 };
        lane.write(&Greeting::new(worker, epoch, KEY).encode());
        let welcome = lane.frame().expect("a welcome").header;
        assert_eq!(welcome.kind, Kind::Welcome, "{welcome:?}");
        (lane, welcome)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send(&mut self, header: Header, payload: &[u8]) {
        let header = Header { length: u32::try_from(payload.len()).unwrap(), ..header };
        self.write(&[&header.encode()[..], payload].concat());
    }

    /// The header of the next request.
    pub(crate) fn request(&mut self) -> Header {
        self.id += 1;
        self.heard = 0;
        Header::new(Kind::Request, self.id)
    }

    /// A header about the present request.
    pub(crate) fn about(&self, kind: Kind) -> Header {
        Header::new(kind, self.id)
    }

    /// Sends a whole request as HTTP.
    pub(crate) fn ask(&mut self, text: &str) {
        let header = self.request();
        self.send(Header { flags: Flags::ENDS, ..header }, text.as_bytes());
    }

    /// Sends a request's head as data, `flags` besides.
    pub(crate) fn describe(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        flags: Flags,
        body: &[u8],
    ) {
        self.describe_at((0, 0), method, target, fields, flags, body);
    }

    /// The same for this worker and epoch.
    pub(crate) fn describe_at(
        &mut self,
        (worker, epoch): (u8, u64),
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        flags: Flags,
        body: &[u8],
    ) {
        let mut payload = Vec::new();
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        assert!(write_request(&mut payload, method, target, fields));
        let head = u32::try_from(payload.len()).unwrap();
        payload.extend_from_slice(body);
        let flags = Flags::DESCRIBED.with(flags);
        let header = Header { worker, epoch, flags, head, ..self.request() };
        self.send(header, &payload);
    }

    /// Says that the present request is over, and its answer all that has come.
    pub(crate) fn done(&mut self, flags: Flags, status: u16) {
        self.done_after(self.heard, flags, status);
    }

    /// The same when only so many bytes had come by the time it was said.
    pub(crate) fn done_after(&mut self, heard: u32, flags: Flags, status: u16) {
        let summary =
            Summary { method: b"GET", target: b"/path?q", call_id: b"id-1", content_length: 2 };
        let mut text = Vec::new();
        summary.write(&mut text);
        self.send(Header { flags, status, heard, ..self.about(Kind::Done) }, &text);
    }

    /// The next frame; `None` when the other side has closed.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut bytes = [0; HEADER_LEN];
        if let Err(error) = self.stream.read_exact(&mut bytes) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "nothing came");
            return None;
        }
        let header = Header::decode(&bytes).unwrap();
        let mut payload = vec![0; usize::try_from(header.length).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        if header.kind == Kind::Data && header.id == self.id {
            self.heard = self.heard.wrapping_add(header.length);
        }
        Some(Frame { header, payload })
    }

    /// The next frame, which is about the present request and of `kind`.
    pub(crate) fn expect(&mut self, kind: Kind) -> Frame {
        let frame = self.frame().expect("a frame");
        assert_eq!((frame.header.kind, frame.header.id), (kind, self.id), "{frame:?}");
        frame
    }

    /// Bytes of the answer until `done` says that they are all.
    pub(crate) fn data(&mut self, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut all = Vec::new();
        while !done(&all) {
            all.extend(self.expect(Kind::Data).payload);
        }
        all
    }

    /// The body behind an answer's head that came as data.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let Frame { header, payload } = self.frame().expect("a frame");
            assert!(matches!(header.kind, Kind::Data | Kind::End), "{header:?}");
            all.extend(payload);
            if header.kind == Kind::End || header.flags.has(Flags::ENDS) {
                return all;
            }
        }
    }

    /// Whether a frame is about the present request.
    pub(crate) fn is_present(&self, frame: &Frame) -> bool {
        frame.header.id == self.id
    }

    /// Whether the other side closes without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = [0; 1];
        match self.stream.read(&mut rest) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
