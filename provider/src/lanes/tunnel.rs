//! A lane whose protocol was switched, such as to WebSocket: bytes both ways until both sides have ended, after which it can
//! serve another request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyperfaas_http::forward::finish_switch;
use hyperfaas_protocol::lane::{Flags, HEADER_LEN, Header, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tracing::debug;

use super::LaneError;
use super::answer::note;
use super::body::{Live, Note};
use super::call::{Call, send};
use super::connection::{Frame, Lane, write_all};

/// Read from the caller at once, in bytes.
const CHUNK: usize = 16 << 10;

/// Joins the caller's connection with the worker's, in the background, once the answer is out; `rest` came behind it.
pub(super) fn switch(
    call: &mut Call<'_>,
    live: Live,
    mut response: Response<()>,
    rest: Bytes,
) -> Result<Response<Body>, LaneError> {
    let Some(caller) = call.caller.take() else {
        return Err(LaneError::Lost("unexpected protocol switch".into()));
    };
    let note = note(call, &response);
    finish_switch(&mut response);
    tokio::spawn(join(caller, live, rest, note));
    Ok(response.map(|()| Body::empty()))
}

async fn join(caller: OnUpgrade, mut live: Live, rest: Bytes, note: Note) {
    let caller = match caller.await {
        Ok(caller) => caller,
        Err(error) => return debug!(%error, "upgrade not completed"),
    };
    let (from, mut to) = split(TokioIo::new(caller));
    let (stream, id) = (Arc::clone(&live.lane.stream), live.lane.id);
    let down = async {
        to.write_all(&rest).await?;
        down(&mut live.lane, &mut to).await
    };
    if let Err(error) = tokio::try_join!(up(from, &stream, id), down) {
        return debug!(%error, "tunnel cut");
    }
    live.finish(false, Flags::NONE, &note);
}

async fn up(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    stream: &TcpStream,
    id: u64,
) -> std::io::Result<()> {
    let mut frame = vec![0; HEADER_LEN + CHUNK];
    loop {
        let count = from.read(&mut frame[HEADER_LEN..]).await?;
        if count == 0 {
            return write_all(stream, &Header::new(Kind::End, id).encode()).await;
        }
        send(stream, &mut frame[..HEADER_LEN + count], id).await?;
    }
}

async fn down(lane: &mut Lane, to: &mut WriteHalf<TokioIo<Upgraded>>) -> std::io::Result<()> {
    loop {
        match lane.frame().await? {
            Frame::Data(bytes, _) => {
                to.write_all(&bytes).await?;
                to.flush().await?;
            }
            Frame::End => return to.shutdown().await,
            frame => return Err(std::io::Error::other(format!("unexpected frame {frame:?}"))),
        }
    }
}
