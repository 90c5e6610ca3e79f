//! The control link: the provider dials, proves that it may, and is told every change of the owner's state.
//!
//! In: one [`Hello`] line. Out: one [`Report`] line at once, and one for each change after it.
//! Always: a peer without the key, too slow or too long-winded is dropped without a byte; the key is compared in constant
//! time; the number of peers is bounded; a peer that does not read is dropped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{Boot, Hello, LINE_MAX, LINK_VERSION, Report};
use rustix::net::sockopt;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::log::line;
use crate::state::{State, Status};

/// Most peers that have not yet said hello.
const STRANGERS_MAX: usize = 16;
/// Most peers that are being told; the provider needs one, and a second while it restarts.
const PEERS_MAX: usize = 4;
/// Longest a peer may take to say hello, and to take a line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds of silence after which the kernel asks whether the peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest reason told, in characters; far below [`LINE_MAX`] however it is escaped.
const REASON_MAX: usize = 300;
/// Pause after an `accept` that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the link on `listener` for as long as the watchdog lives.
pub(crate) fn serve(listener: TcpListener, boot: &Boot, state: Arc<State>) {
    let key: Arc<str> = boot.key.as_str().into();
    let (strangers, peers) =
        (Arc::new(Semaphore::new(STRANGERS_MAX)), Arc::new(Semaphore::new(PEERS_MAX)));
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(stranger) = strangers.clone().try_acquire_owned() else { continue };
            let (key, peers, state) = (key.clone(), peers.clone(), state.clone());
            tokio::spawn(async move {
                let is_welcome =
                    tokio::time::timeout(PATIENCE, greet(&mut stream, &key)).await.unwrap_or(false);
                drop(stranger);
                let Some(_peer) = peers.try_acquire().ok().filter(|_| is_welcome) else { return };
                // A peer that is gone dials again.
                let _ = report(stream, &state).await;
            });
        }
    });
}

/// Whether the peer presents the key in its first line.
async fn greet(stream: &mut TcpStream, key: &str) -> bool {
    let mut text = Vec::with_capacity(256);
    let mut chunk = [0; 256];
    let end = loop {
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => text.extend_from_slice(&chunk[..count]),
            _ => return false,
        }
        match memchr::memchr(b'\n', &text) {
            Some(end) => break end,
            None if text.len() >= LINE_MAX => return false,
            None => {}
        }
    };
    let Ok(hello) = serde_json::from_slice::<Hello>(&text[..end.min(LINE_MAX)]) else {
        return false;
    };
    let knows_key: bool = hello.key.as_bytes().ct_eq(key.as_bytes()).into();
    if knows_key && hello.version != LINK_VERSION {
        line!(
            "Control link: the provider speaks version {}, this watchdog {LINK_VERSION}",
            hello.version
        );
    }
    knows_key && hello.version == LINK_VERSION
}

/// Tells the present state and every change, until the peer is gone.
async fn report(mut stream: TcpStream, state: &State) -> io::Result<()> {
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    stream.set_nodelay(true)?;
    let mut view = state.watch();
    loop {
        let line = report_line(&view.borrow_and_update().clone());
        tokio::time::timeout(PATIENCE, stream.write_all(&line)).await??;
        let mut rest = [0; 1];
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return Ok(()) },
            // This version of the link has no orders: whatever comes, or the end, closes it.
            _ = stream.read(&mut rest) => return Ok(()),
        }
    }
}

fn report_line(status: &Status) -> Vec<u8> {
    let reason = status.reason.as_ref().map(|reason| reason.chars().take(REASON_MAX).collect());
    let report = Report::State { state: status.state, reason };
    let mut line = serde_json::to_vec(&report).expect("a report is plain data with string keys");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::OwnerState;

    use super::*;

    #[test]
    fn a_line_stays_below_its_bound_whatever_the_reason() {
        let status = Status { state: OwnerState::Crashed, reason: Some("\u{1}".repeat(100_000)) };
        let line = report_line(&status);
        assert!(line.len() <= LINE_MAX && line.ends_with(b"}\n"));
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
    }
}
