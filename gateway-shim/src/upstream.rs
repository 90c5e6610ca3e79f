//! The provider behind the gateway: over HTTP, or a router in the same process.
//!
//! In: a request with the gateway's own target. Out: the provider's answer, or why there is none.
//! Over HTTP hop-by-hop headers stop here and forwarding headers are added; in one process the provider does both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use hyperfaas_http::{
    Address, ForwardError, ForwardOptions, HostPolicy, Pool, PoolSettings, forward, target, within,
};
use tower::ServiceExt;

/// Why a provider URL was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL with a host.
    #[error("must be a URL such as http://provider:8081/")]
    Malformed,
    /// A scheme this gateway does not speak.
    #[error(
        "only http:// is supported; put a TLS proxy in front of a provider that speaks https://"
    )]
    Scheme,
    /// Credentials, a query or port 0, which have no meaning here.
    #[error("must hold nothing but scheme, host, port and path")]
    Extra,
}

/// Where the gateway sends requests; cheap to clone.
#[derive(Clone)]
pub enum Upstream {
    /// A provider reached over HTTP.
    Http {
        /// Connections to it.
        pool: Pool,
        /// Path in front of every target, without a slash at its end; mostly empty.
        prefix: String,
    },
    /// A provider in this process: no connection, no copy, no second parse.
    Local(Router),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { pool, prefix } => write!(f, "http://{}{prefix}/", pool.address()),
            Self::Local(_) => f.write_str("in this process"),
        }
    }
}

impl Upstream {
    /// The provider at `url`; its path, if any, is put in front of every target.
    ///
    /// # Errors
    /// [`UrlError`] when the URL is no `http://` URL or holds more than scheme, host, port and path.
    pub fn from_url(url: &str, settings: PoolSettings) -> Result<Self, UrlError> {
        let uri: Uri = url.trim().parse().map_err(|_| UrlError::Malformed)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::Malformed),
        }
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        let port = authority
            .port()
            .map_or(Some(80), |port| port.as_str().parse().ok())
            .filter(|port| *port > 0);
        let (Some(port), None, false) = (port, uri.query(), authority.as_str().contains('@'))
        else {
            return Err(UrlError::Extra);
        };
        let host = authority.host();
        let address = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
            Err(_) if host.is_empty() => return Err(UrlError::Malformed),
            Err(_) => Address::Name { host: host.to_owned(), port },
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self::Http { pool: Pool::new(address, settings), prefix })
    }

    /// Sends `request` and returns the answer, whatever its status.
    ///
    /// `head_timeout` holds for providers over HTTP only; one in this process keeps its own times.
    ///
    /// # Errors
    /// [`ForwardError`] when the provider gave no valid answer.
    pub async fn call(
        &self,
        mut request: Request<Body>,
        head_timeout: Option<Duration>,
    ) -> Result<Response<Body>, ForwardError> {
        let (pool, prefix) = match self {
            Self::Http { pool, prefix } => (pool, prefix),
            Self::Local(router) => {
                let Ok(response) = router.clone().oneshot(request).await;
                return Ok(response);
            }
        };
        if !prefix.is_empty()
            && let Ok(uri) =
                target::with_path(request.uri(), &format!("{prefix}{}", request.uri().path()))
        {
            *request.uri_mut() = uri;
        }
        let options = ForwardOptions {
            host: HostPolicy::Upstream,
            adds_forwarded: true,
            head_timeout,
            fills_content_type: false,
        };
        forward(pool, request, &options).await
    }

    /// Sends `request` to the upstream's own path, which for others is only the beginning of the target.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn call_exactly(
        &self,
        mut request: Request<Body>,
        limit: Duration,
    ) -> Result<Response<Body>, ForwardError> {
        let Self::Http { pool, prefix } = self else { return self.call(request, None).await };
        if let Ok(uri) = target::with_path(request.uri(), prefix) {
            *request.uri_mut() = uri;
        }
        let options = ForwardOptions { head_timeout: Some(limit), ..ForwardOptions::default() };
        forward(pool, request, &options).await
    }

    /// As [`Self::call`], where `limit` holds for a provider in this process too.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn call_within(
        &self,
        request: Request<Body>,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, ForwardError> {
        match (self, limit) {
            (Self::Local(router), Some(limit)) => {
                let send = async |request| {
                    let Ok(response) = router.clone().oneshot(request).await;
                    response
                };
                within(request, limit, send).await
            }
            _ => self.call(request, limit).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Result<String, UrlError> {
        Upstream::from_url(url, PoolSettings::default()).map(|upstream| format!("{upstream:?}"))
    }

    #[test]
    fn urls_become_addresses_and_prefixes() {
        assert_eq!(shown("http://provider:8081/").unwrap(), "http://provider:8081/");
        assert_eq!(shown("http://provider").unwrap(), "http://provider:80/");
        assert_eq!(shown("http://10.0.0.1:1/a/b//").unwrap(), "http://10.0.0.1:1/a/b/");
        assert_eq!(shown("http://[::1]:8081").unwrap(), "http://[::1]:8081/");
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, error) in [
            ("https://provider:8081/", UrlError::Scheme),
            ("provider:8081", UrlError::Malformed),
            ("/path", UrlError::Malformed),
            ("", UrlError::Malformed),
            ("http://u:p@provider/", UrlError::Extra),
            ("http://provider/?x=1", UrlError::Extra),
            ("http://provider:0/", UrlError::Extra),
        ] {
            assert_eq!(shown(url).unwrap_err(), error, "{url}");
        }
    }
}
