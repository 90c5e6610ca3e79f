//! Where answers of asynchronous calls may be sent, and sending them.
//!
//! In: the text of `X-Callback-Url`, and later the answer. Out: a [`CallbackUrl`], and how the receiver answered.
//! Always: only `http` and `https`; never to link-local, metadata, multicast or unspecified addresses, nor to this host
//! itself unless that is allowed. The address that is checked is the one that is connected to, so that no name can be
//! changed in between; redirects are not followed; whoever wrote the URL gets nothing of the answer to the callback.
//! Touches: DNS and the receiver; one connection a callback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

/// Longest callback URL.
const URL_MAX: usize = 8 << 10;
/// Time to resolve, connect and shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the whole exchange, once connected.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the receiver's answer this much is read, so that it sees an orderly end.
const ANSWER_MAX: usize = 64 << 10;

/// Addresses that clouds answer instances' questions from, beside link-local ones: Alibaba, Azure, Oracle; AWS over IPv6.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Which addresses callbacks may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallbackPolicy {
    /// Whether this host's own addresses are allowed; off by default, since services that listen there trust their callers.
    pub allows_loopback: bool,
}

/// Why a callback is refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallbackError {
    /// Not a URL.
    #[error("X-Callback-Url is not an absolute http:// or https:// URL")]
    Malformed,
    /// An address that nobody may make the gateway talk to.
    #[error("X-Callback-Url leads to {0}, where callbacks are not sent")]
    Forbidden(IpAddr),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No answer.
    #[error("no valid answer: {0}")]
    Lost(#[source] hyper::Error),
    /// Not in time.
    #[error("timed out")]
    Timeout,
}

/// A place to send an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallbackUrl {
    is_tls: bool,
    host: String,
    port: u16,
    target: PathAndQuery,
}

impl CallbackUrl {
    /// The place that `text` names; user and password in it are dropped, as in OpenFaaS.
    ///
    /// # Errors
    /// [`CallbackError`] when it is no such URL, or names an address that `policy` forbids. Names are resolved when the
    /// callback is sent.
    pub(crate) fn parse(text: &str, policy: CallbackPolicy) -> Result<Self, CallbackError> {
        let uri: Uri = text
            .trim()
            .parse()
            .ok()
            .filter(|_| text.len() <= URL_MAX)
            .ok_or(CallbackError::Malformed)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(CallbackError::Malformed),
        };
        let authority = uri.authority().ok_or(CallbackError::Malformed)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port out of range is none to `http`, not a wrong one.
        let after_host =
            authority.as_str().rsplit_once(authority.host()).map_or("", |(_, port)| port);
        let port = match after_host.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| CallbackError::Malformed)?,
            None if is_tls => 443,
            None => 80,
        };
        if host.is_empty() || port == 0 {
            return Err(CallbackError::Malformed);
        }
        if let Ok(ip) = host.parse() {
            check(ip, policy)?;
        }
        let target = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Ok(Self { is_tls, host, port, target })
    }

    /// The `Host` header of a request there.
    fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Posts `body` with `headers`; the receiver's status.
    ///
    /// # Errors
    /// [`CallbackError`] when the address is forbidden or there was no answer.
    pub(crate) async fn post(
        &self,
        headers: HeaderMap,
        body: Body,
        policy: CallbackPolicy,
    ) -> Result<StatusCode, CallbackError> {
        let connect = async {
            let stream = self.connect(policy).await?;
            if !self.is_tls {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            }
            let name =
                ServerName::try_from(self.host.clone()).map_err(|_| CallbackError::Malformed)?;
            let connector = TlsConnector::from(Arc::clone(&TLS));
            let stream = connector.connect(name, stream).await.map_err(CallbackError::Connect)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        let stream =
            timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| CallbackError::Timeout)??;
        timeout(SEND_TIMEOUT, self.exchange(stream, headers, body))
            .await
            .map_err(|_| CallbackError::Timeout)?
    }

    /// A connection to the first allowed address that accepts one.
    async fn connect(&self, policy: CallbackPolicy) -> Result<TcpStream, CallbackError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let mut error = CallbackError::Connect(io::ErrorKind::NotFound.into());
        for address in found.map_err(CallbackError::Connect)? {
            if let Err(forbidden) = check(address.ip(), policy) {
                error = forbidden;
                continue;
            }
            match TcpStream::connect(SocketAddr::new(address.ip(), self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(refused) => error = CallbackError::Connect(refused),
            }
        }
        Err(error)
    }

    async fn exchange(
        &self,
        stream: Box<dyn Stream>,
        headers: HeaderMap,
        body: Body,
    ) -> Result<StatusCode, CallbackError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(CallbackError::Lost)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone().into();
        *request.headers_mut() = headers;
        let host = HeaderValue::try_from(self.authority()).map_err(|_| CallbackError::Malformed)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let response = sender.send_request(request).await.map_err(CallbackError::Lost)?;
        let status = response.status();
        let (mut body, mut seen) = (response.into_body(), 0);
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > ANSWER_MAX {
                break;
            }
        }
        Ok(status)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
});

/// Whether callbacks may go to `ip`.
fn check(ip: IpAddr, policy: CallbackPolicy) -> Result<(), CallbackError> {
    let is_forbidden = match embedded(ip) {
        IpAddr::V4(v4) => {
            v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
                || METADATA_V4.contains(&v4)
                || (v4.is_loopback() && !policy.allows_loopback)
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6 == METADATA_V6
                || (v6.is_loopback() && !policy.allows_loopback)
        }
    };
    if is_forbidden { Err(CallbackError::Forbidden(ip)) } else { Ok(()) }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 (RFC 6052) and 6to4 ones.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] if v6 != Ipv6Addr::LOCALHOST && !v6.is_unspecified() => v4(g, h).into(),
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h).into(),
        [0x2002, ..] => v4(b, c).into(),
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CallbackUrl, CallbackError> {
        CallbackUrl::parse(text, CallbackPolicy::default())
    }

    #[test]
    fn places_that_services_have_are_fine() {
        for (text, authority, target) in [
            ("http://gateway:8080/function/f?x=1", "gateway:8080", "/function/f?x=1"),
            ("https://example.com", "example.com", "/"),
            ("http://user:pw@10.0.0.7/a%2Fb", "10.0.0.7", "/a%2Fb"),
            ("http://[fd12::1]:81/", "[fd12::1]:81", "/"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.authority().as_str(), url.target.as_str()), (authority, target));
        }
    }

    #[test]
    fn other_schemes_and_no_urls_are_refused() {
        let long = format!("http://h/{}", "x".repeat(URL_MAX));
        for text in [
            "",
            "/path",
            "host:80",
            "ftp://h/",
            "file:///etc/passwd",
            "gopher://h",
            "http://",
            "http://h:0/",
            "http://h:99999/",
            &long,
        ] {
            assert!(matches!(parse(text), Err(CallbackError::Malformed)), "{text:.60}");
        }
    }

    #[test]
    fn metadata_link_local_and_own_addresses_are_refused_in_every_spelling() {
        for text in [
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.0.1/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::]/",
            "http://[::a9fe:a9fe]/",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://0.1.2.3/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://127.0.0.1/",
            "http://127.9.9.9/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(matches!(parse(text), Err(CallbackError::Forbidden(_))), "{text}");
        }
        let open = CallbackPolicy { allows_loopback: true };
        assert!(CallbackUrl::parse("http://127.0.0.1:9/", open).is_ok());
        assert!(CallbackUrl::parse("http://[::1]:9/", open).is_ok());
        assert!(CallbackUrl::parse("http://169.254.169.254/", open).is_err());
    }

    #[tokio::test]
    async fn the_address_behind_a_name_is_checked_when_it_is_connected_to() {
        for text in
            ["http://localhost:9/", "http://2130706433:9/", "http://0x7f.1:9/", "http://127.1:9/"]
        {
            let url = parse(text).unwrap();
            let sent = url.post(HeaderMap::new(), Body::empty(), CallbackPolicy::default()).await;
            assert!(sent.is_err(), "{text}");
            assert!(!matches!(sent, Err(CallbackError::Lost(_))), "{text}: {sent:?}");
        }
        let sent = parse("http://localhost:9/").unwrap();
        let sent = sent.post(HeaderMap::new(), Body::empty(), CallbackPolicy::default()).await;
        assert!(matches!(sent, Err(CallbackError::Forbidden(_))), "{sent:?}");
    }
}
