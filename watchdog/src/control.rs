//! The control link: the provider dials, proves that it may, and is told every change of the owner's state and of the load.
//!
//! In: one [`Hello`] line. Out: [`Report`] lines: what holds now at once, and what has changed after that.
//! Always: a peer is told the newest of each kind, so what it was too slow for, or away for, is not kept for it; a peer without the key, too slow or too long-winded is dropped without a byte; the key is compared in constant
//! time; the number of peers is bounded; a peer that does not read is dropped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{Boot, Hello, LINE_MAX, LINK_VERSION, Report};
use rustix::net::sockopt;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::load::Told;
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
pub(crate) fn serve(
    listener: TcpListener,
    boot: &Boot,
    state: Arc<State>,
    told: watch::Receiver<Told>,
) {
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
            let (key, peers) = (key.clone(), peers.clone());
            let (state, told) = (state.clone(), told.clone());
            tokio::spawn(async move {
                let hello =
                    tokio::time::timeout(PATIENCE, greet(&mut stream, &key)).await.ok().flatten();
                drop(stranger);
                let Some(hello) = hello else { return };
                let Ok(_peer) = peers.try_acquire() else { return };
                let news = News::new(&state, hello.load.then_some(told));
                // A peer that is gone dials again.
                let _ = report(stream, news).await;
            });
        }
    });
}

/// The peer's first line, if it presents the key.
async fn greet(stream: &mut TcpStream, key: &str) -> Option<Hello> {
    let mut text = Vec::with_capacity(256);
    let mut chunk = [0; 256];
    let end = loop {
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => text.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
        match memchr::memchr(b'\n', &text) {
            Some(end) => break end,
            None if text.len() >= LINE_MAX => return None,
            None => {}
        }
    };
    let hello: Hello = serde_json::from_slice(&text[..end.min(LINE_MAX)]).ok()?;
    let knows_key: bool = hello.key.as_bytes().ct_eq(key.as_bytes()).into();
    if knows_key && hello.version != LINK_VERSION {
        line!(
            "Control link: the provider speaks version {}, this watchdog {LINK_VERSION}",
            hello.version
        );
    }
    (knows_key && hello.version == LINK_VERSION).then_some(hello)
}

/// Tells what holds now and every change, until the peer is gone.
async fn report(mut stream: TcpStream, mut news: News) -> io::Result<()> {
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    stream.set_nodelay(true)?;
    loop {
        let text = news.take();
        if !text.is_empty() {
            tokio::time::timeout(PATIENCE, stream.write_all(&text)).await??;
        }
        let mut rest = [0; 1];
        tokio::select! {
            is_open = news.changed() => if !is_open { return Ok(()) },
            // This version of the link has no orders: whatever comes, or the end, closes it.
            _ = stream.read(&mut rest) => return Ok(()),
        }
    }
}

/// What one peer has not been told yet.
struct News {
    status: watch::Receiver<Status>,
    /// `None` for a peer that does not want it.
    told: Option<watch::Receiver<Told>>,
    /// What was told last.
    state: Option<Status>,
    crossings: Option<u64>,
    reports: u64,
}

impl News {
    fn new(state: &State, told: Option<watch::Receiver<Told>>) -> Self {
        Self { status: state.watch(), told, state: None, crossings: None, reports: 0 }
    }

    /// Resolves when there may be something to tell; to `false` when there never will be.
    async fn changed(&mut self) -> bool {
        match &mut self.told {
            Some(told) => tokio::select! {
                changed = self.status.changed() => changed.is_ok(),
                changed = told.changed() => changed.is_ok(),
            },
            None => self.status.changed().await.is_ok(),
        }
    }

    /// Lines about what is new, and never about it again.
    fn take(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        let status = self.status.borrow_and_update().clone();
        if self.state.as_ref() != Some(&status) {
            add(&mut text, &state_report(&status));
            self.state = Some(status);
        }
        let Some(told) = self.told.as_mut().map(|told| *told.borrow_and_update()) else {
            return text;
        };
        if self.crossings.replace(told.mark.crossings) != Some(told.mark.crossings) {
            add(&mut text, &Report::Watermark(told.mark));
        }
        if let Some(load) = told.load.filter(|_| self.reports != told.reports) {
            self.reports = told.reports;
            add(&mut text, &Report::Load(Box::new(load)));
        }
        text
    }
}

fn state_report(status: &Status) -> Report {
    let reason = status.reason.as_ref().map(|reason| reason.chars().take(REASON_MAX).collect());
    Report::State { state: status.state, reason }
}

fn add(text: &mut Vec<u8>, report: &Report) {
    serde_json::to_writer(&mut *text, report).expect("a report is plain data with string keys");
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::{Level, Load, OwnerState, Pressure, Watermark};

    use super::*;

    fn lines(text: &[u8]) -> Vec<Report> {
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[test]
    fn a_line_stays_below_its_bound_whatever_the_reason() {
        let status = Status {
            state: OwnerState::Crashed,
            reason: Some("\u{1}".repeat(100_000)),
            crashes: 1,
        };
        let mut line = Vec::new();
        add(&mut line, &state_report(&status));
        assert!(line.len() <= LINE_MAX && line.ends_with(b"}\n"));
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
    }

    #[test]
    fn a_late_or_slow_peer_is_told_what_holds_and_only_once() {
        let (state, told) = (State::new(), watch::Sender::new(Told::START));
        let starting = Report::State { state: OwnerState::Starting, reason: None };
        let calm = Report::Watermark(Watermark::CALM);
        let mut news = News::new(&state, Some(told.subscribe()));
        assert_eq!(lines(&news.take()), [starting.clone(), calm]);
        assert!(news.take().is_empty());

        let mark = Watermark { level: Level::High, reason: Some(Pressure::Memory), crossings: 5 };
        for reports in 1..=3 {
            let load = Some(Load { served: reports, ..Load::default() });
            told.send_replace(Told { mark, load, reports });
        }
        let load = Report::Load(Box::new(Load { served: 3, ..Load::default() }));
        let high = Report::Watermark(mark);
        assert_eq!(lines(&news.take()), [high.clone(), load.clone()]);
        assert!(news.take().is_empty());
        let mut late = News::new(&state, Some(told.subscribe()));
        assert_eq!(lines(&late.take()), [starting.clone(), high, load]);
        let mut old = News::new(&state, None);
        assert_eq!(lines(&old.take()), [starting]);
    }
}
