//! Where the keys come from: the authority's OpenID configuration, and the key set it names.
//!
//! In: the authority's address. Out: the issuer and its keys. Over plain HTTP only: the gateway is inside the cluster.
//! Always: ends within [`PATIENCE`] and reads at most [`ANSWER_MAX`] bytes an answer; it is done once, before the port opens.
//! Touches: TCP.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::token::Key;
use crate::inbound::Inbound;
use crate::log::line;

/// For both questions together; the original waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    #[error("{0}: not an http address")]
    Address(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0}: {1}")]
    Http(String, hyper::Error),
    #[error("{0}: answered {1}")]
    Status(String, StatusCode),
    #[error("{0}: {1}")]
    Content(String, &'static str),
    #[error("{0}: no answer in time")]
    Late(String),
}

/// The issuer that `authority` names, and its keys.
pub(super) async fn discover(
    authority: &str,
    debug: bool,
) -> Result<(String, Vec<Key>), DiscoveryError> {
    let work = async {
        let url = format!("{authority}/.well-known/openid-configuration");
        let configuration = fetch(&url).await?;
        let field = |name| configuration[name].as_str().map(str::to_owned);
        let (Some(issuer), Some(keys_url)) = (field("issuer"), field("jwks_uri")) else {
            return Err(DiscoveryError::Content(url, "names no issuer or no jwks_uri"));
        };
        if debug {
            line!("[JWT Auth] Issuer: {issuer}\tJWKS URI: {keys_url}");
        }
        let set = fetch(&keys_url).await?;
        let Some(list) = set["keys"].as_array() else {
            return Err(DiscoveryError::Content(keys_url, "holds no keys"));
        };
        let keys: Vec<Key> = list.iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(DiscoveryError::Content(keys_url, "holds no key of a kind known here"));
        }
        if debug {
            keys.iter().for_each(|key| line!("[JWT Auth] Key: {}", key.id()));
        }
        Ok((issuer, keys))
    };
    let late = |_| Err(DiscoveryError::Late(authority.to_owned()));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(late)
}

async fn fetch(url: &str) -> Result<Value, DiscoveryError> {
    let address = || DiscoveryError::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| address())?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(address());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let io = |error| DiscoveryError::Io(url.to_owned(), error);
    let http = |error| DiscoveryError::Http(url.to_owned(), error);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(io)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the connection, which closes when the sender is dropped; its failures show in the answer.
    tokio::spawn(async move { drop(connection.await) });
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(USER_AGENT, "openfaas-watchdog")
        .body(Inbound::empty())
        .map_err(|_| address())?;
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status() != StatusCode::OK {
        return Err(DiscoveryError::Status(url.to_owned(), response.status()));
    }
    let text = read(response.into_body(), url).await?;
    serde_json::from_slice(&text).map_err(|_| DiscoveryError::Content(url.to_owned(), "no JSON"))
}

async fn read(mut body: Incoming, url: &str) -> Result<Vec<u8>, DiscoveryError> {
    let mut text = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|cx| hyper::body::Body::poll_frame(Pin::new(&mut body), cx)).await
    {
        let frame: Frame<Bytes> =
            frame.map_err(|error| DiscoveryError::Http(url.to_owned(), error))?;
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        if text.len() > ANSWER_MAX {
            return Err(DiscoveryError::Content(url.to_owned(), "answers too much"));
        }
    }
    Ok(text)
}
