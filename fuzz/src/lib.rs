//! Fuzz targets: each takes any bytes and panics where something that must always hold does not.
//!
//! Under test: the frames of a lane, the lines of the control link, the heads of requests on port 8080 up to the gate, and the
//! answers of functions as the provider reads them. `make fuzz` runs them under libFuzzer with coverage; the test below mutates
//! a few seeds a bounded number of times, so that every test run does a little of it.

// Private parts of programs are compiled into this crate as they are.
#[path = "../../provider/src/lanes/chunks.rs"]
pub mod chunks;
#[path = "../../watchdog/src/gate.rs"]
mod gate;
pub mod seeds;
#[path = "../../provider/src/lanes/wire.rs"]
pub mod wire;

#[cfg(test)]
mod bounded;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Method;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use hyperfaas_protocol::control::{Boot, Hello, LINE_MAX, Order, Report};
use hyperfaas_protocol::lane::{
    Crowd, Fields, GREETING_LEN, Greeting, HEAD_MAX, HEADER_LEN, Head, Header, PAYLOAD_MAX, Summary,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A greeting, then headers each with its payload, as far as the bytes go.
pub fn lane_frames(data: &[u8]) {
    let mut rest = data;
    if let Some((bytes, after)) = data.split_first_chunk::<GREETING_LEN>()
        && let Some(greeting) = Greeting::decode(bytes)
    {
        assert_eq!(greeting.encode(), *bytes);
        assert!(!greeting.knows("a key that only the provider and the watchdog know"));
        rest = after;
    }
    while let Some((bytes, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::decode(bytes) else { return };
        assert!(
            header.length <= PAYLOAD_MAX && header.head <= header.length && header.head <= HEAD_MAX
        );
        let again = Header::decode(&header.encode());
        assert_eq!(again, Ok(header));
        let length = usize::try_from(header.length).unwrap_or(usize::MAX).min(after.len());
        let (payload, after) = after.split_at(length);
        heads(payload);
        rest = after;
    }
}

/// Whatever a payload is taken for.
fn heads(payload: &[u8]) {
    if let Ok(head) = Head::decode(payload) {
        assert_eq!(head.fields.iter().count(), head.fields.len());
    }
    if let Ok(fields) = Fields::decode(payload) {
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= payload.len());
        assert_eq!(fields.iter().count(), fields.len());
    }
    if let Ok(summary) = Summary::decode(payload) {
        let mut again = Vec::new();
        summary.write(&mut again);
        assert!(again.len() <= payload.len());
    }
    let _ = Crowd::decode(payload);
}

/// One line of the control link, from either side.
pub fn control_lines(data: &[u8]) {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Ok(hello) = serde_json::from_slice::<Hello>(line) {
        round(&hello);
    }
    if let Ok(boot) = serde_json::from_slice::<Boot>(line) {
        round(&boot);
    }
    match serde_json::from_slice::<Order>(line) {
        // These are read only.
        Ok(Order::Unknown) | Err(_) => {}
        Ok(order) => round(&order),
    }
    if let Ok(report) = serde_json::from_slice::<Report>(&line[..line.len().min(LINE_MAX)]) {
        let _ = format!("{report:?}");
    }
}

/// What was read is written, and read as the same.
fn round<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("and read");
    assert_eq!(again, *value);
}

/// A connection's bytes through the parser of port 8080 and its gate: what passes is what the gate promises.
pub fn request_head(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let passed = Arc::new(AtomicUsize::new(0));
        let service = service_fn(|request: Request<Incoming>| {
            let turn =
                gate::turn(request.method(), request.uri(), request.version(), request.headers());
            if turn.is_none() {
                check(request.method(), request.uri(), request.headers());
                passed.fetch_add(1, Ordering::Relaxed);
            }
            std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
        });
        let mut builder = http1::Builder::new();
        builder.max_headers(500).max_buf_size((1 << 20) + 4096);
        let serve = builder.serve_connection(TokioIo::new(server), service);
        let send = async {
            let _ = client.write_all(data).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
        };
        let (_, ()) = tokio::join!(serve, send);
        assert!(
            passed.load(Ordering::Relaxed) * 12 <= data.len(),
            "more requests than bytes allow"
        );
    });
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap) {
    assert!(headers.get_all(HOST).iter().count() <= 1);
    let path = uri.path();
    if *method != Method::CONNECT {
        assert!(path.starts_with('/') && !path.contains("//"), "{path}");
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
    }
}

/// A function's answer as the provider reads it, its body chunked or not; the first byte says how it is cut into pieces.
pub fn answer(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    for method in [Method::GET, Method::HEAD] {
        let Ok(Some(head)) = wire::read_head(data, &method) else { continue };
        assert!(head.size <= data.len());
        assert!(!head.is_kept || head.length != wire::Length::Close);
        let shorter = wire::read_head(&data[..head.size - 1], &method);
        assert!(!matches!(shorter, Ok(Some(_))), "a head that was whole before its end");
    }
    let whole = body(data, data.len().max(1));
    assert_eq!(whole, body(data, usize::from(*size).max(1)), "cut differently, read differently");
}

/// A chunked body read in pieces: its bytes and whether it ended well.
fn body(data: &[u8], size: usize) -> (Vec<u8>, Option<bool>) {
    let (mut decoder, mut read) = (chunks::Decoder::default(), Vec::new());
    for piece in data.chunks(size) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.next(&mut piece) {
                Ok(chunks::Chunk::Data(data)) => read.extend_from_slice(&data),
                Ok(chunks::Chunk::End(_)) => return (read, Some(true)),
                Ok(chunks::Chunk::More) => break,
                Err(chunks::ChunkError) => return (read, Some(false)),
            }
        }
    }
    (read, None)
}
