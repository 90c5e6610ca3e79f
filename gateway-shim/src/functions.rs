//! What functions ask of the gateway by their labels, as the provider tells it.
//!
//! In: a function's status from the provider. Out: a [`Lookup`] with its [`FunctionSettings`].
//! Always: an answer is at most [`FRESH`] old, unless the provider does not answer: then the last one stays; at most
//! [`FUNCTIONS_MAX`] are remembered; a label that makes no sense counts as absent and is warned of.
//! Source: `com.openfaas.retry.*` as in OpenFaaS Pro's queue-worker, ours begin with `com.hyperfaas.`; a label wins over an
//! annotation of the same name.
//! Touches: the provider.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use http::header::AUTHORIZATION;
use http::{StatusCode, Uri};
use hyperfaas_http::auth::BasicAuth;
use hyperfaas_protocol::duration::GoDuration;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::queue::retry::RetryPolicy;
use crate::system::read;
use crate::upstream::Upstream;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(5);
/// Longest wait for the provider; it answers from memory.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Functions remembered; beyond it all are forgotten and asked for again.
const FUNCTIONS_MAX: usize = 10_000;
/// Longest status that is read: labels are bounded by providers, mostly far below.
const STATUS_MAX: usize = 1 << 20;

/// What a function asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FunctionSettings {
    /// Longest wait for its answer to begin; `None`: the gateway's own.
    pub(crate) timeout: Option<Duration>,
    /// Most asynchronous calls of it under way; `None`: the gateway's own.
    pub(crate) concurrency: Option<usize>,
    /// How its asynchronous calls are tried again.
    pub(crate) retry: RetryPolicy,
}

/// What is known of a function.
#[derive(Debug, Clone)]
pub(crate) enum Lookup {
    /// It exists.
    Found(Arc<FunctionSettings>),
    /// The provider knows no such function.
    Gone,
    /// The provider did not tell.
    Unknown,
}

impl Lookup {
    /// What the function asks for; the defaults when that is not known.
    pub(crate) fn settings(&self) -> Arc<FunctionSettings> {
        match self {
            Self::Found(settings) => Arc::clone(settings),
            Self::Gone | Self::Unknown => Arc::default(),
        }
    }
}

/// The functions asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    lookup: Lookup,
    at: Instant,
    /// Whether somebody is asking again.
    is_asked: bool,
}

/// Whom to ask, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Asking<'a> {
    pub(crate) provider: &'a Upstream,
    pub(crate) auth: Option<&'a BasicAuth>,
}

impl Functions {
    /// What is known of `function` (`name.namespace`), at most [`FRESH`] old.
    pub(crate) async fn fresh(&self, function: &str, asking: Asking<'_>) -> Lookup {
        if let Some(known) = self.lock().get(function)
            && known.at.elapsed() < FRESH
        {
            return known.lookup.clone();
        }
        self.ask(function, asking).await
    }

    /// What is known of `function` already, and whether the caller is the one to ask again; `None` when it was never
    /// asked for.
    fn known(&self, function: &str) -> Option<(Lookup, bool)> {
        let mut functions = self.lock();
        let known = functions.get_mut(function)?;
        let is_mine = known.at.elapsed() >= FRESH && !std::mem::replace(&mut known.is_asked, true);
        Some((known.lookup.clone(), is_mine))
    }

    /// As [`Self::fresh`], but what was known once is good enough: then `refresh` is told to ask again when that is due.
    ///
    /// For calls that must not wait: only the first one of a function does, for `patience` at most.
    pub(crate) async fn soon(
        &self,
        function: &str,
        asking: Asking<'_>,
        patience: Duration,
        refresh: impl FnOnce(),
    ) -> Lookup {
        match self.known(function) {
            Some((lookup, is_due)) => {
                if is_due {
                    refresh();
                }
                lookup
            }
            None => timeout(patience, self.ask(function, asking)).await.unwrap_or(Lookup::Unknown),
        }
    }

    async fn ask(&self, function: &str, asking: Asking<'_>) -> Lookup {
        let answer =
            timeout(ASK_TIMEOUT, status(function, asking)).await.unwrap_or(Lookup::Unknown);
        let mut functions = self.lock();
        let old = functions.remove(function).map(|known| known.lookup);
        let lookup = match (answer, old) {
            (Lookup::Unknown, Some(old)) => old,
            (answer, _) => answer,
        };
        if functions.len() >= FUNCTIONS_MAX {
            functions.clear();
        }
        let known = Known { lookup: lookup.clone(), at: Instant::now(), is_asked: false };
        functions.insert(function.to_owned(), known);
        lookup
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a status that is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    labels: Option<HashMap<String, String>>,
    annotations: Option<HashMap<String, String>>,
}

async fn status(function: &str, asking: Asking<'_>) -> Lookup {
    let Some(target) = status_target(function) else { return Lookup::Unknown };
    let mut question = Request::new(axum::body::Body::empty());
    *question.uri_mut() = target;
    if let Some(auth) = asking.auth {
        question.headers_mut().insert(AUTHORIZATION, auth.header());
    }
    let Ok(response) = asking.provider.call(question, Some(ASK_TIMEOUT)).await else {
        return Lookup::Unknown;
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Lookup::Gone,
        _ => return Lookup::Unknown,
    }
    let Some(body) = read(response.into_body(), STATUS_MAX).await else { return Lookup::Unknown };
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) => Lookup::Found(Arc::new(settings(function, &status))),
        Err(_) => Lookup::Unknown,
    }
}

/// `/system/function/NAME?namespace=NAMESPACE` of `function`, whose namespace is what follows the last dot.
pub(crate) fn status_target(function: &str) -> Option<Uri> {
    let (name, namespace) = function.rsplit_once('.').unwrap_or((function, ""));
    Uri::try_from(format!("/system/function/{name}?namespace={namespace}")).ok()
}

fn settings(function: &str, status: &Status) -> FunctionSettings {
    let find = |key: &str| {
        let maps = [&status.labels, &status.annotations];
        maps.into_iter().flatten().find_map(|map| map.get(key)).map(|text| text.trim())
    };
    let read = Labels { function, find: &find };
    let default = RetryPolicy::default();
    FunctionSettings {
        timeout: read.duration("com.hyperfaas.timeout").filter(|t| !t.is_zero()),
        concurrency: read.number("com.hyperfaas.async.concurrency").filter(|n| *n > 0),
        retry: RetryPolicy {
            attempts: read
                .number("com.openfaas.retry.attempts")
                .map_or(default.attempts, |attempts: u32| attempts.max(1)),
            min_wait: read.duration("com.openfaas.retry.min_wait").unwrap_or(default.min_wait),
            max_wait: read.duration("com.openfaas.retry.max_wait").unwrap_or(default.max_wait),
            deadline: read.duration("com.hyperfaas.async.deadline").unwrap_or(default.deadline),
            codes: read.codes("com.openfaas.retry.codes").unwrap_or(default.codes),
        },
    }
}

struct Labels<'a> {
    function: &'a str,
    find: &'a dyn Fn(&str) -> Option<&'a str>,
}

impl Labels<'_> {
    fn parsed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let parsed = parse((self.find)(key)?);
        if parsed.is_none() {
            warn!(function = self.function, label = key, "label makes no sense and is ignored");
        }
        parsed
    }

    fn number<T: FromStr>(&self, key: &'static str) -> Option<T> {
        self.parsed(key, |text| text.parse().ok())
    }

    fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, |text| match GoDuration::parse_setting(text)? {
            negative if negative < GoDuration::from_secs(0) => None,
            duration => Some(duration.positive().unwrap_or_default()),
        })
    }

    fn codes(&self, key: &'static str) -> Option<Vec<u16>> {
        self.parsed(key, |text| {
            let codes = text.split(',').map(str::trim).filter(|code| !code.is_empty());
            codes.map(|code| code.parse().ok().filter(|code| (100..600).contains(code))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> FunctionSettings {
        settings("f.ns", &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn labels_and_annotations_say_what_a_function_asks_for() {
        let asked =
            of(r#"{"labels":{"com.hyperfaas.timeout":"1m30s","com.openfaas.retry.attempts":"3",
            "com.hyperfaas.async.concurrency":"2","com.hyperfaas.async.deadline":"600"},
            "annotations":{"com.openfaas.retry.attempts":"9","com.openfaas.retry.codes":"429, 500",
            "com.openfaas.retry.min_wait":"0","com.openfaas.retry.max_wait":"5s"}}"#);
        assert_eq!(asked.timeout, Some(Duration::from_secs(90)));
        assert_eq!(asked.concurrency, Some(2));
        let retry = RetryPolicy {
            attempts: 3,
            min_wait: Duration::ZERO,
            max_wait: Duration::from_secs(5),
            deadline: Duration::from_secs(600),
            codes: vec![429, 500],
        };
        assert_eq!(asked.retry, retry);
    }

    #[test]
    fn nothing_and_nonsense_mean_the_defaults() {
        assert_eq!(of(r#"{"labels":null}"#), FunctionSettings::default());
        let nonsense =
            of(r#"{"labels":{"com.hyperfaas.timeout":"-1s","com.openfaas.retry.codes":"x",
            "com.hyperfaas.async.concurrency":"0","com.openfaas.retry.max_wait":"soon"}}"#);
        assert_eq!(nonsense, FunctionSettings::default());
    }

    #[test]
    fn the_namespace_is_what_follows_the_last_dot() {
        let target = |name| status_target(name).unwrap().to_string();
        assert_eq!(target("a.b.ns"), "/system/function/a.b?namespace=ns");
        assert_eq!(target("f"), "/system/function/f?namespace=");
    }
}
