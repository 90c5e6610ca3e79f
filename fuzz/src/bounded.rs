//! A bounded run of every target: seeds, and mutations of them that are the same in every run.

use hyperfaas_protocol::lane::{Flags, Summary, write_request};

use super::*;

/// Mutations of each seed.
const ROUNDS: usize = 3000;

/// Numbers without end; always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % most.max(1)
    }
}

fn mutated(seeds: &[Vec<u8>], seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 if !bytes.is_empty() => bytes[at] = u8::try_from(dice.below(256)).unwrap_or(0),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), b"\r\n :;,/%.0{}\"\xff\0"[dice.below(15)]),
            4 => {
                let other = &seeds[dice.below(seeds.len())];
                bytes.extend_from_slice(&other[dice.below(other.len())..]);
            }
            _ => {
                let end = (at + dice.below(9)).min(bytes.len());
                let copy = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), copy);
            }
        }
    }
    bytes
}

fn run(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        target(seed);
        for _ in 0..ROUNDS {
            target(&mutated(seeds, seed, &mut dice));
        }
    }
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn frames_of_nonsense_break_nothing() {
    let frame = |kind, flags, head: usize, payload: &[u8]| {
        let length = |bytes: usize| u32::try_from(bytes).unwrap();
        let header = Header {
            flags,
            length: length(payload.len()),
            head: length(head),
            ..Header::new(kind, 1)
        };
        [&header.encode()[..], payload].concat()
    };
    use hyperfaas_protocol::lane::Kind;
    let mut head = Vec::new();
    write_request(
        &mut head,
        "POST",
        "/a?q",
        [(&b"host"[..], &b"h"[..]), (b"x-a", b"1")].into_iter(),
    );
    let mut summary = Vec::new();
    Summary { method: b"GET", target: b"/", call_id: b"", content_length: 3 }.write(&mut summary);
    let greeting = Greeting::new(1, 7, "key").encode();
    let seeds = [
        greeting.to_vec(),
        [&greeting[..], &frame(Kind::Request, Flags::ENDS, 0, b"GET / HTTP/1.1\r\n\r\n")].concat(),
        frame(Kind::Request, Flags::DESCRIBED, head.len(), &[&head[..], b"body"].concat()),
        [
            frame(Kind::Data, Flags::NONE, 0, b"abc"),
            frame(Kind::Done, Flags::REUSABLE, 0, &summary),
        ]
        .concat(),
        frame(Kind::Bounce, Flags::NONE, 0, &Crowd::default().encode()),
    ];
    run(lane_frames, &seeds);
}

#[test]
fn lines_of_nonsense_break_nothing() {
    let seeds = texts(&[
        r#"{"version":1,"key":"k","load":true,"workers":true}"#,
        r#"{"order":"specialise","worker":1,"epoch":7,"work":"own"}"#,
        r#"{"order":"specialise","worker":1,"epoch":7,"work":{"guest":{"function":"f.n","kind":"server","root":"/r","directory":"/","uid":1,"gid":1,"processes_max":9,"descriptors_max":9}}}"#,
        r#"{"order":"release","worker":1,"epoch":7,"grace_ms":500}"#,
        r#"{"event":"worker","worker":1,"epoch":7,"state":"ready","crashes":0}"#,
        r#"{"event":"load","in_flight":2,"served":0,"refused":0,"cpu_millicores":99}"#,
        r#"{"event":"watermark","level":"high","reason":"throttled","crossings":3}"#,
        r#"{"version":1,"key":"k","control_port":1,"http_port":2,"kind":"watchdog","user":"app"}"#,
    ]);
    run(control_lines, &seeds);
}

#[test]
fn requests_of_nonsense_pass_no_further_than_the_gate_lets_them() {
    let seeds = texts(&[
        "GET /a/b?q HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "GET http://h/../a//b HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
    ]);
    run(request_head, &seeds);
}

#[test]
fn answers_of_nonsense_are_read_in_one_way_only() {
    let seeds = texts(&[
        "\x03HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "\x01HTTP/1.0 304 x\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
        "\x024\r\nWiki\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nrest",
        "\x05ffffffffffffffff\r\n",
    ]);
    run(answer, &seeds);
}
