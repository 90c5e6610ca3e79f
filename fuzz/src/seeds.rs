//! Well-formed inputs that mutations start from: by the bounded run, and by libFuzzer through the program `seeds`.

use hyperfaas_protocol::lane::{Crowd, Flags, Greeting, Header, Kind, Summary, write_request};

/// A target's name, and what it starts from.
pub type Seeds = (&'static str, fn() -> Vec<Vec<u8>>);

/// Every target.
pub const ALL: [Seeds; 4] = [
    ("lane_frames", lane_frames),
    ("control_lines", control_lines),
    ("request_head", request_head),
    ("answer", answer),
];

/// Greetings and frames.
pub fn lane_frames() -> Vec<Vec<u8>> {
    let frame = |kind, flags, head: usize, payload: &[u8]| {
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let header = Header {
            flags,
            length: length(payload.len()),
            head: length(head),
            ..Header::new(kind, 1)
        };
        [&header.encode()[..], payload].concat()
    };
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
    vec![
        greeting.to_vec(),
        [&greeting[..], &frame(Kind::Request, Flags::ENDS, 0, b"GET / HTTP/1.1\r\n\r\n")].concat(),
        frame(Kind::Request, Flags::DESCRIBED, head.len(), &[&head[..], b"body"].concat()),
        [
            frame(Kind::Data, Flags::NONE, 0, b"abc"),
            frame(Kind::Done, Flags::REUSABLE, 0, &summary),
        ]
        .concat(),
        frame(Kind::Bounce, Flags::NONE, 0, &Crowd::default().encode()),
    ]
}

/// Lines of either side of the control link.
pub fn control_lines() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"version":1,"key":"k","load":true,"workers":true}"#,
        r#"{"order":"specialise","worker":1,"epoch":7,"work":"own"}"#,
        r#"{"order":"specialise","worker":1,"epoch":7,"work":{"guest":{"function":"f.n","kind":"server","root":"/r","directory":"/","uid":1,"gid":1,"processes_max":9,"descriptors_max":9}}}"#,
        r#"{"order":"release","worker":1,"epoch":7,"grace_ms":500}"#,
        r#"{"event":"worker","worker":1,"epoch":7,"state":"ready","crashes":0}"#,
        r#"{"event":"load","in_flight":2,"served":0,"refused":0,"cpu_millicores":99}"#,
        r#"{"event":"watermark","level":"high","reason":"throttled","crossings":3}"#,
        r#"{"version":1,"key":"k","control_port":1,"http_port":2,"kind":"watchdog","user":"app"}"#,
    ])
}

/// Requests on port 8080.
pub fn request_head() -> Vec<Vec<u8>> {
    texts(&[
        "GET /a/b?q HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "GET http://h/../a//b HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
    ])
}

/// Answers of functions; the first byte says how they are cut.
pub fn answer() -> Vec<Vec<u8>> {
    texts(&[
        "\x03HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "\x01HTTP/1.0 304 x\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
        "\x024\r\nWiki\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nrest",
        "\x05ffffffffffffffff\r\n",
    ])
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}
