//! `GET /system/hyperfaas/live`: all that happens, as server-sent events, for the page.
//!
//! In: the provider's own stream or, where it has none, its lists ([`source`]); the gateway's counters ([`sample`]) and queue.
//! Out: first the whole state (`state`), then what has changed (`functions`, `gone`, `decisions`, `system`), each at most four
//! times a second; a comment when nothing has for a while.
//! Always: nothing is asked or computed while nobody watches, and once for all who do; at most [`WATCHERS_MAX`] watch; who reads
//! too slowly is told the whole state anew instead of what it missed, so nothing piles up; users of namespaces see theirs only.
//! Source: the event stream format of the HTML standard, section 9.2.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyperfaas_http::error::plain;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::model::{Change, Model};
use self::sample::Samples;
use crate::access::Within;
use crate::routes::Gateway;

mod model;
mod sample;
mod source;
pub(crate) mod took;

/// Pages that are told at the same time.
const WATCHERS_MAX: usize = 64;
/// Changes kept for a slow reader: four seconds of them at most.
const KEPT: usize = 16;
/// Least pause between two lots of changes: smooth to the eye.
const PAUSE: Duration = Duration::from_millis(250);
/// Pause in times of what making them takes, so that it is a tenth of one processor at most.
const PAUSE_FACTOR: u32 = 9;
/// After so long without news something is sent, so that both ends, and proxies, notice a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Tells browsers to come back after a second.
const RETRY: &str = "retry: 1000\n\n";

/// Those who watch, and what they are told.
#[derive(Debug)]
pub(crate) struct Live {
    room: Arc<Semaphore>,
    feed: Mutex<Weak<Feed>>,
    ended: CancellationToken,
}

impl Default for Live {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(WATCHERS_MAX));
        Self { room, feed: Mutex::default(), ended: CancellationToken::new() }
    }
}

impl Live {
    /// Lets everybody go; from now on nobody is told anything.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// The feed, which begins with the first who watches.
    fn feed(&self, gateway: &Arc<Gateway>) -> Arc<Feed> {
        let mut feed = lock(&self.feed);
        feed.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Feed::start(Arc::clone(gateway), self.ended.child_token()));
            *feed = Arc::downgrade(&new);
            new
        })
    }
}

/// `GET /system/hyperfaas/live`
pub(crate) async fn stream(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let live = &gateway.live;
    let Ok(place) = Arc::clone(&live.room).try_acquire_owned() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many are watching already");
    };
    let within = request.extensions().get::<Within>().cloned();
    let watcher = Watcher::new(live.feed(&gateway), within, place);
    let first = stream::iter([Bytes::from_static(RETRY.as_bytes())]);
    let events = stream::unfold(watcher, |mut watcher| async {
        let events = watcher.next().await?;
        Some((events, watcher))
    });
    let events = first.chain(events).map(Ok::<_, Infallible>);
    let events = events.take_until(live.ended.clone().cancelled_owned());
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// What everybody is told; ends with the last who watches.
#[derive(Debug)]
struct Feed {
    shared: Arc<Shared>,
    _running: DropGuard,
}

#[derive(Debug)]
struct Shared {
    model: Mutex<Model>,
    news: broadcast::Sender<News>,
}

#[derive(Debug, Clone)]
enum News {
    Changes(Arc<[Change]>),
    /// So much is new that the whole is told.
    Anew,
}

impl Feed {
    fn start(gateway: Arc<Gateway>, stop: CancellationToken) -> Self {
        let (news, model) = (broadcast::Sender::new(KEPT), Mutex::default());
        let shared = Arc::new(Shared { model, news });
        let (running, its) = (stop.clone().drop_guard(), Arc::clone(&shared));
        tokio::spawn(async move {
            let work = async {
                tokio::join!(source::follow(&gateway, &its.model), its.publish(&gateway));
            };
            stop.run_until_cancelled(work).await;
        });
        Self { shared, _running: running }
    }
}

impl Shared {
    /// Tells what has changed, again and again.
    async fn publish(&self, gateway: &Gateway) {
        let mut samples = Samples::default();
        let mut pause = Duration::ZERO;
        loop {
            sleep(pause).await;
            let begin = Instant::now();
            samples.take(&gateway.metrics, begin);
            let queue = gateway.queue.as_deref();
            // Under the lock, so that whoever begins to listen meanwhile misses nothing and hears nothing twice.
            let mut model = lock(&self.model);
            if let Some(news) = model.news(&samples, queue) {
                // Nobody may be listening just now.
                let _ = self.news.send(news);
            }
            drop(model);
            pause = PAUSE.max(begin.elapsed() * PAUSE_FACTOR);
        }
    }
}

/// One page that is told.
struct Watcher {
    feed: Arc<Feed>,
    news: broadcast::Receiver<News>,
    within: Option<Within>,
    /// Whether it has been told the whole.
    is_told: bool,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(feed: Arc<Feed>, within: Option<Within>, place: OwnedSemaphorePermit) -> Self {
        let news = feed.shared.news.subscribe();
        Self { feed, news, within, is_told: false, _place: place }
    }

    /// The next events; `None` when there will be none.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.is_told
            && let Some(whole) = self.whole()
        {
            return Some(whole);
        }
        loop {
            let events = match timeout(HEARTBEAT, self.news.recv()).await {
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Ok(News::Changes(changes))) if self.is_told => {
                    let allowed = self.within.as_ref().map(|within| &*within.0);
                    let texts = changes.iter().filter_map(|change| change.text(allowed));
                    Some(Bytes::from(texts.collect::<String>())).filter(|text| !text.is_empty())
                }
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => self.whole(),
            };
            if events.is_some() {
                return events;
            }
        }
    }

    /// The whole state, after which it listens to what is new; `None` while nothing is known.
    fn whole(&mut self) -> Option<Bytes> {
        let model = lock(&self.feed.shared.model);
        let whole = model.whole(self.within.as_ref().map(|within| &*within.0))?;
        self.news = self.feed.shared.news.subscribe();
        self.is_told = true;
        Some(whole.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
