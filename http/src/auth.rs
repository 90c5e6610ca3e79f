//! Basic auth from secret files, as every OpenFaaS part reads it.
//!
//! In: request headers. Out: pass, or the 401 all clients know. A failure never says which part was wrong.
//! Touches: the two secret files, once at start.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use subtle::ConstantTimeEq;

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

/// The one user of the `/system` API.
#[derive(Clone)]
pub struct BasicAuth {
    /// `user:password`.
    expected: Arc<[u8]>,
    header: HeaderValue,
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
        let expected = format!("{user}:{password}");
        let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(&expected)))
            .expect("base64 is made of header characters");
        header.set_sensitive(true);
        Self { expected: expected.into_bytes().into(), header }
    }

    /// Reads `basic-auth-user` and `basic-auth-password` from `directory`, white space around them removed.
    ///
    /// # Errors
    /// [`AuthError`] when a file is missing, empty or not UTF-8: starting without a password would open everything.
    pub fn from_files(directory: &Path) -> Result<Self, AuthError> {
        Ok(Self::new(&read(directory, USER_FILE)?, &read(directory, PASSWORD_FILE)?))
    }

    /// The `Authorization` value that these credentials make; marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// Whether `headers` carry these credentials; the comparison takes the same time for every wrong guess of a length.
    pub fn accepts(&self, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(AUTHORIZATION).and_then(credentials) else { return false };
        given.ct_eq(&self.expected).into()
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
fn credentials(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(token.trim()).ok())?
}

/// Middleware for `axum::middleware::from_fn_with_state`: lets a request through when auth is off or it is right.
pub async fn require(
    State(auth): State<Option<BasicAuth>>,
    request: Request,
    next: Next,
) -> Response {
    match auth {
        Some(auth) if !auth.accepts(request.headers()) => challenge(),
        _ => next.run(request).await,
    }
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
    }
}
