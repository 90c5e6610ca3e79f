//! The watchdog's life: everything is opened, served, and drained in order.
//!
//! In: a [`Config`] and the [`Place`] it runs in. Out: the exit code.
//! Always: the lock file exists only while the port is open; SIGTERM ends in exit code 0, whatever it interrupts; the
//! function is told to stop only when the last request is answered.

use std::sync::Arc;
use std::time::Duration;

use hyperfaas_protocol::control::{Boot, FUNCTION_PORT, OwnerState};
use hyperfaas_protocol::duration::GoDuration;
use hyperfaas_protocol::moment::SystemClock;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::boot::Place;
use crate::config::{Config, Mode};
use crate::control::Desk;
use crate::exchange::Books;
use crate::front::Front;
use crate::health::LockFile;
use crate::http::{self, Doors, Server};
use crate::jwt::Guard;
use crate::lane::Lanes;
use crate::log::{self, Stream, line};
use crate::pid1::{Reaper, StopSignals};
use crate::state::State;
use crate::worker::{Ground, Switch, Worker};
use crate::{control, load, sys, worker};

/// Exit code when something that is needed cannot be had.
const FAILED: u8 = 1;
/// Exit code when the metrics port is taken, as in the originals.
const METRICS_FAILED: u8 = 2;

/// After this time what the end of the start needed is let go, too.
const SETTLED: Duration = Duration::from_secs(1);
/// After this time without a request what only requests needed is let go. Shorter pauses are part of a load: its next request
/// would pay for reading the program's pages again, some 100 µs.
const QUIET: Duration = Duration::from_secs(5);

/// What is running.
struct App {
    config: Arc<Config>,
    state: Arc<State>,
    books: Arc<Books>,
    lock: LockFile,
    doors: Doors,
    switch: Arc<Switch>,
    /// The owner's function in the first worker, where the container has an owner.
    worker: Option<Worker>,
    /// Its process, where the mode has one.
    owner: JoinHandle<Option<u8>>,
    is_managed: bool,
}

/// Runs until a signal or a failure; the exit code.
pub(crate) async fn run(config: Config, place: Place, lock: LockFile) -> u8 {
    for stream in [Stream::Stdout, Stream::Stderr] {
        tokio::spawn(log::drain(stream));
    }
    let mut signals = match StopSignals::install() {
        Ok(signals) => signals,
        Err(error) => {
            return fail(FAILED, format_args!("Error installing signal handlers: {error}"));
        }
    };
    let guard = match &config.jwt {
        Some(settings) => match Guard::discover(settings).await {
            Ok(guard) => Some(guard),
            Err(error) => {
                return fail(FAILED, format_args!("error creating JWTAuthMiddleware: {error}"));
            }
        },
        None => None,
    };
    match App::start(config, place, lock, guard) {
        Ok(app) => app.live(&mut signals).await,
        Err(code) => code,
    }
}

fn fail(code: u8, text: std::fmt::Arguments<'_>) -> u8 {
    line!("{text}");
    code
}

impl App {
    fn start(
        config: Config,
        place: Place,
        lock: LockFile,
        guard: Option<Guard>,
    ) -> Result<Self, u8> {
        let Place { boot, environment, seal } = place;
        let is_managed = boot.is_some();
        let clock = SystemClock::start();
        let (state, reaper) = (Arc::new(State::new()), Arc::new(Reaper::default()));
        reaper.start().map_err(|e| {
            fail(FAILED, format_args!("Error installing the handler for SIGCHLD: {e}"))
        })?;
        let front = config.is_relay.then(|| Arc::new(Front::closed()));
        let config = Arc::new(config);
        let ground = Ground { environment, seal, reaper, clock, is_managed };
        let switch = Arc::new(Switch::new(ground, config.clone()));
        // Tests pick no fixed port.
        let own_port = if config.port == 0 { 0 } else { FUNCTION_PORT };
        let worker = switch.begin(&state, front.clone().map(|front| (front, own_port)));
        let books = Arc::new(Books::new(config.max_inflight, clock));
        announce(&config);
        let listener = open(config.port, "Listening on port")?;
        let doors = Doors::open();
        if let Some(boot) = &boot {
            let table = switch.table().clone();
            let told = load::start(books.clone(), table, &config.cgroup_root, clock);
            let lanes = Arc::new(Lanes::new(switch.table().clone(), books.clone(), &doors));
            let desk = Desk { state: state.clone(), told, switch: switch.clone(), lanes };
            open_control(boot, desk)?;
        }
        open_metrics(&config, &books, is_managed)?;
        let app = Self {
            owner: start_owner(worker.as_ref()),
            config,
            state,
            books,
            lock,
            doors,
            switch,
            worker,
            is_managed,
        };
        app.write_lock()?;
        app.serve(listener, front, guard);
        Ok(app)
    }

    fn serve(&self, listener: TcpListener, front: Option<Arc<Front>>, guard: Option<Guard>) {
        let server = Arc::new(Server {
            table: self.switch.table().clone(),
            books: self.books.clone(),
            state: self.state.clone(),
            lock: self.lock.clone(),
            config: self.config.clone(),
            is_managed: self.is_managed,
            guard,
        });
        for front in [Some(Arc::new(Front::with(listener))), front].into_iter().flatten() {
            http::serve(server.clone(), front, &self.doors);
        }
        match &self.worker {
            Some(worker) => worker.announce(&self.state),
            // Its workers wait for others' functions, and can take them.
            None => self.state.enter(OwnerState::Ready, None),
        }
    }

    fn write_lock(&self) -> Result<(), u8> {
        if self.config.suppress_lock {
            line!(
                "Warning: \"suppress_lock\" is enabled. No automated health-checks will be in place for your function."
            );
            return Ok(());
        }
        line!("Writing lock-file to: {}", self.lock.path().display());
        match self.lock.write() {
            Ok(()) => Ok(()),
            Err(error) if self.is_managed => {
                line!(
                    "Warning: cannot write the lock-file, the provider is told over its link: {error}"
                );
                Ok(())
            }
            Err(error) => Err(fail(
                FAILED,
                format_args!("Error writing {}: {error}", self.lock.path().display()),
            )),
        }
    }

    /// Waits for the end: a signal, or the owner's process taking us along.
    async fn live(mut self, signals: &mut StopSignals) -> u8 {
        let books = self.books.clone();
        tokio::spawn(async move {
            // Before the first request; what it needs comes back with it.
            sys::trim();
            tokio::time::sleep(SETTLED).await;
            loop {
                sys::trim();
                books.rest(QUIET).await;
            }
        });
        tokio::select! {
            signal = signals.wait() => self.drain(signal).await,
            code = &mut self.owner => match code {
                Ok(Some(code)) => code,
                _ => FAILED,
            },
        }
    }

    /// Stops in the order of the originals, except that the function is told last.
    async fn drain(self, signal: &str) -> u8 {
        // The provider has sent nothing new since before it stopped us, so there is nothing to wait for.
        let interval =
            if self.is_managed { GoDuration::from_secs(0) } else { self.config.timeouts.health };
        line!("{signal}: no new connections in {interval}");
        self.state.enter(OwnerState::Draining, None);
        self.switch.stop();
        if !self.config.suppress_lock {
            line!("Removing lock-file : {}", self.lock.path().display());
            self.lock.remove();
        }
        tokio::time::sleep(interval.positive().unwrap_or_default()).await;
        line!("No new connections allowed, draining: {} requests", self.books.running());
        if !self.doors.close(self.config.timeouts.drain()).await {
            line!("Error in Shutdown: context deadline exceeded");
        }
        let first = async {
            if let Some(owner) = self.worker.as_ref().and_then(Worker::owner) {
                owner.stop();
                // Bounded: the owner kills what does not stop.
                let _ = self.owner.await;
            }
        };
        tokio::join!(first, self.switch.end());
        line!("Exiting. Active connections: {}", self.books.running());
        0
    }
}

/// The owner's process, or for modes without one a task that never ends.
fn start_owner(worker: Option<&Worker>) -> JoinHandle<Option<u8>> {
    match worker.and_then(Worker::owner) {
        Some(owner) => tokio::spawn(worker::Owner::run(owner.clone())),
        None => tokio::spawn(std::future::pending()),
    }
}

fn announce(config: &Config) {
    if let Mode::Static { root } = &config.mode {
        line!("Serving files at: {}", root.display());
    }
    let mode = config.mode.of_watchdog_name();
    if let Some(mode) = mode {
        line!("Watchdog mode: {mode}\tfprocess: \"{}\"", config.fprocess);
    }
    let t = &config.timeouts;
    let stop = if mode.is_none() { "." } else { "" };
    line!(
        "Timeouts: read: {} write: {} hard: {} health: {}{stop}",
        t.read,
        t.write,
        t.exec,
        t.health
    );
    if config.jwt.is_some() {
        line!("JWT Auth: true");
    }
}

/// Opens a port and logs under which number.
fn open(port: u16, what: &str) -> Result<TcpListener, u8> {
    let listener = http::listen(port);
    match listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
        Ok((port, listener)) => {
            line!("{what}: {port}");
            Ok(listener)
        }
        Err(error) => Err(fail(FAILED, format_args!("Error ListenAndServe: port {port}: {error}"))),
    }
}

fn open_control(boot: &Boot, desk: Desk) -> Result<(), u8> {
    let listener = open(boot.control_port, "Control link listening on port")?;
    control::serve(listener, boot, desk);
    Ok(())
}

/// On its own the watchdog fails loudly, as the originals do; under a provider the function matters more.
fn open_metrics(config: &Config, books: &Arc<Books>, is_managed: bool) -> Result<(), u8> {
    let Some(port) = config.metrics_port else { return Ok(()) };
    match open(port, "Metrics listening on port") {
        Ok(listener) => http::serve_metrics(books.clone(), listener),
        Err(_) if is_managed => line!("Warning: no metrics, port {port} is taken"),
        Err(_) => return Err(METRICS_FAILED),
    }
    Ok(())
}
