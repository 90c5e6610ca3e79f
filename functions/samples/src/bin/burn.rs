//! The sample `burn`: spends `?ms=N` milliseconds of CPU time, to make bursts that a scheduler must answer.
//!
//! In: `ms`, a whole number from 0 to 60,000, 100 when absent. Out: how much was burned and how long it took.
//! Always: CPU time is what counts, not time on the wall, so a throttled container takes longer, as real work would;
//! a caller that goes away stops its burning; at most 64 requests wait or run, the next gets 429.
//! Port: 8082, behind a watchdog in mode `http`.

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hyperfaas_samples::run;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use tokio::{sync::Semaphore, task::spawn_blocking};

const PORT: u16 = 8082;

/// Longest burning that may be asked for, in milliseconds.
const MS_LIMIT: u32 = 60_000;

/// Requests that may wait or run at once.
const ADMITTED: usize = 64;

/// Rounds of work between two looks at the clock: some 20 µs, so that the clock's own cost does not count.
const ROUNDS: u32 = 10_000;

#[derive(Deserialize)]
struct Order {
    #[serde(default = "default_ms")]
    ms: u32,
}

fn default_ms() -> u32 {
    100
}

fn main() -> ExitCode {
    run(PORT, router(ADMITTED))
}

fn router(admitted: usize) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(Semaphore::new(admitted)))
}

async fn answer(
    State(places): State<Arc<Semaphore>>,
    order: Result<Query<Order>, QueryRejection>,
) -> Response {
    let ms = match order {
        Ok(Query(Order { ms })) if ms <= MS_LIMIT => ms,
        _ => {
            let text = format!("ms must be a whole number from 0 to {MS_LIMIT}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let Ok(_place) = places.try_acquire() else {
        let retry = [(header::RETRY_AFTER, "1")];
        return (StatusCode::TOO_MANY_REQUESTS, retry, "too many are burning\n").into_response();
    };
    let flame = Flame::default();
    let lit = flame.0.clone();
    let began = now(ClockId::Monotonic);
    let burning = spawn_blocking(move || burn(Duration::from_millis(ms.into()), &lit)).await;
    let took = now(ClockId::Monotonic).saturating_sub(began);
    match burning {
        Ok(_) => format!("burned {ms} ms of CPU in {} ms\n", took.as_millis()).into_response(),
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the burning was cut short\n").into_response()
        }
    }
}

/// Goes out when dropped: with the request's future, whether it was answered or its caller left.
#[derive(Default)]
struct Flame(Arc<AtomicBool>);

impl Drop for Flame {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Spends `wanted` of this thread's CPU time, or less when `out` is set meanwhile; tells how much it was.
fn burn(wanted: Duration, out: &AtomicBool) -> Duration {
    let began = now(ClockId::ThreadCPUTime);
    let mut state = 1_u64;
    loop {
        let burned = now(ClockId::ThreadCPUTime).saturating_sub(began);
        if burned >= wanted || out.load(Ordering::Relaxed) {
            return burned;
        }
        for _ in 0..ROUNDS {
            // One step of the linear congruential generator of Knuth's MMIX: cannot be skipped or vectorised.
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407),
            );
        }
    }
}

fn now(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    async fn ask(admitted: usize, uri: &str) -> StatusCode {
        let request = Request::get(uri).body(Body::empty()).unwrap();
        router(admitted).oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn burns_within_bounds_and_refuses_the_rest() {
        for uri in ["/?ms=0", "/any/path?ms=20", "/?ms=1&other=2"] {
            assert_eq!(ask(1, uri).await, StatusCode::OK, "{uri}");
        }
        for uri in [
            "/?ms=60001",
            "/?ms=-1",
            "/?ms=1.5",
            "/?ms=abc",
            "/?ms=",
            "/?ms=99999999999",
            "/?ms=1&ms=2",
        ] {
            assert_eq!(ask(1, uri).await, StatusCode::BAD_REQUEST, "{uri}");
        }
        assert_eq!(ask(0, "/?ms=0").await, StatusCode::TOO_MANY_REQUESTS);
    }

    #[test]
    fn burns_cpu_time_and_stops_when_the_caller_leaves() {
        assert!(
            burn(Duration::from_millis(20), &AtomicBool::new(false)) >= Duration::from_millis(20)
        );
        assert_eq!(burn(Duration::from_secs(60), &AtomicBool::new(true)).as_secs(), 0);
    }
}
