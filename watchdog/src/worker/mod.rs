//! The workers: who runs in each, how they are switched, and how a function is served, one variant a mode, all with the same
//! face towards the server.
//!
//! In: admitted requests with their [`Exchange`], and orders. Out: answers.
//! Always: whoever works on a request holds its exchange, so that it is counted until the work is over.

mod answer;
mod backoff;
mod buffered;
mod cgi;
mod crew;
mod fork;
mod guest;
mod headers;
mod hold;
mod machine;
mod media;
mod output;
mod owner;
mod pieces;
mod plain;
mod pool;
mod program;
mod queue;
mod ranges;
mod relay;
mod relayed;
mod site;
mod sockets;
mod streaming;
mod switch;
mod table;
mod trap;
mod upgrade;

use std::ffi::OsString;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyperfaas_protocol::control::OwnerState;
use hyperfaas_protocol::moment::SystemClock;

pub(crate) use answer::{INTERNAL, empty, seconds, sniffed};
pub(crate) use crew::{Crew, used_by};
pub(crate) use owner::Owner;
pub(crate) use pieces::Pieces;
pub(crate) use relayed::Relayed;
pub(crate) use switch::{Answer, Ground, Switch};
pub(crate) use table::{Claim, Miss, Running, Table, WorkerTally};

use crate::body::Body;
use crate::config::{ClassicSettings, Config, Dialect, ForkKind, Mode};
use crate::exchange::Exchange;
use crate::front::Front;
use crate::inbound::Inbound;
use crate::pid1::Reaper;
use crate::rooted::Root;
use crate::state::State;
use crate::sys::Seal;
use fork::Forker;
use pool::Pool;
use program::Program;
use relay::Relay;
use site::Site;
use sockets::Sockets;

/// Serves the requests of one function.
#[derive(Debug, Clone)]
pub(crate) enum Worker {
    Classic { forker: Arc<Forker>, settings: Arc<ClassicSettings> },
    Streaming { forker: Arc<Forker>, content_type: HeaderValue },
    Serializing { forker: Arc<Forker>, content_type: HeaderValue },
    Relay(Arc<Relay>),
    Static(Arc<Site>),
}

/// What a worker needs besides its settings.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The environment its processes get.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) seal: Seal,
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) state: Arc<State>,
    pub(crate) clock: SystemClock,
    pub(crate) is_managed: bool,
    /// Where it runs.
    pub(crate) role: Role,
}

/// Where a function runs.
#[derive(Debug)]
pub(crate) enum Role {
    /// In its own container's first worker, for as long as the container lives.
    First {
        /// The port that a plain server believes to be its own, and its number.
        front: Option<(Arc<Front>, u16)>,
    },
    /// Beside another worker, until it is released.
    Beside {
        crew: Arc<Crew>,
        /// A guest's own root.
        root: Option<Root>,
        /// The command that starts its interpreter and waits with the function, where that is wanted.
        held: Option<Vec<String>>,
    },
}

impl Worker {
    /// The worker that `config` asks for; nothing is started. `None` where it asks for none.
    pub(crate) fn new(config: &Config, around: Surroundings) -> Option<Self> {
        let Surroundings { environment, seal, reaper, state, clock, is_managed, role } = around;
        let (timeouts, output) = (config.timeouts, config.output);
        let (front, held, beside) = match role {
            Role::First { front } => (front, None, None),
            Role::Beside { crew, root, held } => (None, held, Some((crew, root))),
        };
        if let Mode::Static { root } = &config.mode {
            let within = beside.and_then(|(_, root)| root);
            return Some(Self::Static(Arc::new(Site::new(root, within))));
        }
        let is_first = beside.is_none();
        let program = |words: &[String]| {
            let program = Program::new(words.to_vec(), environment, seal);
            match beside {
                Some((crew, root)) => program.of(crew, root),
                None => program,
            }
        };
        Some(match &config.mode {
            Mode::Standby | Mode::Static { .. } => return None,
            Mode::Fork { kind, words } => {
                let fprocess = config.fprocess.clone();
                let forker = Arc::new(Forker {
                    program: program(words),
                    reaper,
                    timeouts,
                    output,
                    fprocess,
                });
                Self::fork(forker, kind)
            }
            Mode::Http { upstream, words, settings } => {
                let owner = Arc::new(Owner {
                    program: program(words),
                    held,
                    upstream: upstream.clone(),
                    output,
                    reaper,
                    state,
                    pool: Pool::new(clock),
                    clock,
                    is_managed,
                    is_trapped: (is_managed && upstream.is_loopback()).into(),
                    is_port_foreign: is_first && front.is_none() && upstream.port != config.port,
                    must_move: !is_first,
                    has_moved: true.into(),
                    front,
                    signs: owner::Signs::default(),
                });
                let (upstream, settings) = (upstream.clone(), settings.clone());
                let sockets = Sockets::new(clock);
                let detour = AtomicU32::new(0);
                let relay = Relay { owner, upstream, settings, timeouts, sockets, detour };
                Self::Relay(Arc::new(relay))
            }
        })
    }

    fn fork(forker: Arc<Forker>, kind: &ForkKind) -> Self {
        let header =
            |text: &String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        match kind {
            ForkKind::Classic(settings) => {
                Self::Classic { forker, settings: Arc::new(settings.clone()) }
            }
            ForkKind::Streaming { content_type } => {
                Self::Streaming { forker, content_type: header(content_type) }
            }
            ForkKind::Serializing { content_type } => {
                Self::Serializing { forker, content_type: header(content_type) }
            }
        }
    }

    /// The long-running process, if the mode has one.
    pub(crate) fn owner(&self) -> Option<&Arc<Owner>> {
        match self {
            Self::Relay(relay) => Some(&relay.owner),
            _ => None,
        }
    }

    /// Enters the state the mode begins in: one that forks a process a request can serve at once.
    pub(crate) fn announce(&self, state: &State) {
        if self.owner().is_none() {
            state.enter(OwnerState::Ready, None);
        }
    }

    /// The function's own server, if the mode has one.
    pub(crate) fn relay(&self) -> Option<&Arc<Relay>> {
        match self {
            Self::Relay(relay) => Some(relay),
            _ => None,
        }
    }

    /// Whether its requests have to be read as HTTP here: it has no server that could, or they are held until they are whole.
    pub(crate) fn takes_heads(&self) -> bool {
        self.relay().is_none_or(|relay| relay.settings.buffer_body)
    }

    fn read_patience(&self) -> Option<Duration> {
        match self {
            Self::Classic { forker, .. }
            | Self::Streaming { forker, .. }
            | Self::Serializing { forker, .. } => forker.timeouts.read.positive(),
            Self::Relay(relay) => relay.timeouts.read.positive(),
            Self::Static(_) => None,
        }
    }

    /// Serves one request of the client at `peer`.
    pub(crate) async fn serve(
        self,
        request: Request<Incoming>,
        peer: IpAddr,
        exchange: Exchange,
    ) -> Response<Body> {
        let patience = self.read_patience();
        let request = request.map(|incoming| Inbound::new(incoming, patience));
        self.serve_described(request, peer, exchange).await
    }

    /// The same for a request that came in whatever way.
    pub(crate) async fn serve_described(
        self,
        request: Request<Inbound>,
        peer: IpAddr,
        exchange: Exchange,
    ) -> Response<Body> {
        // Those that start a process are on the heap: the usual request does not carry room for them about.
        match self {
            Self::Classic { forker, settings } => {
                Box::pin(buffered::classic(forker, settings, request, exchange)).await
            }
            Self::Streaming { forker, content_type } => {
                Box::pin(streaming::serve(forker, content_type, request, exchange)).await
            }
            Self::Serializing { forker, content_type } => {
                Box::pin(buffered::serializing(forker, content_type, request, exchange)).await
            }
            Self::Relay(relay) => relay.serve(request, peer, exchange).await,
            Self::Static(site) => {
                let mut exchange = exchange;
                let response = site.answer(request.method(), request.uri(), request.headers());
                exchange.answered(response.status().as_u16());
                response.map(|body| body.with(exchange))
            }
        }
    }

    /// Asks the function under `path` whether it is ready; `headers` are those of the probe.
    pub(crate) async fn probe(&self, path: &str, headers: HeaderMap) -> StatusCode {
        match self {
            Self::Relay(relay) => relay.probe(path, headers).await,
            Self::Static(site) => match path.parse() {
                Ok(uri) => site.answer(&Method::GET, &uri, &headers).status(),
                Err(_) => StatusCode::NOT_FOUND,
            },
            Self::Classic { forker, .. } => {
                buffered::probe(forker, Dialect::Classic, path, headers).await
            }
            Self::Streaming { forker, .. } | Self::Serializing { forker, .. } => {
                buffered::probe(forker, Dialect::OfWatchdog, path, headers).await
            }
        }
    }
}
