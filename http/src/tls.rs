//! TLS of the server, from a certificate and a key in files.
//!
//! In: two PEM files. Out: handshakes with whatever they held last.
//! Always: a file that cannot be used never replaces one that could; running connections are not touched by a change.
//! Touches: the two files, at start and whenever they change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::reload::{Words, watch};

/// Why a certificate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable, or holds nothing of its kind.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The two do not belong together, or the key is of an unknown kind.
    #[error("certificate and key cannot be used: {0}")]
    Pair(#[from] tokio_rustls::rustls::Error),
}

/// A server's certificate; clones are the same one.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    certificate: PathBuf,
    key: PathBuf,
    loaded: RwLock<Loaded>,
}

struct Loaded {
    /// The files' bytes, to tell whether they have changed.
    pems: [Vec<u8>; 2],
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.shared.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let loaded = RwLock::new(load(certificate, key)?);
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self { shared: Arc::new(Shared { certificate, key, loaded }) })
    }

    /// Takes over a new certificate when the files hold one; whether they did.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used; the old certificate stays in force then.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let new = load(&self.shared.certificate, &self.shared.key)?;
        let mut loaded = self.shared.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = loaded.pems != new.pems;
        if is_new {
            *loaded = new;
        }
        Ok(is_new)
    }

    /// Looks at the files every two seconds until `stop`, and takes over what is new.
    pub async fn watch(&self, stop: CancellationToken) {
        let words = Words { reloaded: "certificate reloaded", kept: "certificate stays as it was" };
        watch(stop, words, || self.reload()).await;
    }

    /// Shakes hands with a caller.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = {
            let loaded = self.shared.loaded.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&loaded.config)
        };
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let at = |path: &Path, reason: String| TlsError::File { path: path.to_owned(), reason };
    let read = |path: &Path| std::fs::read(path).map_err(|error| at(path, error.to_string()));
    let pems = [read(certificate)?, read(key)?];
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pems[0]).collect();
    let chain = chain.map_err(|error| at(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(at(certificate, "it holds no certificate".into()));
    }
    let private = PrivateKeyDer::from_pem_slice(&pems[1]);
    let private = private.map_err(|error| at(key, error.to_string()))?;
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { pems, config: Arc::new(config) })
}
