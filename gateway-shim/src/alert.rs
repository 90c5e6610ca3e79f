//! `/system/alert`: AlertManager says that functions are called often, or not any more.
//!
//! In: AlertManager's webhook. Out: scale calls to the provider, by OpenFaaS' rule.
//! Always: a body that is no webhook changes nothing; functions that do not exist are passed over; one that is at zero is
//! not woken by the end of an alert.
//! Source: the OpenFaaS gateway (docs/gateway.md); its rule, but without its clamp to five replicas, and a factor of 0 means
//! that alerts do not scale this function.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use hyperfaas_http::error::{empty, plain};
use hyperfaas_protocol::names::is_route_name;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::info;

use crate::functions::status_target;
use crate::routes::Gateway;
use crate::system::{read, send};

/// Longest webhook: tens of thousands of alerts.
const ALERT_MAX: usize = 4 << 20;
/// Time for the webhook to arrive, and for each call to the provider.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest status of a function.
const STATUS_MAX: usize = 1 << 20;
/// Replicas of a function without `com.openfaas.scale.max`; OpenFaaS' own default before it was lowered to five.
const MAX_REPLICAS: u64 = 20;
/// Percent of the maximum that an alert adds, without `com.openfaas.scale.factor`.
const FACTOR: u64 = 10;

/// The part of AlertManager's webhook that is looked at.
#[derive(Debug, Deserialize)]
struct Webhook {
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    #[serde(default)]
    status: String,
    #[serde(default)]
    labels: HashMap<String, String>,
}

/// The part of a function's status that is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    replicas: u64,
    labels: Option<HashMap<String, String>>,
}

/// How alerts scale one function; replicas, and percent of `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    min: u64,
    max: u64,
    factor: u64,
}

impl Rule {
    /// The rule that `labels` ask for; what is no number counts as absent.
    fn of(labels: &HashMap<String, String>) -> Self {
        let number = |key| labels.get(key).and_then(|text| text.trim().parse::<u64>().ok());
        let min = number("com.openfaas.scale.min").unwrap_or(1).max(1);
        let max = number("com.openfaas.scale.max").unwrap_or(MAX_REPLICAS).max(min);
        let factor = number("com.openfaas.scale.factor").unwrap_or(FACTOR).min(100);
        Self { min, max, factor }
    }

    /// How many replicas the function should have that has `current` of them; `None`: leave it alone.
    fn wanted(self, is_firing: bool, current: u64) -> Option<u64> {
        if self.factor == 0 {
            return None;
        }
        let wanted = if is_firing {
            let step = self.max.saturating_mul(self.factor).div_ceil(100);
            current.saturating_add(step).min(self.max).max(current.min(self.max))
        } else if current == 0 {
            return None;
        } else {
            self.min
        };
        (wanted != current).then_some(wanted)
    }
}

/// Scales the functions that a webhook is about.
pub(crate) async fn alert(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let body = timeout(STEP_TIMEOUT, read(request.into_body(), ALERT_MAX)).await.ok().flatten();
    let Some(webhook) = body.and_then(|body| serde_json::from_slice::<Webhook>(&body).ok()) else {
        return plain(StatusCode::BAD_REQUEST, "Unable to parse alert, bad format.");
    };
    let mut failures = Vec::new();
    for (number, alert) in webhook.alerts.iter().enumerate() {
        let Some(function) = alert.labels.get("function_name").filter(|name| is_route_name(name))
        else {
            continue;
        };
        let function = gateway.metrics.full_name(function);
        if let Err(failure) = scale(&gateway, &function, alert.status == "firing").await {
            failures.push(format!("[{number}] {function}: {failure}"));
            if failure == Failure::Unreachable {
                break;
            }
        }
    }
    if failures.is_empty() {
        empty(StatusCode::OK)
    } else {
        plain(StatusCode::INTERNAL_SERVER_ERROR, failures.join("; "))
    }
}

/// Why a function was not scaled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("the provider gave no answer")]
    Unreachable,
    #[error("the provider answered {0}")]
    Refused(StatusCode),
    #[error("the provider's status is unreadable")]
    Unreadable,
}

async fn scale(gateway: &Gateway, function: &str, is_firing: bool) -> Result<(), Failure> {
    let Some(target) = status_target(function) else { return Ok(()) };
    let response = ask(gateway, Method::GET, target, Body::empty()).await?;
    let status = match response.status() {
        StatusCode::OK => {
            read(response.into_body(), STATUS_MAX).await.ok_or(Failure::Unreachable)?
        }
        StatusCode::NOT_FOUND => return Ok(()),
        other => return Err(Failure::Refused(other)),
    };
    let status: Status = serde_json::from_slice(&status).map_err(|_| Failure::Unreadable)?;
    let rule = Rule::of(&status.labels.unwrap_or_default());
    let Some(wanted) = rule.wanted(is_firing, status.replicas) else { return Ok(()) };
    info!(function, from = status.replicas, to = wanted, is_firing, "scaling by alert");
    let (name, namespace) = function.rsplit_once('.').unwrap_or((function, ""));
    let body = serde_json::json!({"serviceName": name, "namespace": namespace, "replicas": wanted});
    let target = format!("/system/scale-function/{name}?namespace={namespace}");
    let Ok(target) = Uri::try_from(target) else { return Ok(()) };
    let response = ask(gateway, Method::POST, target, Body::from(body.to_string())).await?;
    match response.status() {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
        other => Err(Failure::Refused(other)),
    }
}

async fn ask(
    gateway: &Gateway,
    method: Method,
    target: Uri,
    body: Body,
) -> Result<Response, Failure> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answered = timeout(STEP_TIMEOUT, send(gateway, &gateway.provider, request)).await;
    answered.map_err(|_| Failure::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(labels: &[(&str, &str)]) -> Rule {
        Rule::of(&labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn an_alert_adds_a_part_of_the_maximum_and_its_end_goes_back_to_the_minimum() {
        for (labels, is_firing, current, wanted) in [
            (&[][..], true, 1, Some(3)),
            (&[], true, 19, Some(20)),
            (&[], true, 20, None),
            (&[], false, 20, Some(1)),
            (&[], false, 1, None),
            (&[("com.openfaas.scale.max", "2")], true, 1, Some(2)),
            (
                &[("com.openfaas.scale.max", "100"), ("com.openfaas.scale.factor", "50")],
                true,
                7,
                Some(57),
            ),
            (&[("com.openfaas.scale.min", "3")], false, 9, Some(3)),
            (&[("com.openfaas.scale.min", "2"), ("com.openfaas.scale.max", "2")], true, 2, None),
            (&[("com.openfaas.scale.factor", "0")], true, 1, None),
            (&[("com.openfaas.scale.factor", "0")], false, 5, None),
            (&[("com.openfaas.scale.factor", "1000")], true, 1, Some(20)),
            (
                &[("com.openfaas.scale.max", "many"), ("com.openfaas.scale.min", "-1")],
                true,
                1,
                Some(3),
            ),
            (&[], true, 0, Some(2)),
            (&[], false, 0, None),
            (&[("com.openfaas.scale.max", "5")], true, 9, Some(5)),
        ] {
            assert_eq!(
                rule(labels).wanted(is_firing, current),
                wanted,
                "{labels:?} {is_firing} {current}"
            );
        }
    }
}
