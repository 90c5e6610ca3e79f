//! The way to the engine: one client, made when the engine's socket exists, speaking one negotiated API version.
//!
//! In: a Docker host (`unix://…`, `tcp://…`). Out: a client whose requests carry the version's prefix.
//! Always: each request opens its own connection, so an engine that went away and came back needs no care here.
//! Versions: [`OLDEST`] to [`NEWEST`]; engines from 29 on refuse anything below 1.44, so the newest shared one is used.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::SystemVersion;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};

use super::super::EngineError;

/// The oldest API version with everything used here (Docker 20.10).
const OLDEST: u32 = 41;
/// The newest API version whose answers the client library knows.
const NEWEST: u32 = 53;
/// How long reading something from the engine may take.
pub(super) const READ: Duration = Duration::from_secs(30);
/// How long changing something may take; starts are slow on a loaded host.
pub(super) const CHANGE: Duration = Duration::from_secs(120);
/// Longest error text kept, in characters.
const TEXT_MAX: usize = 400;

/// A lazily made client of one engine.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    client: OnceLock<Docker>,
    /// Minor part of the negotiated version `1.x`; 0 before the first negotiation.
    minor: Arc<AtomicU32>,
}

impl Connection {
    pub(super) fn new(host: &str) -> Result<Self, EngineError> {
        if !matches!(host.split_once("://"), Some(("unix" | "tcp" | "http", _))) {
            return Err(classify(Error::UnsupportedURISchemeError { uri: host.to_owned() }));
        }
        Ok(Self { host: host.to_owned(), client: OnceLock::new(), minor: Arc::default() })
    }

    /// The client.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] while the engine's socket does not exist.
    pub(super) fn docker(&self) -> Result<Docker, EngineError> {
        if let Some(docker) = self.client.get() {
            return Ok(docker.clone());
        }
        let host = &self.host;
        let docker = if host.starts_with("unix:") {
            Docker::connect_with_unix(host, CHANGE.as_secs(), API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_http(host, CHANGE.as_secs(), API_DEFAULT_VERSION)
        };
        let minor = Arc::clone(&self.minor);
        let docker =
            docker.map_err(classify)?.with_request_modifier(move |request| adapt(request, &minor));
        Ok(self.client.get_or_init(|| docker).clone())
    }

    /// Asks the engine for its versions and settles on the newest shared one.
    pub(super) async fn negotiate(&self) -> Result<SystemVersion, EngineError> {
        let version = within(READ, self.docker()?.version()).await.map_err(classify)?;
        let minor =
            shared_minor(version.api_version.as_deref(), version.min_api_version.as_deref())?;
        self.minor.store(minor, Ordering::Relaxed);
        Ok(version)
    }

    /// The version spoken now, such as `1.41`.
    pub(super) fn api_version(&self) -> String {
        format!("1.{}", self.minor.load(Ordering::Relaxed))
    }
}

/// The newest minor version that an engine speaking `oldest..=newest` and we share.
fn shared_minor(newest: Option<&str>, oldest: Option<&str>) -> Result<u32, EngineError> {
    let minor = |text: &str| text.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    let unreadable = || EngineError::Refused("the engine does not tell its API version".into());
    let theirs = newest.and_then(minor).ok_or_else(unreadable)?;
    let least = oldest.and_then(minor).unwrap_or(0);
    let shared = theirs.min(NEWEST);
    if shared < OLDEST {
        return Err(EngineError::Refused(format!(
            "the engine speaks API 1.{theirs}, at least 1.{OLDEST} is needed"
        )));
    }
    if shared < least {
        return Err(EngineError::Refused(format!(
            "the engine wants API 1.{least} or later, 1.{NEWEST} is spoken here"
        )));
    }
    Ok(shared)
}

/// Puts the negotiated version before the path, which the client library leaves out, and spells registry logins in the
/// URL-safe alphabet that the engine decodes: it takes a login in the standard one for none.
fn adapt(mut request: BollardRequest, minor: &AtomicU32) -> BollardRequest {
    let minor = minor.load(Ordering::Relaxed);
    if minor > 0 {
        let mut parts = request.uri().clone().into_parts();
        let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
        // The question for the versions must be understood by any engine, also by one that took another's place.
        if path != "/version" {
            parts.path_and_query = format!("/v1.{minor}{path}").parse().ok();
        }
        if let Ok(uri) = parts.try_into() {
            *request.uri_mut() = uri;
        }
    }
    if let Some(login) = request.headers_mut().get_mut("x-registry-auth")
        && let Ok(text) = login.to_str()
        && let Ok(safe) = text.replace('+', "-").replace('/', "_").parse()
    {
        *login = safe;
    }
    request
}

/// Bounds a whole call, its answer's body included.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(Error::RequestTimeoutError))
}

/// The HTTP status the engine answered with, if it answered.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Takes success for "it is gone already", and keeps every other error.
pub(super) fn gone_is_fine(result: Result<(), Error>) -> Result<(), EngineError> {
    match result {
        Err(error) if status(&error) == Some(404) => Ok(()),
        other => other.map_err(classify),
    }
}

/// Sorts an error of the client library by what a caller can do about it.
#[expect(clippy::needless_pass_by_value, reason = "used as map_err(classify)")]
pub(super) fn classify(error: Error) -> EngineError {
    match &error {
        Error::DockerResponseServerError { status_code: 404, message }
            if message.starts_with("No such container") =>
        {
            EngineError::NotFound
        }
        Error::DockerResponseServerError { message, .. } => EngineError::Refused(one_line(message)),
        Error::DockerStreamError { error } => EngineError::Refused(one_line(error)),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => {
            EngineError::Refused(one_line(&format!("unreadable answer: {error}")))
        }
        Error::RequestTimeoutError => EngineError::Unavailable("no answer in time".into()),
        Error::SocketNotFoundError(path) => {
            EngineError::Unavailable(format!("{path} does not exist"))
        }
        Error::UnsupportedURISchemeError { uri } => EngineError::Refused(one_line(&format!(
            "host \"{uri}\": only unix:// and tcp:// are supported"
        ))),
        _ => EngineError::Unavailable(one_line(&chain(&error))),
    }
}

/// An error and its causes, outermost first: the client library's own text says only that it failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// `text` on one bounded line.
pub(super) fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(TEXT_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_shared_version_is_spoken() {
        for (newest, oldest, expected) in [
            ("1.41", "1.12", 41),
            ("1.50", "1.24", 50),
            ("1.52", "1.44", 52),
            ("1.53", "1.44", 53),
            ("1.60", "1.44", NEWEST),
        ] {
            assert_eq!(shared_minor(Some(newest), Some(oldest)).unwrap(), expected, "{newest}");
        }
        assert_eq!(shared_minor(Some("1.43"), None).unwrap(), 43);
    }

    #[test]
    fn too_old_and_too_new_engines_are_refused_in_words() {
        let text = |newest, oldest| shared_minor(newest, oldest).unwrap_err().to_string();
        assert!(text(Some("1.40"), Some("1.12")).contains("at least 1.41"));
        assert!(text(Some("1.90"), Some("1.80")).contains("1.80 or later"));
        assert!(text(Some("2.0"), None).contains("does not tell"));
        assert!(text(None, None).contains("does not tell"));
    }

    #[test]
    fn error_texts_stay_on_one_short_line() {
        assert_eq!(one_line("  a\n\tb  c\r\n"), "a b c");
        assert_eq!(one_line(&"é ".repeat(4000)).chars().count(), TEXT_MAX + 1);
    }
}
