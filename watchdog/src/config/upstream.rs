//! `upstream_url`: where the function's own HTTP server listens.

use std::net::IpAddr;

use hyper::Uri;
use hyperfaas_protocol::control::FUNCTION_PORT;

/// The server requests are relayed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// Name or address without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// Put in front of every request's path; empty for none.
    pub(crate) base: String,
}

impl Upstream {
    /// A plain server image: the port OpenFaaS fixes, on loopback.
    pub(super) fn function_port() -> Self {
        Self { host: "127.0.0.1".into(), port: FUNCTION_PORT, base: String::new() }
    }

    /// Reads `http://host[:port][/base]`.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err("must begin with http://");
        }
        let authority = uri.authority().ok_or("no host")?;
        if authority.as_str().contains('@') {
            return Err("user names in it are not supported");
        }
        if uri.query().is_some() {
            return Err("a query in it is not supported");
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || uri.port_u16() == Some(0) {
            return Err("no host or port");
        }
        // `Uri` reads a missing path as "/", the original concatenates what was written.
        let base = if url.ends_with('/') || uri.path() != "/" { uri.path() } else { "" };
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            base: base.to_owned(),
        })
    }

    /// Whether it is on this machine, so that the worker can be it.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
    }

    /// Value of `Host` where the client sent none.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
