//! A watchdog that lies: as a container's first process it takes the watchdog's place, answers requests well, and tells the
//! provider of loads that cannot be.
//!
//! In: what the provider tells a watchdog at its start. Out: lines on the control link, answers on the port for HTTP.

use std::io;
use std::time::Duration;

use axum::Router;
use hyperfaas_protocol::control::{
    Boot, Level, Load, OwnerState, Pressure, Report, Watermark, WorkerLoad, WorkerReport,
    WorkerState,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Between one round of lies and the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves until the container is stopped.
pub(super) async fn run(boot: Boot) -> io::Result<()> {
    let http = TcpListener::bind(("0.0.0.0", boot.http_port)).await?;
    let control = TcpListener::bind(("0.0.0.0", boot.control_port)).await?;
    tokio::spawn(
        async move { axum::serve(http, Router::new().fallback(async || "answered")).await },
    );
    loop {
        let (stream, _) = control.accept().await?;
        tokio::spawn(lie(stream));
    }
}

async fn lie(mut stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    BufReader::new(reader).read_line(&mut String::new()).await?;
    let ready = Report::State { state: OwnerState::Ready, reason: None };
    tell(&mut writer, &serde_json::to_string(&ready)?).await?;
    for turn in 0_u64.. {
        for report in lies(turn) {
            tell(&mut writer, &serde_json::to_string(&report)?).await?;
        }
        tell(&mut writer, r#"{"event":"moon","phase":[]}"#).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn tell(writer: &mut (impl AsyncWriteExt + Unpin), line: &str) -> io::Result<()> {
    writer.write_all(line.as_bytes()).await?;
    writer.write_all(b"\n").await
}

/// More than there can be, then nothing, then less than before; of workers that do not exist; high and low at once.
fn lies(turn: u64) -> Vec<Report> {
    let most = Some(u64::MAX);
    let worker = WorkerLoad {
        epoch: turn % 2,
        in_flight: u64::MAX,
        queued: u64::MAX,
        served: u64::MAX - turn,
        bounced: u64::MAX,
        service_us: most,
        ..WorkerLoad::default()
    };
    let load = Load {
        in_flight: u64::MAX,
        served: if turn.is_multiple_of(3) { u64::MAX } else { turn },
        refused: u64::MAX - turn,
        service_us: most,
        cpu_millicores: most,
        cpu_us: Some(turn.wrapping_mul(u64::MAX / 7)),
        cpu_max_millicores: most,
        throttled_periods: most,
        memory_bytes: most,
        memory_max_bytes: most,
        oom_kills: most,
        workers: Some([worker; 2]),
        ..Load::default()
    };
    let reason = [Pressure::Cpu, Pressure::Memory, Pressure::Requests];
    let reason = reason.into_iter().cycle().nth(usize::try_from(turn % 3).unwrap_or(0));
    let mark = |level, crossings| Report::Watermark(Watermark { level, reason, crossings });
    let nowhere = WorkerReport {
        worker: u8::MAX,
        epoch: u64::MAX,
        state: WorkerState::Ready,
        guest: Some("nobody.nowhere".to_owned()),
        reason: None,
        crashes: u64::MAX,
    };
    vec![
        Report::Load(Box::new(load)),
        Report::Load(Box::new(load)),
        Report::Load(Box::default()),
        mark(Level::High, u64::MAX),
        mark(Level::High, turn),
        Report::Worker(nowhere.clone()),
        Report::Worker(WorkerReport { worker: 1, ..nowhere }),
    ]
}
