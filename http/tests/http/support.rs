//! Servers on port 0 and raw peers for the tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_body_util::BodyExt;
use hyperfaas_http::{
    ForwardError, ForwardOptions, Pool, PoolSettings, ServeLimits, forward, listen, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything in these tests; only ever reached when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

pub(crate) fn start_with(router: Router, limits: ServeLimits) -> Server {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
    Server { address, shutdown, task: Some(task) }
}

pub(crate) fn start(router: Router) -> Server {
    start_with(router, ServeLimits::default())
}

/// A proxy in front of `upstream`, built from the parts under test.
pub(crate) fn proxy(upstream: SocketAddr, options: ForwardOptions) -> Router {
    let pool = Pool::new(upstream, PoolSettings::default());
    Router::new().fallback(move |request: Request| {
        let pool = pool.clone();
        async move {
            match forward(&pool, request, &options).await {
                Ok(response) => response,
                Err(error) => refuse(&error),
            }
        }
    })
}

fn refuse(error: &ForwardError) -> Response {
    let status = match error {
        ForwardError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        ForwardError::BrokenRequest => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    };
    (status, error.to_string()).into_response()
}

/// A hand-made server: answers the nth connection with what `script` says to do with it.
pub(crate) async fn raw<F, T>(script: F) -> (SocketAddr, Arc<AtomicUsize>, JoinHandle<()>)
where
    F: Fn(usize, TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(script(number, stream));
        }
    });
    (address, count, task)
}

/// Reads until the blank line that ends a head; returns the head.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends `text` over a new connection and returns all that comes back until the peer closes.
pub(crate) async fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the peer closes").unwrap();
    String::from_utf8(answer).unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub(crate) fn get(path: &str) -> Request {
    Request::get(path).body(Body::empty()).unwrap()
}

impl Server {
    /// Leaves the server running until the test's runtime ends; returns its address.
    pub(crate) fn keep(mut self) -> SocketAddr {
        let address = self.address;
        self.task = None;
        self.shutdown = CancellationToken::new();
        address
    }
}
