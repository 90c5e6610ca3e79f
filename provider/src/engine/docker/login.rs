//! The user's registry logins, as `docker login` keeps them.
//!
//! In: a registry. Out: what the engine is told, or nothing for an anonymous pull.
//! Touches: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, and the credential helpers it names.
//! Always: a missing or broken login never fails a deploy by itself, and no login appears in a log.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use tracing::warn;

/// How long a credential helper may take.
const HELPER: Duration = Duration::from_secs(15);

/// The login for `server`, read anew each time so that a `docker login` counts at once.
pub(super) async fn login(file: Option<PathBuf>, server: &str) -> Option<DockerCredentials> {
    let key = server.to_owned();
    let lookup = tokio::task::spawn_blocking(move || match file {
        Some(path) => match File::open(path) {
            Ok(file) => docker_credential::get_credential_from_reader(file, &key),
            Err(_) => Err(CredentialRetrievalError::ConfigNotFound),
        },
        None => docker_credential::get_credential(&key),
    });
    let found = match tokio::time::timeout(HELPER, lookup).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => Err(CredentialRetrievalError::HelperCommunicationError),
    };
    match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => Some(DockerCredentials {
            username: Some(username),
            password: Some(password),
            serveraddress: Some(server.to_owned()),
            ..DockerCredentials::default()
        }),
        Ok(DockerCredential::IdentityToken(token)) => Some(DockerCredentials {
            identitytoken: Some(token),
            serveraddress: Some(server.to_owned()),
            ..DockerCredentials::default()
        }),
        Err(error) => {
            if let Some(reason) = complaint(&error) {
                warn!(registry = server, reason, "registry login not usable, pulling without one");
            }
            None
        }
    }
}

/// What to tell about a failed lookup; nothing when there simply is no login. A helper's own words may hold secrets.
fn complaint(error: &CredentialRetrievalError) -> Option<&'static str> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured
        | CredentialRetrievalError::ConfigNotFound
        | CredentialRetrievalError::ConfigReadError => None,
        CredentialRetrievalError::HelperFailure { stdout, .. }
            if stdout.contains("credentials not found") =>
        {
            None
        }
        CredentialRetrievalError::HelperFailure { .. } => Some("the credential helper failed"),
        CredentialRetrievalError::HelperCommunicationError => {
            Some("the credential helper does not run")
        }
        CredentialRetrievalError::MalformedHelperResponse => {
            Some("the credential helper's answer is unreadable")
        }
        CredentialRetrievalError::CredentialDecodingError
        | CredentialRetrievalError::CredentialMismatchError => {
            Some("the login in the docker config is damaged")
        }
    }
}
