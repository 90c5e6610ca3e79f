//! The control link to one replica's watchdog: hears at once when its function is ready, crashed or draining, and when it has
//! more to do than it can.
//!
//! In: a route and its key. Out: reports to the cluster. The link is dialled again whenever it breaks, until the replica is
//! gone; while it is down the last reports hold. A new connection is told first what holds by then.
//! Always: what a newer watchdog says beyond that is ignored.
//! Source of the lines: [`hyperfaas_protocol::control`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use hyperfaas_protocol::FunctionKey;
use hyperfaas_protocol::control::{Hello, LINE_MAX, LINK_VERSION, Pressure, Report, Watermark};
use hyperfaas_protocol::moment::Moment;
use serde::Serialize;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tracing::{debug, trace, warn};

use crate::cluster::{Cluster, Route};
use crate::engine::ReplicaId;

/// The first wait before dialling again: a watchdog listens a few milliseconds after its container has started.
const REDIAL_FIRST: Duration = Duration::from_millis(2);
/// The longest wait before dialling a watchdog that has not answered yet: what a cold start may lose to it.
const REDIAL_NEW_MOST: Duration = Duration::from_millis(20);
/// The longest wait before dialling again once the watchdog has been heard, or for as long as it takes to be.
const REDIAL_MOST: Duration = Duration::from_millis(500);
/// How many dials of a new watchdog are made in quick succession, about five seconds.
const QUICK_DIALS: u32 = 250;
/// How long one dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The key that `replica`'s watchdog and this installation share: an HMAC-SHA-256 of its name under the master key, in hex.
///
/// Nothing about it is stored, so a provider that takes over running containers knows it too.
pub fn replica_key(master: &[u8], replica: &ReplicaId) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(master).expect("HMAC takes keys of any length");
    mac.update(replica.0.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Follows the link until the container has ended.
pub async fn follow(cluster: Arc<Cluster>, route: Arc<Route>, key: String) {
    let hear = async {
        let mut wait = REDIAL_FIRST;
        let mut quick = QUICK_DIALS;
        loop {
            match connection(&cluster, &route, &key).await {
                Ok(()) => (wait, quick) = (REDIAL_FIRST, 0),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    warn!(replica = %route.replica.0, %error, "control link not understood");
                    wait = REDIAL_MOST;
                }
                Err(error) => {
                    trace!(replica = %route.replica.0, %error, "control link not up");
                }
            }
            tokio::time::sleep(wait).await;
            quick = quick.saturating_sub(1);
            wait = (wait * 2).min(if quick > 0 { REDIAL_NEW_MOST } else { REDIAL_MOST });
        }
    };
    route.gone.run_until_cancelled(hear).await;
}

/// One connection: greet, then take reports and give orders until it ends.
async fn connection(cluster: &Cluster, route: &Route, key: &str) -> io::Result<()> {
    let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(route.control)).await??;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let hello = Hello { version: LINK_VERSION, key: key.to_owned(), load: true, workers: true };
    send(&mut writer, &hello).await?;
    tokio::select! {
        ended = hear(cluster, (route, key), reader) => ended,
        ended = give_orders(route, writer) => ended,
    }
}

/// Takes reports until the watchdog closes the connection.
async fn hear(
    cluster: &Cluster,
    (route, key): (&Route, &str),
    reader: OwnedReadHalf,
) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(512, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut stream).take(LINE_MAX as u64).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return if line.len() == LINE_MAX {
                Err(io::ErrorKind::InvalidData.into())
            } else {
                Ok(())
            };
        }
        let report = serde_json::from_slice(&line)?;
        if let Report::Abilities(abilities) = &report {
            route.lanes.offer(abilities.lanes, key);
        }
        let now = cluster.clock().now();
        match &route.owner {
            Some(function) => heard(cluster, function, &route.replica, report, now),
            None => {
                debug!(standby = %route.replica.0, ?report, "standby container reported");
                cluster.standby_reported(&route.replica, report, now);
            }
        }
    }
}

/// Gives the newest order, and each one after it. On a new connection the newest is given again: the one before may have broken
/// before it was read, and a watchdog that has it already reports where it stands.
async fn give_orders(route: &Route, mut writer: OwnedWriteHalf) -> io::Result<()> {
    let mut orders = route.orders.subscribe();
    orders.mark_changed();
    while orders.changed().await.is_ok() {
        let order = orders.borrow_and_update().clone();
        if let Some(order) = order {
            send(&mut writer, &order).await?;
        }
    }
    // The sender is the route's own, so this is not reached while the link is followed.
    std::future::pending().await
}

async fn send(writer: &mut OwnedWriteHalf, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

/// Passes on what one line said.
fn heard(cluster: &Cluster, function: &FunctionKey, id: &ReplicaId, report: Report, now: Moment) {
    let replica = &id.0;
    match report {
        Report::State { state, reason } => {
            debug!(%function, %replica, ?state, ?reason, "replica reported");
            cluster.reported(function, id, state, reason.as_deref(), now);
        }
        Report::Watermark(mark) => {
            if cluster.marked(function, id, mark) {
                let Watermark { level, reason, crossings } = mark;
                let (level, reason) = (level.name(), reason.map(Pressure::name));
                debug!(%function, %replica, level, reason, crossings, "replica crossed a watermark");
            }
        }
        Report::Load(load) => {
            debug!(%function, %replica, ?load, "replica reported its load");
            cluster.loaded(function, id, *load, now);
        }
        Report::Abilities(abilities) => {
            debug!(%function, %replica, ?abilities, "replica told what it can do");
            cluster.able(function, id, abilities);
        }
        Report::Worker(report) => {
            debug!(%function, %replica, ?report, "worker reported");
            cluster.worker(function, id, &report, now);
        }
        Report::Refused { worker, epoch, reason } => {
            warn!(%function, %replica, worker, epoch, reason, "order refused");
            cluster.refused(function, id, (worker, epoch), &reason, now);
        }
        Report::Log(line) => cluster.lent_said(function, id, line),
        Report::Unknown => {
            trace!(%function, %replica, "report that nobody reads here ignored");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hyperfaas_protocol::control::{Level, Order, Work};
    use hyperfaas_protocol::{FunctionName, Namespace};
    use tokio::net::TcpListener;

    use super::*;
    use crate::engine::{ContainerId, Observed};
    use crate::scheduler::Grant;

    #[tokio::test]
    async fn reports_reach_the_cluster_and_a_newer_watchdogs_break_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let function = FunctionKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: FunctionName::parse("f").unwrap(),
        };
        let observed = Observed {
            container: ContainerId("c".into()),
            replica: ReplicaId("ns.f.1".into()),
            function: function.clone(),
            revision: 1,
            http_port: 1,
            control_port: listener.local_addr().unwrap().port(),
            is_running: true,
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        let cluster = Cluster::default();
        let route = cluster.adopt(&observed, Grant::default(), Moment::ZERO).unwrap();
        route.orders.send_replace(Some(Order::Specialise { worker: 1, epoch: 4, work: Work::Own }));
        let watchdog = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let lines = concat!(
                r#"{"event":"bounced","lane":7}"#,
                "\n",
                r#"{"event":"state","state":"ready"}"#,
                "\n",
                r#"{"event":"watermark","level":"high","reason":"disk","crossings":1}"#,
                "\n",
                r#"{"event":"load","in_flight":3,"gpu":1}"#,
                "\n",
            );
            stream.write_all(lines.as_bytes()).await.unwrap();
            let mut said = BufReader::new(stream).lines();
            let hello = said.next_line().await.unwrap().unwrap();
            (hello, said.next_line().await.unwrap().unwrap())
        };
        let (outcome, (hello, order)) = tokio::join!(connection(&cluster, &route, "k"), watchdog);
        outcome.unwrap();
        assert_eq!(hello, r#"{"version":1,"key":"k","load":true,"workers":true}"#);
        assert_eq!(order, r#"{"order":"specialise","worker":1,"epoch":4,"work":"own"}"#);
        assert_eq!(cluster.available(&function), 1);
        let known = cluster.loads(&function).pop().unwrap();
        assert_eq!(known.watermark.unwrap().level, Level::High);
        assert_eq!(known.load.unwrap().0.in_flight, 3);
    }
}
