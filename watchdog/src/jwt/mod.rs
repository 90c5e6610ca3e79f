//! `jwt_auth`: only callers with a token of the gateway for this function reach it.
//!
//! In: a request's headers. Out: nothing, which lets it pass, or a [`Denial`].
//! Always: a request without a valid token reaches no worker; permissions are compared whole, not as parts of names.
//! Source: the middleware of both originals; `docs/watchdog.md` lists where we differ.

mod discovery;
mod token;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};

use crate::config::JwtSettings;
use crate::log::line;
use token::Key;

pub(crate) use discovery::DiscoveryError;

/// Checks tokens for one function.
#[derive(Debug)]
pub(crate) struct Guard {
    issuer: String,
    keys: Vec<Key>,
    /// `namespace:name`.
    function: String,
    debug: bool,
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Denial {
    fn unauthorized(text: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, text: text.into() }
    }
}

impl Guard {
    /// Asks the authority for its keys, once.
    ///
    /// # Errors
    /// When the authority cannot be asked or says nothing usable.
    pub(crate) async fn discover(settings: &JwtSettings) -> Result<Self, DiscoveryError> {
        let (issuer, keys) = discovery::discover(&settings.authority, settings.debug).await?;
        let function = format!("{}:{}", settings.namespace, settings.name);
        Ok(Self { issuer, keys, function, debug: settings.debug })
    }

    /// Lets a request pass at `now`, in seconds since 1970, or says why not.
    pub(crate) fn check(&self, headers: &HeaderMap, now: i64) -> Result<(), Denial> {
        let bearer = headers.get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap_or("?"));
        let bearer = bearer.strip_prefix("Bearer ").unwrap_or(bearer);
        if bearer.is_empty() {
            return Err(Denial::unauthorized("Bearer must be present in Authorization header"));
        }
        let claims = token::verified(bearer, &self.keys, &self.issuer, now)
            .map_err(|error| Denial::unauthorized(format!("failed to parse JWT token: {error}")))?;
        if self.debug {
            line!("[JWT Auth] Token: permissions: {:?}", claims.permissions);
        }
        if claims.admit(&self.function) {
            Ok(())
        } else {
            Err(Denial { status: StatusCode::FORBIDDEN, text: "insufficient permissions".into() })
        }
    }
}
