//! What `:8081/metrics` tells, under the names of the OpenFaaS watchdogs.
//!
//! In: one observation a request. Out: the Prometheus text format.
//! Units: seconds; codes are three digits, methods lower case, unusual ones are `unknown`.
//! Always: the number of series is bounded: ten methods times the status codes that exist.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use hyper::Method;

/// Upper ends of the buckets; the defaults of the Go client.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Content type of the text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts of everything that reached the function's handler.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    in_flight: u64,
    series: BTreeMap<(u16, &'static str), Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// One count a bucket, not yet summed up; what exceeds the last bucket is in `total` only.
    buckets: [u64; BUCKETS.len()],
    total: u64,
    seconds: f64,
}

impl Metrics {
    /// A request has arrived.
    pub(crate) fn begin(&self) {
        self.0.lock().expect("no holder of this lock panics").in_flight += 1;
    }

    /// The request that arrived `duration` ago is over, answered with `code`.
    pub(crate) fn end(&self, method: &Method, code: u16, duration: Duration) {
        let mut counts = self.0.lock().expect("no holder of this lock panics");
        counts.in_flight = counts.in_flight.saturating_sub(1);
        let series = counts.series.entry((code, method_label(method))).or_default();
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|upper| seconds <= *upper) {
            series.buckets[bucket] += 1;
        }
        series.total += 1;
        series.seconds += seconds;
    }

    /// Everything in the text format.
    pub(crate) fn render(&self) -> String {
        let counts = self.0.lock().expect("no holder of this lock panics");
        let mut out = String::with_capacity(1024);
        heading(
            &mut out,
            "http_request_duration_seconds",
            "Seconds spent serving HTTP requests.",
            "histogram",
        );
        for ((code, method), series) in &counts.series {
            series.render(&mut out, &format!("code=\"{code}\",method=\"{method}\""));
        }
        heading(&mut out, "http_requests_in_flight", "total HTTP requests in-flight", "gauge");
        line(&mut out, format_args!("http_requests_in_flight {}", counts.in_flight));
        heading(&mut out, "http_requests_total", "total HTTP requests processed", "counter");
        for ((code, method), series) in &counts.series {
            line(
                &mut out,
                format_args!(
                    "http_requests_total{{code=\"{code}\",method=\"{method}\"}} {}",
                    series.total
                ),
            );
        }
        out
    }
}

impl Series {
    fn render(&self, out: &mut String, labels: &str) {
        const NAME: &str = "http_request_duration_seconds";
        let mut below = 0;
        for (upper, count) in BUCKETS.iter().zip(self.buckets) {
            below += count;
            line(out, format_args!("{NAME}_bucket{{{labels},le=\"{upper}\"}} {below}"));
        }
        line(out, format_args!("{NAME}_bucket{{{labels},le=\"+Inf\"}} {}", self.total));
        line(out, format_args!("{NAME}_sum{{{labels}}} {}", self.seconds));
        line(out, format_args!("{NAME}_count{{{labels}}} {}", self.total));
    }
}

fn heading(out: &mut String, name: &str, help: &str, kind: &str) {
    line(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to memory cannot fail");
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "PUT" => "put",
        "HEAD" => "head",
        "POST" => "post",
        "DELETE" => "delete",
        "CONNECT" => "connect",
        "OPTIONS" => "options",
        "NOTIFY" => "notify",
        "TRACE" => "trace",
        "PATCH" => "patch",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_shows_in_all_three_metrics() {
        let metrics = Metrics::default();
        metrics.begin();
        metrics.begin();
        metrics.end(&Method::POST, 200, Duration::from_millis(7));
        let text = metrics.render();
        for expected in [
            "http_requests_in_flight 1\n",
            "http_requests_total{code=\"200\",method=\"post\"} 1\n",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"post\",le=\"0.005\"} 0\n",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"post\",le=\"0.01\"} 1\n",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"post\",le=\"10\"} 1\n",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"post\",le=\"+Inf\"} 1\n",
            "http_request_duration_seconds_sum{code=\"200\",method=\"post\"} 0.007\n",
            "# TYPE http_request_duration_seconds histogram\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn a_request_beyond_the_last_bucket_counts_as_infinite_and_odd_methods_share_a_label() {
        let metrics = Metrics::default();
        metrics.begin();
        metrics.end(&Method::from_bytes(b"BREW").unwrap(), 418, Duration::from_secs(11));
        let text = metrics.render();
        assert!(text.contains("{code=\"418\",method=\"unknown\",le=\"10\"} 0\n"));
        assert!(text.contains("{code=\"418\",method=\"unknown\",le=\"+Inf\"} 1\n"));
    }
}
