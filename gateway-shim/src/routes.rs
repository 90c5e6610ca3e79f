//! The gateway's whole route table.
//!
//! As with Go's routers, unknown paths are 404 and wrong methods 405 before any credentials are looked at.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, any, get, on, post};
use http::HeaderMap;
use hyperfaas_http::auth::BasicAuth;
use hyperfaas_protocol::names::DEFAULT_NAMESPACE;
use tokio_util::sync::CancellationToken;

use crate::callback::CallbackPolicy;
use crate::config::GatewayConfig;
use crate::functions::{Asking, Functions, Lookup};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::queue::{Queue, pump};
use crate::trace::Tracer;
use crate::upstream::Upstream;
use crate::users::Users;
use crate::{
    access, alert, cron, error, invoke, later, live, metrics, openapi, past, queue_api, system, ui,
};

/// Longest that the first call of a function waits for what its labels say.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(1);

/// What the handlers share.
pub(crate) struct Gateway {
    pub(crate) provider: Upstream,
    pub(crate) logs: Upstream,
    pub(crate) auth: Option<BasicAuth>,
    pub(crate) users: Option<Users>,
    pub(crate) upstream_timeout: Option<Duration>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) functions: Functions,
    pub(crate) queue: Option<Arc<Queue>>,
    pub(crate) callbacks: CallbackPolicy,
    pub(crate) tracer: Option<Tracer>,
    /// Whether functions are called by their schedules.
    pub(crate) has_cron: bool,
    pub(crate) prometheus: Option<Upstream>,
    /// Those who watch.
    pub(crate) live: Live,
}

impl Gateway {
    /// What `function` (`name.namespace`) asks for by its labels.
    pub(crate) async fn look_up(&self, function: &str) -> Lookup {
        self.functions.fresh(function, self.asking()).await
    }

    /// As [`Self::look_up`], for a call that must not wait: what was known a moment ago is good enough.
    pub(crate) async fn look_up_soon(self: &Arc<Self>, function: &str) -> Lookup {
        let patience = self.upstream_timeout.map_or(LOOK_UP_PATIENCE, |t| t.min(LOOK_UP_PATIENCE));
        let refresh = || {
            let (gateway, function) = (Arc::clone(self), function.to_owned());
            tokio::spawn(async move { gateway.look_up(&function).await });
        };
        self.functions.soon(function, self.asking(), patience, refresh).await
    }

    fn asking(&self) -> Asking<'_> {
        Asking { provider: &self.provider, auth: self.auth.as_ref() }
    }
}

/// What a gateway stands before, and what it keeps.
#[derive(Debug)]
pub struct Backends {
    /// Runs the functions.
    pub provider: Upstream,
    /// Where logs come from, when that is not the provider.
    pub logs: Option<Upstream>,
    /// Namespace of functions which are called without one; metrics and counts name it.
    pub namespace: String,
    /// Keeps asynchronous calls; without one there are none.
    pub queue: Option<Queue>,
    /// Knows how often functions were called before this start.
    pub prometheus: Option<Upstream>,
}

/// What a gateway serves, and what it does beside that.
#[derive(Debug)]
pub struct Routers {
    /// Function calls, the `/system` API and health; for the gateway's port.
    pub api: Router,
    /// `/metrics` and `/healthz` of the gateway itself, without credentials; for a port of its own.
    pub metrics: Router,
    /// What has to run while these are served.
    pub work: Work,
}

/// What a gateway does by itself: it delivers asynchronous calls, calls functions by their
/// schedules, exports spans and notices changed credentials.
pub struct Work(Arc<Gateway>);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

impl Work {
    /// Works until the end.
    ///
    /// At `stop` nothing new is begun, and what runs has `drain` to finish. `served` tells that no request is served any
    /// more, so that nobody will ask for anything to be kept.
    pub async fn run(self, stop: CancellationToken, served: CancellationToken, drain: Duration) {
        let cron = async {
            if self.0.has_cron {
                cron::run(Arc::clone(&self.0), stop.clone()).await;
            }
        };
        tokio::join!(self.watch(stop.clone()), cron, self.deliver(stop.clone(), served, drain));
    }

    /// Takes over changed credentials and users, exports spans, and learns of the past.
    async fn watch(&self, stop: CancellationToken) {
        let basic = async {
            if let Some(basic) = &self.0.auth {
                basic.watch(stop.clone()).await;
            }
        };
        let users = async {
            if let Some(users) = &self.0.users {
                users.watch(stop.clone()).await;
            }
        };
        let traces = async {
            if let Some(tracer) = &self.0.tracer {
                tracer.export(stop.clone()).await;
            }
        };
        let past = async {
            if let Some(prometheus) = &self.0.prometheus {
                past::learn(prometheus, &self.0.metrics, stop.clone()).await;
            }
        };
        let live = async {
            stop.cancelled().await;
            self.0.live.end();
        };
        tokio::join!(basic, users, traces, past, live);
    }

    async fn deliver(&self, stop: CancellationToken, served: CancellationToken, drain: Duration) {
        let Some(queue) = self.0.queue.clone() else { return };
        let delivered = CancellationToken::new();
        let writing = queue.write(delivered.clone());
        let delivering = async {
            pump::run(Arc::clone(&self.0), Arc::clone(&queue), stop, drain).await;
            served.cancelled().await;
            delivered.cancel();
        };
        tokio::join!(writing, delivering);
    }
}

/// The API of a gateway in front of `provider`, see [`routers`]; its metrics are counted but not served, and it keeps no
/// asynchronous calls.
pub fn router(config: GatewayConfig, provider: Upstream, logs: Option<Upstream>) -> Router {
    let namespace = DEFAULT_NAMESPACE.to_owned();
    routers(config, Backends { provider, logs, namespace, queue: None, prometheus: None }).api
}

/// A gateway in front of `backends`.
///
/// With [`Upstream::Local`] gateway and provider run in one process. A provider that checks basic auth itself must have the
/// same credentials as the gateway.
pub fn routers(config: GatewayConfig, backends: Backends) -> Routers {
    let GatewayConfig { auth, users, upstream_timeout, callbacks, traces, cron } = config;
    let Backends { provider, logs, namespace, queue, prometheus } = backends;
    let gateway = Arc::new(Gateway {
        logs: logs.unwrap_or_else(|| provider.clone()),
        provider,
        auth,
        users,
        upstream_timeout,
        metrics: Arc::new(Metrics::new(&namespace)),
        functions: Functions::default(),
        queue: queue.map(Arc::new),
        callbacks,
        tracer: traces.map(Tracer::new),
        has_cron: cron,
        prometheus,
        live: Live::default(),
    });
    Routers {
        api: api(Arc::clone(&gateway)),
        metrics: metrics_routes(Arc::clone(&gateway)),
        work: Work(gateway),
    }
}

fn metrics_routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/metrics", any(metrics::scrape))
        .route("/healthz", get(async || "OK"))
        .fallback(async || error::not_found())
        .with_state(gateway)
}

fn api(gateway: Arc<Gateway>) -> Router {
    let guard = || from_fn_with_state(Arc::clone(&gateway), access::guard);
    let secured = |route: MethodRouter<Arc<Gateway>>| route.route_layer(guard());
    let pass_on = |methods| secured(on(methods, system::pass_on));

    let (read, create) = (MethodFilter::GET, MethodFilter::POST);
    let write = create.or(MethodFilter::PUT).or(MethodFilter::DELETE);
    let all = read.or(write);
    let routes = match &gateway.queue {
        Some(_) => queue_routes(&gateway),
        None => Router::new(),
    };
    let routes = ui::FILES.iter().fold(routes, |routes, file| {
        routes.route(file.path, secured(get(async |headers: HeaderMap| ui::answer(file, &headers))))
    });
    routes
        .route("/", get(ui::redirect))
        .route("/system/hyperfaas/live", secured(get(live::stream)))
        .route("/healthz", get(system::health))
        .route("/function/{*call}", any(invoke::invoke))
        .route("/system/functions", pass_on(write).merge(secured(on(read, system::list))))
        .route("/system/function/{name}", pass_on(read))
        .route("/system/scale-function/{name}", pass_on(create))
        .route("/system/secrets", pass_on(all))
        .route("/system/namespaces", pass_on(read))
        .route("/system/namespaces/{name}", pass_on(all))
        .route("/system/namespace/", pass_on(all))
        .route("/system/namespace/{name}", pass_on(all))
        .route("/system/telemetry", pass_on(read))
        .route("/system/alert", secured(post(alert::alert)))
        .route("/system/hyperfaas/openapi.json", secured(get(openapi::document)))
        .route("/system/hyperfaas/functions/{name}/{view}", pass_on(read))
        .route("/system/logs", secured(on(read, system::logs)))
        .route("/system/info", secured(on(read, system::info)))
        .fallback(async || error::not_found())
        .with_state(gateway)
}

/// Asynchronous calls and what became of them; routes of a gateway with a queue only, as in OpenFaaS without NATS.
fn queue_routes(gateway: &Arc<Gateway>) -> Router<Arc<Gateway>> {
    let guard = || from_fn_with_state(Arc::clone(gateway), access::guard);
    let secured = |route: MethodRouter<Arc<Gateway>>| route.route_layer(guard());
    let one = get(queue_api::dead_letter).delete(queue_api::remove);
    Router::new()
        .route("/async-function/{*call}", post(later::accept))
        .route("/system/hyperfaas/async", secured(get(queue_api::queue)))
        .route(
            "/system/hyperfaas/async/dead",
            secured(get(queue_api::dead).delete(queue_api::remove_all)),
        )
        .route("/system/hyperfaas/async/dead/redrive", secured(post(queue_api::redrive_all)))
        .route("/system/hyperfaas/async/dead/{id}", secured(one))
        .route("/system/hyperfaas/async/dead/{id}/redrive", secured(post(queue_api::redrive)))
}
