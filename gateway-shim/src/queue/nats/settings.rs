//! Where the NATS servers are and how to log in there.
//!
//! In: settings and the files that they name, read once. Out: [`NatsSettings`], or a line for each mistake.
//! Always: no secret is in a setting itself, in a debug form or in a mistake's text.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use hyperfaas_http::config::Settings;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The servers, separated by commas.
const URL: &str = "HYPERFAAS_NATS_URL";
/// A file with what to log in with.
const CREDENTIALS: &str = "HYPERFAAS_NATS_CREDENTIALS";
/// Certificates of whom a `tls://` server's certificate has to come from.
const CA: &str = "HYPERFAAS_NATS_CA";
/// The streams' name.
const STREAM: &str = "HYPERFAAS_NATS_STREAM";
/// After how much silence of a gateway its calls go to another one.
const ACK_WAIT: &str = "HYPERFAAS_NATS_ACK_WAIT";
/// Copies of each message in a cluster.
const REPLICAS: &str = "HYPERFAAS_NATS_REPLICAS";
/// As OpenFaaS' queue-worker: longer than a gateway's restart, short enough for whoever waits.
const ACK_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait for the server's answer to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest pause between attempts to connect again.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// A queue in NATS JetStream.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    servers: Vec<ServerAddr>,
    login: Login,
    ca: Option<PathBuf>,
    /// Name of the stream, beginning of its subjects, and with `_DEAD` name of the stream of dead letters.
    pub(super) stream: String,
    pub(super) ack_wait: Duration,
    pub(super) replicas: usize,
}

#[derive(Clone)]
enum Login {
    Nobody,
    Token(String),
    User(String, String),
    /// A file as `nsc` and the `nats` tool write it.
    Jwt(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Token(_) => "Token",
            Self::User(..) => "User",
            Self::Jwt(_) => "Jwt",
        })
    }
}

impl NatsSettings {
    /// The settings, if a server is named.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let url = settings.text(URL)?;
        let servers = servers(&url).unwrap_or_else(|problem| {
            settings.mistake(URL, problem);
            Vec::new()
        });
        let stream = settings.text_or(STREAM, "HYPERFAAS_ASYNC");
        if stream.len() > 64
            || !stream.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            settings.mistake(STREAM, "must be at most 64 letters, digits, - and _");
        }
        let login = settings
            .text(CREDENTIALS)
            .map_or(Ok(Login::Nobody), |path| Login::read(Path::new(&path)));
        let login = login.unwrap_or_else(|problem| {
            settings.mistake(CREDENTIALS, &problem);
            Login::Nobody
        });
        let ca = settings.text(CA).map(PathBuf::from);
        if let Some(error) = ca.as_ref().and_then(|path| std::fs::metadata(path).err()) {
            settings.mistake(CA, &error.to_string());
        }
        let ack_wait = settings.duration(ACK_WAIT, ACK_WAIT_DEFAULT);
        if ack_wait < Duration::from_secs(1) {
            settings.mistake(ACK_WAIT, "must be at least 1s");
        }
        let replicas = settings.integer(REPLICAS, 1_usize);
        if !(1..=5).contains(&replicas) {
            settings.mistake(REPLICAS, "must be 1 to 5");
        }
        Some(Self { servers, login, ca, stream, ack_wait, replicas })
    }

    /// The servers' addresses.
    pub(super) fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    /// Name of the stream of dead letters.
    pub(super) fn dead_stream(&self) -> String {
        format!("{}_DEAD", self.stream)
    }

    /// How to connect: tries for ever, from the start on.
    pub(super) fn options(&self) -> std::io::Result<ConnectOptions> {
        let options = match &self.login {
            Login::Nobody => ConnectOptions::new(),
            Login::Token(token) => ConnectOptions::with_token(token.clone()),
            Login::User(user, password) => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            Login::Jwt(text) => ConnectOptions::with_credentials(text)?,
        };
        let options = match &self.ca {
            Some(path) => options.add_root_certificates(path.clone()),
            None => options.tls_client_config(public_roots()),
        };
        Ok(options
            .name("hyperfaas-gateway")
            .retry_on_initial_connect()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|attempts| {
                let doubled = 1_u32.checked_shl(u32::try_from(attempts).unwrap_or(u32::MAX));
                (Duration::from_millis(25) * doubled.unwrap_or(u32::MAX).min(1000))
                    .min(RECONNECT_MAX)
            }))
    }
}

impl Login {
    /// What the file at `path` holds: credentials with a user's JWT, `user:password`, or a token.
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let text = text.trim();
        if text.is_empty() {
            return Err("the file is empty".to_owned());
        }
        if text.contains("BEGIN NATS USER JWT") {
            // The crate's own check, so that a broken file is found at the start.
            ConnectOptions::with_credentials(text)
                .map_err(|_| "the file holds no usable JWT and key".to_owned())?;
            return Ok(Self::Jwt(text.to_owned()));
        }
        if text.contains(char::is_control) {
            return Err("must hold credentials, user:password, or a token".to_owned());
        }
        Ok(match text.split_once(':') {
            Some((user, password)) => Self::User(user.to_owned(), password.to_owned()),
            None => Self::Token(text.to_owned()),
        })
    }
}

fn servers(text: &str) -> Result<Vec<ServerAddr>, &'static str> {
    let server = |text: &str| -> Result<ServerAddr, &'static str> {
        let problem = "must be such as nats://nats:4222, or several of them separated by commas";
        let server: ServerAddr = text.trim().parse().map_err(|_| problem)?;
        if !matches!(server.scheme(), "nats" | "tls") || server.host().is_empty() {
            return Err(problem);
        }
        if server.has_user_pass() {
            return Err("must hold no password; use HYPERFAAS_NATS_CREDENTIALS");
        }
        Ok(server)
    };
    text.split(',').map(server).collect()
}

/// Whom a server's certificate has to come from when nobody else is named: as with callbacks, Mozilla's list.
fn public_roots() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<NatsSettings>, Vec<String>> {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let lookup = move |name: &str| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        let mut settings = Settings::new(&lookup);
        let nats = NatsSettings::read(&mut settings);
        settings.finish(nats).map_err(|error| error.0)
    }

    #[test]
    fn servers_are_all_that_is_needed() {
        assert!(read(&[]).unwrap().is_none());
        let nats = read(&[(URL, "nats://a:4222, tls://b")]).unwrap().unwrap();
        assert_eq!((nats.servers.len(), nats.stream.as_str()), (2, "HYPERFAAS_ASYNC"));
    }

    #[test]
    fn mistakes_are_named_and_show_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broken.creds");
        std::fs::write(&path, "-----BEGIN NATS USER JWT-----\nhush\n").unwrap();
        let wrong = read(&[
            (URL, "nats://me:hush@a:4222"),
            (STREAM, "a.b"),
            (CREDENTIALS, path.to_str().unwrap()),
            (ACK_WAIT, "10ms"),
            (REPLICAS, "9"),
            (CA, "/nowhere"),
        ]);
        let lines = wrong.unwrap_err();
        for name in [URL, STREAM, CREDENTIALS, ACK_WAIT, REPLICAS, CA] {
            assert!(lines.iter().any(|line| line.starts_with(name)), "{name} in {lines:?}");
        }
        assert!(!lines.concat().contains("hush"));
        for url in ["http://a", "nats://", "nats://a:99999", ""] {
            assert!(url.is_empty() || read(&[(URL, url)]).is_err(), "{url}");
        }
    }

    #[test]
    fn a_file_holds_a_token_or_a_user_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("login");
        for (text, kind) in [("s3cret\n", "Token"), ("ann:s3cret\n", "User")] {
            std::fs::write(&path, text).unwrap();
            let login = (CREDENTIALS, path.to_str().unwrap());
            let nats = read(&[(URL, "nats://a"), login]).unwrap().unwrap();
            assert!(format!("{nats:?}").contains(kind));
            assert!(!format!("{nats:?}").contains("s3cret"));
        }
    }
}
