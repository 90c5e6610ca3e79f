//! How long decisions take: placing a request, planning one function, planning a hundred thousand workers.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use hyperfaas_protocol::control::WorkerState;
use hyperfaas_protocol::moment::Moment;
use hyperfaas_provider::engine::ReplicaId;
use hyperfaas_provider::scheduler::{
    Budget, FunctionView, Grant, Hosts, ImageState, LoadView, NodeView, Phase, Policy, ReplicaView,
    Scaling, Seat, Seats, Snapshot, Wanted, plan, plan_function,
};
use hyperfaas_sim::profile::key;

const NOW: Moment = Moment::from_millis(1_000_000);

fn seats(count: u64) -> Vec<Seat> {
    let seat = |host| Seat {
        host,
        in_flight: u32::try_from(host % 7).unwrap_or(0),
        limit: 10,
        is_open: true,
        ..Seat::default()
    };
    (0..count).map(seat).collect()
}

fn grant(cpu: u32) -> Grant {
    Grant { cpu: Some(cpu), memory: Some(128 << 20) }
}

/// A function with so many ready replicas, in the middle of its work.
fn function(index: usize, replicas: usize) -> FunctionView {
    let mut view = FunctionView::new(key(&format!("f{index}")));
    let scaling = Scaling {
        base: grant(200),
        initial: grant(200),
        ceiling: grant(800),
        ..Scaling::default()
    };
    let count = u32::try_from(replicas).unwrap_or(u32::MAX);
    view.wanted =
        Some(Wanted { revision: 1, replicas: count, call: 1, scaling: Arc::new(scaling) });
    view.image = ImageState::Present;
    for number in 0..replicas {
        let id = ReplicaId(format!("f{index}-{number}"));
        let mut replica = ReplicaView::ordered(id, 1, grant(200), Moment::ZERO);
        replica.phase = Phase::Ready;
        replica.workers[0].state = WorkerState::Ready;
        replica.workers[0].in_flight = 1;
        replica.load = Some(LoadView { cpu: Some(90), memory: Some(64 << 20), at: NOW });
        view.replicas.push(replica);
    }
    for ms in (990_000..1_000_000).step_by(50) {
        view.traffic.arrived(Moment::from_millis(ms));
        view.traffic.answered(std::time::Duration::from_millis(12), Moment::from_millis(ms));
    }
    view.traffic.used(50_000.0, 5);
    view
}

fn node() -> NodeView {
    NodeView {
        cpu: 4_000_000,
        memory: 1 << 44,
        cpu_used: 1_000_000,
        cpu_busy: 1_000_000,
        memory_used: 1 << 40,
    }
}

/// What one request costs: a place is chosen and taken, and the oldest of as many requests as there are workers gives its own
/// back.
fn placing(criterion: &mut Criterion) {
    for count in [1, 100, 10_000] {
        let mut seats = Seats::default();
        seats.refill(self::seats(count));
        let (mut turn, mut places) = (0_usize, VecDeque::from(vec![None; seats.list().len()]));
        criterion.bench_function(&format!("place among {count} workers"), |bencher| {
            bencher.iter(|| {
                turn = turn.wrapping_add(1);
                let taken = seats.place(black_box(&[]), turn);
                let over = places.pop_front().flatten();
                for (at, more) in [(taken, 1), (over, -1)] {
                    if let Some(at) = at {
                        let in_flight = seats.list()[at].in_flight;
                        seats.set_in_flight(at, in_flight.saturating_add_signed(more));
                    }
                }
                places.push_back(taken);
                taken
            });
        });
    }
}

/// What one event costs: the plan of the one function it is about, whatever else there is.
fn one_event(criterion: &mut Criterion) {
    for others in [1, 100, 10_000] {
        let functions: Vec<_> = (0..=others).map(|index| function(index, 2)).collect();
        let hosts = Hosts::new(vec![node()]);
        let mut budget =
            Budget { starts: 4, specialisations: 8, hosts: hosts.clone(), ..Budget::default() };
        criterion.bench_function(&format!("one event beside {others} functions"), |bencher| {
            bencher.iter(|| {
                budget.hosts.copy_from(&hosts);
                plan_function(
                    black_box(&functions[others / 2]),
                    &mut budget,
                    &Policy::default(),
                    NOW,
                )
            });
        });
    }
}

/// 25,000 functions with two replicas of two workers each.
fn everything(criterion: &mut Criterion) {
    let snapshot = Snapshot {
        is_engine_up: true,
        nodes: vec![node()],
        functions: (0..25_000).map(|index| function(index, 2)).collect(),
        offers: Vec::new(),
    };
    criterion.bench_function("plan 100,000 workers", |bencher| {
        bencher.iter(|| plan(black_box(&snapshot), &Policy::default(), NOW));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = placing, one_event, everything
}
criterion_main!(benches);
