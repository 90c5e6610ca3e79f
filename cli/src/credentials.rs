//! Who the user is at the gateway.
//!
//! In: options, environment, and logins that faas-cli saved. Out: an `Authorization` value, or none.
//! Source: faas-cli's `config.yml`: `$OPENFAAS_CONFIG`, else `./.openfaas` when `CI` is `true`, else `~/.openfaas`.

use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::args::GatewayArgs;
use crate::gateway_url::normal;

/// Environment variable with the password.
const PASSWORD_VARIABLE: &str = "OPENFAAS_PASSWORD";
/// Longest password read from a file or standard input, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// Why there are no credentials although some were promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The password is empty.
    #[error("the password in {0} is empty")]
    Empty(String),
    /// faas-cli's file is not what it should be.
    #[error("{path}: {error}")]
    Saved {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        #[source]
        error: serde_norway::Error,
    },
}

/// The `Authorization` value for `gateway`; `None` when the user gave no password and never logged in.
///
/// # Errors
/// [`CredentialsError`] when the password or the saved logins cannot be read.
pub(crate) fn find(args: &GatewayArgs, gateway: &str) -> Result<Option<String>, CredentialsError> {
    let password = match &args.password_file {
        Some(path) => Some(read_password(open(path)?, path)?),
        None if args.password_stdin => {
            Some(read_password(std::io::stdin(), Path::new("standard input"))?)
        }
        None => std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty()),
    };
    match password {
        Some(password) => Ok(Some(basic(&args.username, &password))),
        None => saved_file(|name| std::env::var(name).ok())
            .map_or(Ok(None), |path| saved(&path, gateway)),
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn open(path: &Path) -> Result<std::fs::File, CredentialsError> {
    std::fs::File::open(path)
        .map_err(|error| CredentialsError::Read { path: path.to_owned(), error })
}

fn read_password(source: impl Read, path: &Path) -> Result<String, CredentialsError> {
    let mut text = String::new();
    let read = source.take(PASSWORD_MAX).read_to_string(&mut text);
    read.map_err(|error| CredentialsError::Read { path: path.to_owned(), error })?;
    match text.trim() {
        "" => Err(CredentialsError::Empty(path.display().to_string())),
        password => Ok(password.to_owned()),
    }
}

/// Where faas-cli keeps its logins.
fn saved_file(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let folder = match (set("OPENFAAS_CONFIG"), set("CI").as_deref()) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some("true")) => PathBuf::from(".openfaas"),
        (None, _) => PathBuf::from(set("HOME")?).join(".openfaas"),
    };
    Some(folder.join("config.yml"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Saved {
    auths: Option<Vec<Login>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    gateway: String,
    auth: String,
    token: String,
}

/// The login for `gateway` in the file at `path`, if there is such a file and one in it.
fn saved(path: &Path, gateway: &str) -> Result<Option<String>, CredentialsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CredentialsError::Read { path: path.to_owned(), error }),
    };
    let saved: Saved = serde_norway::from_str(&text)
        .map_err(|error| CredentialsError::Saved { path: path.to_owned(), error })?;
    let login =
        saved.auths.unwrap_or_default().into_iter().find(|login| normal(&login.gateway) == gateway);
    Ok(login.filter(|login| !login.token.is_empty()).map(|login| match login.auth.as_str() {
        "basic" => format!("Basic {}", login.token),
        _ => format!("Bearer {}", login.token),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_login_is_found_by_its_gateway() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yml");
        assert_eq!(saved(&path, "http://gw:1").unwrap(), None);
        let text = "auths:\n- gateway: http://gw:1\n  auth: basic\n  token: YTpi\n- gateway: http://gw:2\n  auth: oauth2\n  token: t\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(saved(&path, "http://gw:1").unwrap().as_deref(), Some("Basic YTpi"));
        assert_eq!(saved(&path, "http://gw:2").unwrap().as_deref(), Some("Bearer t"));
        assert_eq!(saved(&path, "http://gw:3").unwrap(), None);
        std::fs::write(&path, "auths: 7").unwrap();
        assert!(saved(&path, "http://gw:1").is_err());
    }

    #[test]
    fn the_folder_of_logins_follows_faas_cli() {
        let file = |pairs: &[(&str, &str)]| {
            let pairs = pairs.to_vec();
            saved_file(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(file(&[("HOME", "/h")]), Some("/h/.openfaas/config.yml".into()));
        assert_eq!(file(&[("HOME", "/h"), ("CI", "true")]), Some(".openfaas/config.yml".into()));
        assert_eq!(
            file(&[("CI", "true"), ("OPENFAAS_CONFIG", "/c")]),
            Some("/c/config.yml".into())
        );
        assert_eq!(file(&[]), None);
    }

    #[test]
    fn passwords_are_trimmed_and_never_empty() {
        assert_eq!(read_password(&b" secret\n"[..], Path::new("p")).unwrap(), "secret");
        assert!(read_password(&b"\n"[..], Path::new("p")).is_err());
    }
}
