//! Lanes: the connections over which a provider hands requests to a watchdog, and gets the answers.
//!
//! A lane begins with one [`Greeting`]; the watchdog answers a good one with [`Kind::Welcome`] and a bad one by hanging up.
//! After that both sides send frames: a [`Header`] of [`HEADER_LEN`] bytes, then `length` bytes. One request at a time:
//!
//! ```text
//! provider → watchdog   Request [Data …] [End]          … Done
//! watchdog → provider   [Admitted] [Answer] [Data …] [End]   or Bounce   or Failed
//! ```
//!
//! For a worker with an HTTP server of its own the bytes of `Request` and `Data` are HTTP/1.1, made by the provider and
//! moved by the watchdog without a look; the provider parses the answer, so it knows where that ends, and says so with `Done`.
//! For all other workers `Request` begins with the request's head as data ([`fields`]), and `Answer` is the answer's.
//! In: bytes. Out: headers, or why they are none. Numbers are little-endian.
//! Always: nothing is allocated, no length is believed beyond its bound, and what one side encodes the other decodes.

mod fields;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use fields::{Fields, Head, HeadError, Summary, write_answer, write_request};

/// Version of the frames defined here.
pub const LANE_VERSION: u8 = 1;
/// How a lane's first bytes differ from a control link's, which are JSON.
pub const MAGIC: [u8; 7] = *b"\xffHFLANE";
/// Bytes of a [`Greeting`].
pub const GREETING_LEN: usize = 56;
/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = 40;
/// Most bytes behind one header; whoever announces more is cut off.
pub const PAYLOAD_MAX: u32 = 4 << 20;
/// Most bytes of a head as data.
pub const HEAD_MAX: u32 = 2 << 20;
/// Most bytes of a [`Summary`], a reason, a [`Crowd`].
pub const NOTE_MAX: u32 = 16 << 10;

/// The first bytes of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// [`LANE_VERSION`] of the provider.
    pub version: u8,
    /// Which worker the lane leads to.
    pub worker: u8,
    /// With which epoch.
    pub epoch: u64,
    proof: [u8; 32],
}

impl Greeting {
    /// The greeting of whoever knows the container's `key`.
    pub fn new(worker: u8, epoch: u64, key: &str) -> Self {
        Self { version: LANE_VERSION, worker, epoch, proof: proof(key) }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; GREETING_LEN] {
        let mut bytes = [0; GREETING_LEN];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = self.version;
        bytes[8] = self.worker;
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..].copy_from_slice(&self.proof);
        bytes
    }

    /// Reads a greeting; `None` for what is not one. Its version and proof may still be wrong.
    pub fn decode(bytes: &[u8; GREETING_LEN]) -> Option<Self> {
        let is_ours = bytes[..7] == MAGIC && bytes[9..16] == [0; 7];
        let proof = *bytes.last_chunk::<32>()?;
        is_ours.then_some(Self {
            version: bytes[7],
            worker: bytes[8],
            epoch: u64_at(bytes, 16),
            proof,
        })
    }

    /// Whether the sender knows `key`; takes the same time whatever the answer.
    pub fn knows(&self, key: &str) -> bool {
        self.proof.ct_eq(&proof(key)).into()
    }
}

/// What shows that one knows a key without being of use elsewhere: the control link wants the key itself.
fn proof(key: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"hyperfaas lane 1\0");
    hash.update(key.as_bytes());
    hash.finalize().into()
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Provider: a request begins. Payload: its head as data if [`Flags::DESCRIBED`], then the first bytes.
    Request = 1,
    /// Both: more bytes.
    Data = 2,
    /// Both: this side's bytes of the request, or of the answer, are over. Of a worker's own HTTP it says that the worker
    /// has closed its connection.
    End = 3,
    /// Provider: the request is over, a [`Summary`] follows. With [`Flags::REUSABLE`] the worker's connection can be used again.
    Done = 4,
    /// Watchdog: the greeting is accepted. `status` is that of answers to requests which the worker's server leaves unanswered,
    /// [`Flags::DESCRIBED`] says in which form the worker wants requests.
    Welcome = 16,
    /// Watchdog: the request runs; only for one with [`Flags::WAITS`].
    Admitted = 17,
    /// Watchdog: status and headers of an answer, as data.
    Answer = 18,
    /// Watchdog: the request did not run and can go elsewhere. `code` is a [`Reason`], payload a [`Crowd`].
    Bounce = 19,
    /// Watchdog: there is no answer, or no more of it; `status` is what to answer, payload says why.
    Failed = 20,
}

impl Kind {
    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Data,
            3 => Self::End,
            4 => Self::Done,
            16 => Self::Welcome,
            17 => Self::Admitted,
            18 => Self::Answer,
            19 => Self::Bounce,
            20 => Self::Failed,
            _ => return None,
        })
    }

    /// Most bytes behind its header.
    const fn payload_max(self) -> u32 {
        match self {
            Self::Request | Self::Data => PAYLOAD_MAX,
            Self::Answer => HEAD_MAX,
            Self::Done | Self::Bounce | Self::Failed => NOTE_MAX,
            Self::End | Self::Welcome | Self::Admitted => 0,
        }
    }
}

/// Marks of a frame; unknown ones are an error, so that none is ignored by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// No mark.
    pub const NONE: Self = Self(0);
    /// Heads are data.
    pub const DESCRIBED: Self = Self(1);
    /// Nothing follows from this side.
    pub const ENDS: Self = Self(2);
    /// The rest of the request is sent only after [`Kind::Admitted`].
    pub const WAITS: Self = Self(4);
    /// A stream or a change of protocol: no limit on the run time.
    pub const STREAM: Self = Self(8);
    /// The boundary between this answer and the next is certain.
    pub const REUSABLE: Self = Self(16);
    /// The request is worth a line in the access log.
    pub const LOGGED: Self = Self(32);
    /// A second copy of the request does no harm: it is sent again should the worker hang up, without a byte of answer, on a
    /// connection that had served before.
    pub const REPEATABLE: Self = Self(64);
    /// There was no answer, or none that can be understood.
    pub const UNANSWERED: Self = Self(128);
    const ALL: u16 = 255;

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Together with `other` if `is_set`.
    #[must_use]
    pub const fn with_if(self, other: Self, is_set: bool) -> Self {
        if is_set { self.with(other) } else { self }
    }

    /// Whether all marks of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a request came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// As many run and wait as may.
    Full = 1,
    /// It waited for as long as it may.
    Late = 2,
    /// The worker has another epoch by now, or there is no such worker.
    Stale = 3,
    /// The worker cannot answer at the moment: it starts, has crashed, drains.
    NotReady = 4,
}

impl Reason {
    /// Reads the `code` of a bounce; what a newer watchdog says is as good as [`Reason::NotReady`].
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Full,
            2 => Self::Late,
            3 => Self::Stale,
            _ => Self::NotReady,
        }
    }

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Late => "late",
            Self::Stale => "stale",
            Self::NotReady => "not_ready",
        }
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Its marks.
    pub flags: Flags,
    /// Which worker; of requests.
    pub worker: u8,
    /// A [`Reason`]; of bounces.
    pub code: u8,
    /// An HTTP status, or 0.
    pub status: u16,
    /// Bytes that follow.
    pub length: u32,
    /// How many of them are a head as data.
    pub head: u32,
    /// The caller's own limit on the run time, in milliseconds; 0 for none.
    pub deadline_ms: u32,
    /// Bytes of the answer that the provider has been given, modulo 2³²; of [`Kind::Done`]. Where the watchdog has sent more,
    /// they came behind the answer, and its connection cannot be used again.
    pub heard: u32,
    /// The request. Ids grow on a lane, so that what is still under way about an earlier one is known as such.
    pub id: u64,
    /// The epoch of the worker it is meant for; of requests.
    pub epoch: u64,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version.
    #[error("frame of version {0}")]
    Version(u8),
    /// Nobody knows it.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// Marks nobody knows.
    #[error("frame with unknown flags {0:#x}")]
    Flags(u16),
    /// More bytes than a frame of its kind may have, or a head longer than its frame.
    #[error("frame of {0} bytes")]
    Length(u32),
}

impl Header {
    /// A header without payload or marks.
    pub const fn new(kind: Kind, id: u64) -> Self {
        Self {
            kind,
            flags: Flags::NONE,
            worker: 0,
            code: 0,
            status: 0,
            length: 0,
            head: 0,
            deadline_ms: 0,
            heard: 0,
            id,
            epoch: 0,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = LANE_VERSION;
        bytes[1] = self.kind as u8;
        bytes[2..4].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[4] = self.worker;
        bytes[5] = self.code;
        bytes[6..8].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.head.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.heard.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`]; the lane cannot be understood any more then.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        if bytes[0] != LANE_VERSION {
            return Err(FrameError::Version(bytes[0]));
        }
        let kind = Kind::from_u8(bytes[1]).ok_or(FrameError::Kind(bytes[1]))?;
        let flags = u16::from_le_bytes([bytes[2], bytes[3]]);
        if flags & !Flags::ALL != 0 {
            return Err(FrameError::Flags(flags));
        }
        let (length, head) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if length > kind.payload_max() || head > length || head > HEAD_MAX {
            return Err(FrameError::Length(length.max(head)));
        }
        Ok(Self {
            kind,
            flags: Flags(flags),
            worker: bytes[4],
            code: bytes[5],
            status: u16::from_le_bytes([bytes[6], bytes[7]]),
            length,
            head,
            deadline_ms: u32_at(bytes, 16),
            heard: u32_at(bytes, 20),
            id: u64_at(bytes, 24),
            epoch: u64_at(bytes, 32),
        })
    }
}

/// How full a worker is, told with a bounce. Counts are requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crowd {
    /// It works on.
    pub in_flight: u32,
    /// Wait for it in the watchdog.
    pub queued: u32,
    /// Most it works on at once; 0 is without limit.
    pub limit: u32,
}

impl Crowd {
    /// Bytes of one.
    pub const LEN: usize = 12;

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.in_flight.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.queued.to_le_bytes());
        bytes[8..].copy_from_slice(&self.limit.to_le_bytes());
        bytes
    }

    /// Reads one; what a newer watchdog adds behind it is ignored.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            in_flight: u32_at(bytes, 0),
            queued: u32_at(bytes, 4),
            limit: u32_at(bytes, 8),
        })
    }
}

/// The number at `at`, which the caller knows to be within.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_greeting_proves_the_key_and_does_not_tell_it() {
        let greeting = Greeting::new(1, 7, "open sesame");
        let bytes = greeting.encode();
        assert!(!bytes.windows(4).any(|part| part == b"open"));
        let read = Greeting::decode(&bytes).unwrap();
        assert_eq!(read, greeting);
        assert!(read.knows("open sesame"));
        assert!(!read.knows("open sesam") && !read.knows(""));
        assert_ne!(bytes[0], b'{', "a control link begins with JSON");
        let mut other = bytes;
        other[12] = 1;
        assert_eq!(Greeting::decode(&other), None, "spare bytes are zero in this version");
    }

    #[test]
    fn the_layout_is_as_documented() {
        let header = Header {
            flags: Flags::DESCRIBED.with(Flags::ENDS),
            worker: 1,
            code: 2,
            status: 0x0403,
            length: 0x0001_0203,
            head: 0x0a,
            deadline_ms: 0x0b,
            heard: 0x0e,
            epoch: 0x0d,
            ..Header::new(Kind::Request, 0x0c)
        };
        let bytes = header.encode();
        assert_eq!(bytes[..8], [1, 1, 3, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[8..16], [3, 2, 1, 0, 10, 0, 0, 0]);
        assert_eq!(bytes[16..32], [11, 0, 0, 0, 14, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[32..], [13, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn absurd_headers_are_refused() {
        let good = Header::new(Kind::Data, 1).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::decode(&bytes)
        };
        assert_eq!(with(0, 2), Err(FrameError::Version(2)));
        assert_eq!(with(1, 0), Err(FrameError::Kind(0)));
        assert_eq!(with(1, 99), Err(FrameError::Kind(99)));
        assert_eq!(with(3, 1), Err(FrameError::Flags(256)));
        assert_eq!(with(3, 128), Err(FrameError::Flags(1 << 15)));
        assert_eq!(with(11, 255), Err(FrameError::Length(255 << 24)));
        assert_eq!(with(12, 1), Err(FrameError::Length(1)), "a head longer than its frame");
        let done = Header { length: NOTE_MAX + 1, ..Header::new(Kind::Done, 1) };
        assert_eq!(Header::decode(&done.encode()), Err(FrameError::Length(NOTE_MAX + 1)));
    }

    #[test]
    fn a_crowd_reads_as_written_also_with_more_behind_it() {
        let crowd = Crowd { in_flight: 3, queued: 2, limit: 4 };
        let mut bytes = crowd.encode().to_vec();
        assert_eq!(Crowd::decode(&bytes), Some(crowd));
        bytes.push(9);
        assert_eq!(Crowd::decode(&bytes), Some(crowd));
        assert_eq!(Crowd::decode(&bytes[..11]), None);
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(bytes in proptest::array::uniform32(0_u8..=255), rest in proptest::array::uniform8(0_u8..=255)) {
            let mut frame = [0; HEADER_LEN];
            frame[..32].copy_from_slice(&bytes);
            frame[32..].copy_from_slice(&rest);
            // Random bytes are rarely a header; these are nearly one.
            frame[0] = LANE_VERSION;
            frame[1] = 1 + frame[1] % 4;
            frame[3] = 0;
            frame[10] &= 63;
            frame[11] = 0;
            frame[14..16].fill(0);
            if let Ok(header) = Header::decode(&frame) {
                prop_assert_eq!(header.encode(), frame);
                prop_assert!(header.length <= PAYLOAD_MAX && header.head <= header.length);
            }
        }
    }
}
