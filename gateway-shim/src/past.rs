//! How often functions were called before this gateway started, as Prometheus knows it.
//!
//! In: Prometheus' query API. Out: counts to add to our own, by `name.namespace`.
//! Always: asked until it answers once, since the past does not change; without an answer the counts are those since the start.
//! Units: calls, as Prometheus extrapolates them; what happened before the first scrape of a series is not in them.
//! Touches: Prometheus.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::{StatusCode, Uri};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::system::read;
use crate::upstream::Upstream;

/// How far back is looked; Prometheus mostly keeps less.
const RANGE: &str = "30d";
/// Time for the answer; a range of weeks is read from disk.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before asking again.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest answer: tens of thousands of functions.
const ANSWER_MAX: usize = 16 << 20;

#[derive(Debug, Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    metric: Labels,
    /// Time, and the value as text.
    value: (f64, String),
}

#[derive(Debug, Deserialize)]
struct Labels {
    function_name: String,
}

/// Asks `prometheus` until it answers, and adds what it knows to `metrics`.
pub(crate) async fn learn(prometheus: &Upstream, metrics: &Metrics, stop: CancellationToken) {
    let start = Timestamp::now();
    let mut was_told = false;
    loop {
        let asked = timeout(QUERY_TIMEOUT, ask(prometheus, start));
        match stop.run_until_cancelled(asked).await {
            None => return,
            Some(Ok(Some(counts))) => {
                info!(functions = counts.len(), "counts of earlier calls read from Prometheus");
                return metrics.remember(counts);
            }
            Some(_) if !was_told => {
                warn!(?prometheus, "no counts of earlier calls from Prometheus yet");
            }
            Some(_) => {}
        }
        was_told = true;
        if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn ask(prometheus: &Upstream, start: Timestamp) -> Option<HashMap<String, u64>> {
    let query = format!(
        "sum by (function_name) (increase(gateway_function_invocation_total[{RANGE}] @ {}))",
        start.as_second()
    );
    let target = format!("/api/v1/query?query={}", encode(&query));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::try_from(target).ok()?;
    let response = prometheus.call(request, Some(QUERY_TIMEOUT)).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    counts(&read(response.into_body(), ANSWER_MAX).await?)
}

fn counts(answer: &[u8]) -> Option<HashMap<String, u64>> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let count = |sample: Sample| {
        let value = sample.value.1.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0)?;
        // Whole calls; beyond 2^53 nobody counts.
        let whole = format!("{:.0}", value.min(9e15)).parse().ok()?;
        Some((sample.metric.function_name, whole))
    };
    Some(answer.data.result.into_iter().filter_map(count).collect())
}

/// Percent-encodes what is neither a letter nor a digit.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_becomes_counts_and_anything_else_nothing() {
        let answer = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"function_name":"f.n"},"value":[1.5,"41.6"]},
            {"metric":{"function_name":"g.n"},"value":[1.5,"NaN"]},
            {"metric":{"function_name":"h.n"},"value":[1.5,"1e300"]}]}}"#;
        let counts = counts(answer).unwrap();
        assert_eq!((counts.len(), counts["f.n"], counts["h.n"]), (2, 42, 9_000_000_000_000_000));
        for wrong in
            [&b""[..], b"{}", b"null", br#"{"data":{"result":[{"metric":{},"value":[1,"2"]}]}}"#]
        {
            assert!(super::counts(wrong).is_none());
        }
    }
}
