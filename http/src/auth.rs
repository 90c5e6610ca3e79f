//! Basic auth from secret files, as every OpenFaaS part reads it.
//!
//! In: request headers. Out: pass, or the 401 all clients know. A failure never says which part was wrong.
//! Always: credentials of any length are compared in the same time; who guesses is slowed, see [`Throttle`].
//! Touches: the two secret files, at start and whenever they change.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::reload::{Words, watch};
use crate::throttle::Throttle;

/// File with the user's name in the secret directory.
pub const USER_FILE: &str = "basic-auth-user";
/// File with the password in the secret directory.
pub const PASSWORD_FILE: &str = "basic-auth-password";

/// Why the credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// A file holds nothing, or what no header can carry.
    #[error("{path} is empty or not plain text")]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

/// The one user of the `/system` API; clones are the same one, and see new credentials when its files change.
#[derive(Clone)]
pub struct BasicAuth {
    shared: Arc<Shared>,
}

struct Shared {
    /// Where the credentials come from, if from files.
    directory: Option<PathBuf>,
    credentials: RwLock<Credentials>,
    throttle: Mutex<Throttle>,
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    /// Hash of `user:password`: it makes all lengths equal.
    expected: [u8; 32],
    header: HeaderValue,
    user: Arc<str>,
}

impl Credentials {
    fn new(user: &str, password: &str) -> Self {
        let text = format!("{user}:{password}");
        let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(&text)))
            .expect("base64 is made of header characters");
        header.set_sensitive(true);
        Self { expected: Sha256::digest(&text).into(), header, user: user.into() }
    }

    fn from_files(directory: &Path) -> Result<Self, AuthError> {
        Ok(Self::new(&read(directory, USER_FILE)?, &read(directory, PASSWORD_FILE)?))
    }
}

impl fmt::Debug for BasicAuth {
    /// Never shows the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BasicAuth")
    }
}

impl BasicAuth {
    /// These credentials; a user name with a colon can never log in, as the header has no way to write it.
    pub fn new(user: &str, password: &str) -> Self {
        Self::with(Credentials::new(user, password), None)
    }

    /// Reads `basic-auth-user` and `basic-auth-password` from `directory`, white space around them removed.
    ///
    /// # Errors
    /// [`AuthError`] when a file is missing, empty or not UTF-8: starting without a password would open everything.
    pub fn from_files(directory: &Path) -> Result<Self, AuthError> {
        Ok(Self::with(Credentials::from_files(directory)?, Some(directory.to_owned())))
    }

    fn with(credentials: Credentials, directory: Option<PathBuf>) -> Self {
        let (credentials, throttle) = (RwLock::new(credentials), Mutex::default());
        Self { shared: Arc::new(Shared { directory, credentials, throttle }) }
    }

    /// The `Authorization` value that these credentials make; marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.credentials().header.clone()
    }

    /// The user's name.
    pub fn user(&self) -> Arc<str> {
        Arc::clone(&self.credentials().user)
    }

    /// Whether `headers` carry these credentials; the comparison takes the same time for every wrong guess.
    pub fn accepts(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(credentials).unwrap_or_default();
        Sha256::digest(given).as_slice().ct_eq(&self.credentials().expected).into()
    }

    /// Who has failed to log in.
    pub fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.shared.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over new credentials when the files hold some; whether they did.
    ///
    /// # Errors
    /// [`AuthError`] when a file cannot be used; the old credentials stay in force then.
    pub fn reload(&self) -> Result<bool, AuthError> {
        let Some(directory) = &self.shared.directory else { return Ok(false) };
        let new = Credentials::from_files(directory)?;
        let mut current = self.shared.credentials.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *current != new;
        *current = new;
        Ok(is_new)
    }

    /// Looks at the files every two seconds until `stop`, and takes over what is new.
    pub async fn watch(&self, stop: CancellationToken) {
        let reloaded = "basic auth credentials reloaded";
        let words = Words { reloaded, kept: "basic auth credentials stay as they were" };
        watch(stop, words, || self.reload()).await;
    }

    fn credentials(&self) -> RwLockReadGuard<'_, Credentials> {
        self.shared.credentials.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(directory: &Path, name: &str) -> Result<String, AuthError> {
    let path = directory.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(AuthError::Unusable { path });
        }
        Err(error) => return Err(AuthError::Unreadable { path, error }),
    };
    let text = text.trim();
    if text.is_empty() { Err(AuthError::Unusable { path }) } else { Ok(text.to_owned()) }
}

/// The decoded `user:password` of a Basic header.
pub fn credentials(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(token.trim()).ok())?
}

/// The address of whoever sent `request`.
pub fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

/// Middleware for `axum::middleware::from_fn_with_state`: lets a request through when auth is off or it is right.
pub async fn require(
    State(auth): State<Option<BasicAuth>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(auth) = auth else { return next.run(request).await };
    let (peer, now) = (peer(&request), Instant::now());
    let may_try = auth.throttle().check(peer, now);
    if let Err(wait) = may_try {
        return too_many_failures(wait);
    }
    if auth.accepts(request.headers()) {
        auth.throttle().succeeded(peer);
        return next.run(request).await;
    }
    if is_guess(request.headers()) {
        auth.throttle().failed(peer, now);
    }
    challenge()
}

/// Whether `headers` carry credentials at all; clients that are not logged in send none, or an empty token.
pub fn is_guess(headers: &HeaderMap) -> bool {
    headers.get(AUTHORIZATION).and_then(credentials).is_some()
}

/// The answer to whoever has failed to log in too often.
pub fn too_many_failures(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let text = format!("too many failed logins from your address, try again in {seconds} s");
    let mut response = crate::error::plain(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The 401 of every OpenFaaS part.
pub fn challenge() -> Response {
    let mut response = Response::new(Body::from("invalid credentials"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Restricted\""));
    headers.insert(http::header::CONTENT_TYPE, crate::error::PLAIN_TEXT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_right_credentials_pass() {
        let auth = BasicAuth::new("admin", "pass:word");
        assert!(auth.accepts(&HeaderMap::from_iter([(AUTHORIZATION, auth.header())])));
        assert!(auth.accepts(&with(&format!("basic {}", STANDARD.encode("admin:pass:word")))));
        let wrong = [
            "Bearer ",
            "Bearer x",
            "Basic",
            "Basic ",
            "Basic ???",
            "Basic YWRtaW46",
            "Basic YWRtaW46cGFzczp3b3JkMg==",
        ];
        for value in wrong {
            assert!(!auth.accepts(&with(value)), "{value}");
        }
        assert!(!auth.accepts(&HeaderMap::new()));
    }

    #[test]
    fn files_are_trimmed_and_must_say_something() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text: &[u8]| std::fs::write(directory.path().join(name), text).unwrap();
        write(USER_FILE, b"admin\n");
        assert!(matches!(
            BasicAuth::from_files(directory.path()),
            Err(AuthError::Unreadable { .. })
        ));
        for bad in [&b" \n"[..], b"\xff\xfe"] {
            write(PASSWORD_FILE, bad);
            assert!(matches!(
                BasicAuth::from_files(directory.path()),
                Err(AuthError::Unusable { .. })
            ));
        }
        write(PASSWORD_FILE, b" s3cret \n");
        let auth = BasicAuth::from_files(directory.path()).unwrap();
        assert_eq!(auth.header(), BasicAuth::new("admin", "s3cret").header());
        assert!(!format!("{auth:?} {:?}", auth.header()).contains("s3cret"));
        let clone = auth.clone();
        write(PASSWORD_FILE, b"");
        assert!(auth.reload().is_err() && clone.accepts(&with("Basic YWRtaW46czNjcmV0")));
        write(PASSWORD_FILE, b"new");
        assert!(auth.reload().unwrap() && !auth.reload().unwrap());
        assert!(!clone.accepts(&with("Basic YWRtaW46czNjcmV0")));
        assert_eq!(clone.header(), BasicAuth::new("admin", "new").header());
    }
}
