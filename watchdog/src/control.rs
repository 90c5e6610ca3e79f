//! The control link: the provider dials, proves that it may, is told every change of state and load, and gives orders.
//!
//! In: one [`Hello`] line, then [`Order`] lines. Out: [`Report`] lines: what holds now at once, and what has changed after that.
//! Always: a peer is told the newest of each kind, so what it was too slow for, or away for, is not kept for it; a peer
//! without the key, too slow or too long-winded is dropped without a byte; the key is compared in constant time; the number
//! of peers is bounded; a peer that does not read is dropped; a line that is no order drops its peer and changes nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{
    Boot, Hello, LINE_MAX, LINK_VERSION, ORDER_MAX, Order, Report, WORKERS, WorkerReport,
};
use hyperfaas_protocol::lane::{Greeting, MAGIC};
use rustix::net::sockopt;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::guestlog::Reader;
use crate::lane::Lanes;
use crate::load::Told;
use crate::log::line;
use crate::state::{State, Status};
use crate::worker::{Answer, Switch};

/// Most peers that have not yet said hello. The provider dials a few lanes at a time.
const STRANGERS_MAX: usize = 32;
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

/// Read from a peer at once, in bytes.
const CHUNK: usize = 4096;
/// Bytes of guests' log lines sent at once; in between comes whatever else there is to say.
const LOG_PORTION: usize = 32 << 10;

/// What peers are told about, and who carries out their orders.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) state: Arc<State>,
    pub(crate) told: watch::Receiver<Told>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) lanes: Arc<Lanes>,
}

/// Serves the link on `listener` for as long as the watchdog lives.
pub(crate) fn serve(listener: TcpListener, boot: &Boot, desk: Desk) {
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
            let (key, peers, desk) = (key.clone(), peers.clone(), desk.clone());
            tokio::spawn(async move {
                let first = tokio::time::timeout(PATIENCE, first(&mut stream, &key)).await;
                drop(stranger);
                let (hello, rest) = match first.ok().flatten() {
                    Some(First::Link(hello, rest)) => (hello, rest),
                    Some(First::Lane(greeting)) => return desk.lanes.serve(stream, greeting).await,
                    None => return,
                };
                let Ok(_peer) = peers.try_acquire() else { return };
                let news = News::new(&desk, &hello);
                let orders = hello.workers.then(|| Orders { switch: desk.switch, text: rest });
                // A peer that is gone dials again.
                let _ = report(stream, news, orders).await;
            });
        }
    });
}

/// What a peer with the key wants.
enum First {
    /// The control link; with what came behind its first line.
    Link(Hello, Vec<u8>),
    Lane(Greeting),
}

/// Decides by the first byte.
async fn first(stream: &mut TcpStream, key: &str) -> Option<First> {
    let mut byte = [0];
    if stream.peek(&mut byte).await.ok()? == 1 && byte[0] == MAGIC[0] {
        return Lanes::greet(stream, key).await.map(First::Lane);
    }
    greet(stream, key).await.map(|(hello, rest)| First::Link(hello, rest))
}

/// The peer's first line, if it presents the key, and what came behind it.
async fn greet(stream: &mut TcpStream, key: &str) -> Option<(Hello, Vec<u8>)> {
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
    let rest = text.split_off(end + 1);
    (knows_key && hello.version == LINK_VERSION).then_some((hello, rest))
}

/// Tells what holds now and every change, and follows orders, until the peer is gone.
async fn report(
    mut stream: TcpStream,
    mut news: News,
    mut orders: Option<Orders>,
) -> io::Result<()> {
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; if orders.is_some() { CHUNK } else { 1 }];
    loop {
        let refusals = match &mut orders {
            Some(orders) => orders.follow(&mut news)?,
            None => Vec::new(),
        };
        let mut text = news.take();
        text.extend(refusals);
        if !text.is_empty() {
            tokio::time::timeout(PATIENCE, stream.write_all(&text)).await??;
        }
        tokio::select! {
            is_open = news.changed() => if !is_open { return Ok(()) },
            read = stream.read(&mut chunk) => match (read?, &mut orders) {
                // Whoever gives no orders has nothing to say.
                (0, _) | (_, None) => return Ok(()),
                (count, Some(orders)) => orders.text.extend_from_slice(&chunk[..count]),
            },
        }
    }
}

/// What a peer has said since its greeting.
struct Orders {
    switch: Arc<Switch>,
    text: Vec<u8>,
}

impl Orders {
    /// Follows every order that is complete; lines about those that are not carried out.
    ///
    /// # Errors
    /// When something is no order, or too long for one.
    fn follow(&mut self, news: &mut News) -> io::Result<Vec<u8>> {
        let mut refusals = Vec::new();
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &self.text[start..]) {
            let line = &self.text[start..start + end];
            start += end + 1;
            match self.switch.order(parse(line)?) {
                Answer::Followed => {}
                Answer::Repeated(worker) => news.repeat(worker),
                Answer::Refused { worker, epoch, reason } => {
                    line!("Order refused: worker {worker}, epoch {epoch}: {reason}");
                    let reason = shortened(&reason);
                    add(&mut refusals, &Report::Refused { worker, epoch, reason });
                }
            }
        }
        self.text.drain(..start);
        if self.text.len() >= ORDER_MAX {
            return Err(no_order("it is too long"));
        }
        if self.text.is_empty() {
            self.text.shrink_to(CHUNK);
        }
        Ok(refusals)
    }
}

/// Reads one order. Its text may hold a guest's environment, so an error tells only where it is wrong.
fn parse(line: &[u8]) -> io::Result<Order> {
    if line.len() >= ORDER_MAX {
        return Err(no_order("it is too long"));
    }
    serde_json::from_slice(line).map_err(|error| {
        no_order(&format!("{:?} error in column {}", error.classify(), error.column()))
    })
}

fn no_order(why: &str) -> io::Error {
    line!("Control link: closed, a line is no order: {why}");
    io::ErrorKind::InvalidData.into()
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
    /// `None` for a peer that does not want it.
    workers: Option<Workers>,
    /// The same for what guests say.
    guests: Option<Reader>,
}

/// What one peer has not been told yet about the workers.
struct Workers {
    switch: Arc<Switch>,
    now: watch::Receiver<[WorkerReport; WORKERS]>,
    has_abilities: bool,
    /// What was told last.
    told: [Option<WorkerReport>; WORKERS],
}

impl Workers {
    fn new(switch: &Arc<Switch>) -> Self {
        let now = switch.table().reports();
        Self { switch: switch.clone(), now, has_abilities: false, told: Default::default() }
    }

    fn take(&mut self, text: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_abilities, true) {
            add(text, &Report::Abilities(self.switch.abilities()));
        }
        for (now, told) in self.now.borrow_and_update().iter().zip(&mut self.told) {
            if told.as_ref() != Some(now) {
                let reason = now.reason.as_deref().map(shortened);
                add(text, &Report::Worker(WorkerReport { reason, ..now.clone() }));
                *told = Some(now.clone());
            }
        }
    }
}

impl News {
    fn new(desk: &Desk, hello: &Hello) -> Self {
        Self {
            status: desk.state.watch(),
            told: hello.load.then(|| desk.told.clone()),
            state: None,
            crossings: None,
            reports: 0,
            workers: hello.workers.then(|| Workers::new(&desk.switch)),
            guests: hello.workers.then(|| desk.switch.guests().read()),
        }
    }

    /// Tells how `worker` stands once more.
    fn repeat(&mut self, worker: u8) {
        if let Some(told) =
            self.workers.as_mut().and_then(|it| it.told.get_mut(usize::from(worker)))
        {
            *told = None;
        }
    }

    /// Resolves when there may be something to tell; to `false` when there never will be.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.status.changed() => changed.is_ok(),
            changed = next(self.told.as_mut()) => changed,
            changed = next(self.workers.as_mut().map(|it| &mut it.now)) => changed,
            changed = spoken(self.guests.as_mut()) => changed,
        }
    }

    /// Lines about what is new, and never about it again.
    fn take(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(workers) = &mut self.workers {
            workers.take(&mut text);
        }
        let status = self.status.borrow_and_update().clone();
        if self.state.as_ref() != Some(&status) {
            add(&mut text, &state_report(&status));
            self.state = Some(status);
        }
        self.take_load(&mut text);
        // Last, so that a guest that says much delays nothing.
        for line in self.guests.as_mut().map(|it| it.take(LOG_PORTION)).unwrap_or_default() {
            add(&mut text, &Report::Log(line));
        }
        text
    }

    fn take_load(&mut self, text: &mut Vec<u8>) {
        let Some(told) = self.told.as_mut().map(|told| *told.borrow_and_update()) else {
            return;
        };
        if self.crossings.replace(told.mark.crossings) != Some(told.mark.crossings) {
            add(text, &Report::Watermark(told.mark));
        }
        if let Some(load) = told.load.filter(|_| self.reports != told.reports) {
            self.reports = told.reports;
            add(text, &Report::Load(Box::new(load)));
        }
    }
}

/// Waits for a change; for ever where there is nothing to watch. `false` when there will be none any more.
async fn next<T>(watched: Option<&mut watch::Receiver<T>>) -> bool {
    match watched {
        Some(watched) => watched.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// The same for what guests say.
async fn spoken(reader: Option<&mut Reader>) -> bool {
    match reader {
        Some(reader) => reader.changed().await,
        None => std::future::pending().await,
    }
}

fn state_report(status: &Status) -> Report {
    let reason = status.reason.as_deref().map(shortened);
    Report::State { state: status.state, reason }
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
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
        let view = |told| News {
            status: state.watch(),
            told,
            state: None,
            crossings: None,
            reports: 0,
            workers: None,
            guests: None,
        };
        let mut news = view(Some(told.subscribe()));
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
        let mut late = view(Some(told.subscribe()));
        assert_eq!(lines(&late.take()), [starting.clone(), high, load]);
        let mut old = view(None);
        assert_eq!(lines(&old.take()), [starting]);
    }
}
