//! The simulated host's script: faults, absences, delays in virtual time, replicas that somebody answers for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use hyperfaas_provider::engine::sim::{Exit, Place, Program};
use hyperfaas_provider::engine::{EngineError, EngineEvent, LogQuery};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::lab::{Lab, SimLab, function};

#[tokio::test]
async fn an_absent_engine_answers_nothing_and_its_return_is_told() {
    let lab = SimLab::new().await;
    let engine = lab.engine();
    let replica = engine.start(lab.order("f", &[]).await).await.unwrap();
    let order = lab.order("f", &[]).await;
    let mut events = engine.events();
    assert_eq!(events.next().await, Some(EngineEvent::Connected));
    lab.host.go_away("restarting");
    lab.host.go_away("twice is once");
    assert_eq!(events.next().await, Some(EngineEvent::Lost { reason: "restarting".into() }));
    assert_eq!(
        engine.events().next().await,
        Some(EngineEvent::Lost { reason: "twice is once".into() })
    );
    assert!(matches!(engine.list().await, Err(EngineError::Unavailable(_))));
    assert!(matches!(engine.start(order).await, Err(EngineError::Unavailable(_))));
    assert!(matches!(
        engine.stop(&replica.container, Duration::ZERO).await,
        Err(EngineError::Unavailable(_))
    ));
    lab.host.exit(&replica.container, 1);
    lab.host.come_back();
    assert_eq!(
        events.next().await,
        Some(EngineEvent::Connected),
        "what happened meanwhile is not told"
    );
    assert!(!engine.list().await.unwrap()[0].is_running);
}

#[tokio::test(start_paused = true)]
async fn delays_cost_virtual_time_only() {
    let lab = SimLab::new().await;
    let engine = lab.engine();
    lab.host.run_programs(|_| Program {
        exit: Some(Exit { after: Duration::from_secs(3600), code: 4 }),
        ..Program::default()
    });
    lab.host.delay_starts(Duration::from_secs(600));
    let order = lab.order("f", &[]).await;
    let mut events = engine.events();
    assert_eq!(events.next().await, Some(EngineEvent::Connected));
    let began = Instant::now();
    let replica = engine.start(order).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(600));
    assert!(matches!(events.next().await, Some(EngineEvent::Created { .. })));
    lab.host.say(&replica.container, "later");
    assert_eq!(
        events.next().await,
        Some(EngineEvent::Died { container: replica.container.clone(), exit_code: 4 })
    );
    assert_eq!(began.elapsed().as_secs(), 4200);
    let line = engine.logs(&replica.container, LogQuery::default()).next().await.unwrap().unwrap();
    assert_eq!(line.timestamp.to_string(), "2024-01-01T00:10:00Z");
}

#[tokio::test]
async fn scripted_start_failures_come_once_each() {
    let lab = SimLab::new().await;
    lab.host.fail_next_start(EngineError::Refused("no space left".into()));
    let error = lab.engine().start(lab.order("f", &[]).await).await.unwrap_err();
    assert!(error.to_string().contains("no space left"));
    assert_eq!(lab.engine().list().await.unwrap(), []);
    assert!(lab.engine().start(lab.order("f", &[]).await).await.is_ok());
}

#[tokio::test]
async fn a_replica_is_reachable_only_where_a_test_answers_for_it() {
    let lab = SimLab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    lab.host.run_programs(move |order| Program {
        place: (order.function == function("f")).then_some(Place {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: port,
            control_port: 1,
        }),
        ..Program::default()
    });
    let reachable = lab.engine().start(lab.order("f", &[]).await).await.unwrap();
    assert_eq!((reachable.http_port, reachable.control_port), (port, 1));
    let mut stream =
        TcpStream::connect(SocketAddr::new(reachable.address.unwrap(), port)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let nowhere = lab.engine().start(lab.order("g", &[]).await).await.unwrap();
    let address = SocketAddr::new(nowhere.address.unwrap(), nowhere.http_port);
    assert!(
        TcpStream::connect(address).await.is_err(),
        "refused at once, whatever listens on this machine"
    );
}
