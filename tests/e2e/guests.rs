//! A function that is not the container's own, from its image to its answer: root file system, standby container, slot, order.

use std::sync::Arc;

use hyperfaas_protocol::control::{Boot, Hello, LINK_VERSION, Order, Report, Work, WorkerState};
use hyperfaas_protocol::image::FunctionKind;
use hyperfaas_protocol::lane::{Flags, Greeting, HEADER_LEN, Header, Kind};
use hyperfaas_protocol::names::Namespace;
use hyperfaas_protocol::{FunctionKey, FunctionName};
use hyperfaas_provider::engine::docker::{DockerConfig, DockerEngine};
use hyperfaas_provider::engine::{Bounds, StartOrder};
use hyperfaas_provider::node::visit::{Users, visit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

use super::slots::Bench;
use crate::support::docker::{Corner, standby_order};
use crate::support::stack::{PATIENCE, binary};

/// The worker that is given functions here.
const WORKER: u8 = 1;
/// The port the function believes to have.
const PORT: u16 = 5000;

/// A control link, as the provider has it.
struct Link {
    reports: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
}

impl Link {
    async fn dial(bench: &Bench) -> Self {
        let standby = &bench.standby;
        let address = (standby.address.expect("it runs"), standby.control_port);
        let dialled = async {
            loop {
                // It listens some milliseconds after its start.
                match TcpStream::connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        let stream = timeout(PATIENCE, dialled).await.expect("the watchdog listens");
        stream.set_nodelay(true).unwrap();
        let (reports, orders) = stream.into_split();
        let mut link = Self { reports: BufReader::new(reports).lines(), orders };
        let hello = Hello { version: LINK_VERSION, key: "key".into(), load: false, workers: true };
        link.say(&serde_json::to_string(&hello).unwrap()).await;
        let Report::Abilities(abilities) = link.report().await else {
            panic!("abilities come first")
        };
        assert!(abilities.guests, "this needs a kernel with Landlock 4");
        link
    }

    async fn say(&mut self, line: &str) {
        self.orders.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn report(&mut self) -> Report {
        let line = timeout(PATIENCE, self.reports.next_line()).await.expect("a report comes");
        serde_json::from_str(&line.unwrap().expect("the link stays")).unwrap()
    }

    /// Waits until a worker in `epoch` is in `state`.
    async fn until(&mut self, epoch: u64, state: WorkerState) {
        loop {
            match self.report().await {
                Report::Worker(worker) if worker.epoch == epoch && worker.state == state => return,
                Report::Worker(worker) if worker.state == WorkerState::Crashed => {
                    panic!("{worker:?}")
                }
                Report::Refused { reason, .. } => panic!("refused: {reason}"),
                _ => {}
            }
        }
    }
}

/// What the provider would start a container of its own with, for the corner's image as a function.
fn order(bench: &Bench) -> StartOrder {
    let variables = [
        ("mode", "http".to_owned()),
        ("upstream_url", format!("http://127.0.0.1:{PORT}")),
        ("fprocess", "/server".to_owned()),
        ("STAND_IN_SERVE", PORT.to_string()),
    ];
    StartOrder {
        replica: standby_order().name,
        function: FunctionKey {
            namespace: Namespace::parse("openfaas-fn").unwrap(),
            name: FunctionName::parse("hello").unwrap(),
        },
        revision: 1,
        image: bench.image.clone(),
        kind: FunctionKind::Watchdog,
        env: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        boot: Boot {
            entrypoint: bench.image.entrypoint.clone(),
            command: bench.image.command.clone(),
            ..standby_order().boot
        },
        limits: Bounds::default(),
        requests: Bounds::default(),
        read_only_root: false,
        secrets: Vec::new(),
    }
}

/// What the function answers over a lane to its worker, and when its first byte was there.
async fn ask(bench: &Bench, epoch: u64) -> (String, Instant) {
    let address = (bench.standby.address.expect("it runs"), bench.standby.control_port);
    let mut lane = TcpStream::connect(address).await.unwrap();
    lane.set_nodelay(true).unwrap();
    lane.write_all(&Greeting::new(WORKER, epoch, "key").encode()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let header = Header {
        flags: Flags::ENDS,
        worker: WORKER,
        epoch,
        length: u32::try_from(request.len()).unwrap(),
        ..Header::new(Kind::Request, 1)
    };
    lane.write_all(&[&header.encode()[..], request].concat()).await.unwrap();
    let (mut answer, mut first) = (Vec::new(), None);
    loop {
        let mut bytes = [0; HEADER_LEN];
        lane.read_exact(&mut bytes).await.expect("the lane stays until the answer is over");
        let header = Header::decode(&bytes).unwrap();
        let mut payload = vec![0; usize::try_from(header.length).unwrap()];
        lane.read_exact(&mut payload).await.unwrap();
        match header.kind {
            Kind::Welcome | Kind::Admitted => {}
            Kind::Data => {
                first.get_or_insert_with(Instant::now);
                answer.extend(payload);
            }
            Kind::End => break,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&payload)),
        }
    }
    (String::from_utf8(answer).unwrap(), first.expect("an answer has bytes"))
}

async fn bench() -> Bench {
    let corner = Corner::new().await;
    let config = DockerConfig { watchdog: binary("fwatchdog"), ..corner.config(1) };
    let engine = Arc::new(DockerEngine::new(config).unwrap());
    Bench::with(corner, engine).await
}

#[tokio::test]
async fn a_standby_container_serves_a_function_it_was_not_made_for() {
    let bench = bench().await;
    let mut link = Link::dial(&bench).await;
    let rounds: u64 = crate::support::number("HYPERFAAS_GUEST_ROUNDS", 5);
    let users = Users::begin(std::process::id());
    let mut times = Vec::new();
    for epoch in 1..=rounds {
        let user = users.next();
        let visit = visit(&order(&bench), bench.root.clone(), (WORKER, epoch), user).unwrap();
        let (name, work) = (visit.slot.name.clone(), Work::Guest(Box::new(visit.guest)));
        let began = Instant::now();
        bench.slots.prepare(&bench.target, visit.slot).await.unwrap();
        let prepared = began.elapsed();
        let order = Order::Specialise { worker: WORKER, epoch, work };
        link.say(&serde_json::to_string(&order).unwrap()).await;
        link.until(epoch, WorkerState::Ready).await;
        let ready = began.elapsed();
        let (answer, first) = ask(&bench, epoch).await;
        times.push([prepared, ready, first - began]);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with(&user.uid.to_string()), "{answer}");
        let release = Order::Release { worker: WORKER, epoch, grace_ms: 1000 };
        link.say(&serde_json::to_string(&release).unwrap()).await;
        link.until(epoch, WorkerState::Generic).await;
        bench.slots.remove(&bench.target, &name).await.unwrap();
    }
    for (index, what) in ["slot", "ready", "first byte"].into_iter().enumerate() {
        let mut column: Vec<_> = times.iter().map(|row| row[index]).collect();
        column.sort();
        let at = |percent| column[column.len() * percent / 100];
        println!("{rounds} rounds, from nothing to {what}: {:?} median, {:?} p90", at(50), at(90));
    }
    assert!(!bench.mounts().contains("/.hyperfaas/slots"));
}
