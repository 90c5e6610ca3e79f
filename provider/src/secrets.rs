//! Secrets as files: `secrets/<namespace>/<name>` in the state directory, each holding exactly its bytes.
//!
//! In: names that are safe in a path by their type, and bytes. Out: the same bytes; lists never hold values.
//! Always: directories are 0700 and files 0600; a value is replaced as a whole or not at all, and durable on return.
//! Touches: that directory. Calls block on the disk; the catalog runs them off the async threads, one writer at a time.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyperfaas_protocol::openfaas::Secret;
use hyperfaas_protocol::{Namespace, SecretName};

use crate::store::{make_private, sync_directory};

/// Largest value: 1 MiB, Kubernetes' bound for a secret.
pub const SECRET_MAX: usize = 1 << 20;

/// Half-written values begin with this; no valid name does.
const TEMPORARY: &str = ".tmp-";

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretValueError {
    /// `rawValue` is no base64.
    #[error("rawValue is not valid base64")]
    Base64,
    /// The value is too long.
    #[error("secret is larger than {SECRET_MAX} bytes")]
    TooLarge,
}

/// The bytes a request wants kept: `rawValue` where it is not empty, else `value`; any byte is allowed, NUL included,
/// because the function sees a file and not a string.
///
/// # Errors
/// [`SecretValueError`] when they cannot be told or are too many.
pub fn value(secret: &Secret) -> Result<Bytes, SecretValueError> {
    let bytes = if secret.raw_value.is_empty() {
        Bytes::copy_from_slice(secret.value.as_bytes())
    } else {
        Bytes::from(STANDARD.decode(&secret.raw_value).map_err(|_| SecretValueError::Base64)?)
    };
    if bytes.len() > SECRET_MAX { Err(SecretValueError::TooLarge) } else { Ok(bytes) }
}

/// The directory of all secrets.
#[derive(Debug)]
pub(crate) struct SecretFiles {
    root: PathBuf,
}

impl SecretFiles {
    /// Opens `secrets` in the state directory, making it where it is missing and clearing what a crash left half-written.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub(crate) fn open(state: &Path) -> std::io::Result<Self> {
        let root = state.join("secrets");
        make_private(&root)?;
        sync_directory(state)?;
        for namespace in std::fs::read_dir(&root)? {
            let namespace = namespace?.path();
            for entry in std::fs::read_dir(&namespace)? {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(Self { root })
    }

    fn path(&self, namespace: &Namespace, name: &SecretName) -> PathBuf {
        self.root.join(namespace.as_str()).join(name.as_str())
    }

    /// Whether the secret exists.
    pub(crate) fn has(&self, namespace: &Namespace, name: &SecretName) -> bool {
        self.path(namespace, name).is_file()
    }

    /// The secrets of a namespace, by name.
    ///
    /// # Errors
    /// When the directory cannot be read; a namespace without one has no secrets.
    pub(crate) fn list(&self, namespace: &Namespace) -> std::io::Result<BTreeSet<SecretName>> {
        let entries = match std::fs::read_dir(self.root.join(namespace.as_str())) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            names.extend(entry?.file_name().to_str().and_then(|name| SecretName::parse(name).ok()));
        }
        Ok(names)
    }

    /// A secret's bytes; `None` when there is no such secret.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(
        &self,
        namespace: &Namespace,
        name: &SecretName,
    ) -> std::io::Result<Option<Bytes>> {
        let file = match File::open(self.path(namespace, name)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(SECRET_MAX as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    /// Writes the secret anew: a temporary file, synced, renamed into place, and the directory synced.
    ///
    /// # Errors
    /// When the disk refuses; an older value is then untouched.
    pub(crate) fn write(
        &self,
        namespace: &Namespace,
        name: &SecretName,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        let directory = self.root.join(namespace.as_str());
        if !directory.is_dir() {
            make_private(&directory)?;
            sync_directory(&self.root)?;
        }
        let temporary = directory.join(format!("{TEMPORARY}{}", uuid::Uuid::new_v4().simple()));
        let written = write_durably(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, self.path(namespace, name)))
            .and_then(|()| sync_directory(&directory));
        if written.is_err() {
            // The first error is the one to tell; what is left here goes at the next start.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the secret; whether there was one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn remove(&self, namespace: &Namespace, name: &SecretName) -> std::io::Result<bool> {
        match std::fs::remove_file(self.path(namespace, name)) {
            Ok(()) => sync_directory(&self.root.join(namespace.as_str())).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names() -> (Namespace, SecretName) {
        (Namespace::parse("openfaas-fn").unwrap(), SecretName::parse("db.password").unwrap())
    }

    fn secret(value: &str, raw_value: &str) -> Secret {
        Secret {
            name: "s".into(),
            namespace: String::new(),
            value: value.into(),
            raw_value: raw_value.into(),
        }
    }

    #[test]
    fn a_value_is_kept_byte_for_byte_and_replaced_as_a_whole() {
        let state = tempfile::tempdir().unwrap();
        let files = SecretFiles::open(state.path()).unwrap();
        let (namespace, name) = names();
        for bytes in [&b"\0a\0\n"[..], b"", b"longer than before"] {
            files.write(&namespace, &name, bytes).unwrap();
            assert_eq!(files.read(&namespace, &name).unwrap().unwrap(), bytes);
        }
        assert!(files.has(&namespace, &name) && files.list(&namespace).unwrap().contains(&name));
        assert!(
            files.remove(&namespace, &name).unwrap() && !files.remove(&namespace, &name).unwrap()
        );
        assert_eq!(files.read(&namespace, &name).unwrap(), None);
    }

    #[test]
    fn only_the_owner_may_look() {
        let state = tempfile::tempdir().unwrap();
        let files = SecretFiles::open(state.path()).unwrap();
        let (namespace, name) = names();
        files.write(&namespace, &name, b"x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = files.path(&namespace, &name);
        assert_eq!(
            (mode(&file), mode(file.parent().unwrap()), mode(&files.root)),
            (0o600, 0o700, 0o700)
        );
    }

    #[test]
    fn what_a_crash_left_half_written_is_cleared_and_never_listed() {
        let state = tempfile::tempdir().unwrap();
        let (namespace, name) = names();
        let files = SecretFiles::open(state.path()).unwrap();
        files.write(&namespace, &name, b"x").unwrap();
        let rest = files.root.join("openfaas-fn/.tmp-1");
        std::fs::write(&rest, "half").unwrap();
        assert_eq!(files.list(&namespace).unwrap().len(), 1);
        SecretFiles::open(state.path()).unwrap();
        assert!(!rest.exists());
    }

    #[test]
    fn raw_bytes_win_and_anything_else_is_refused() {
        assert_eq!(value(&secret("trimmed", "IGJpbgo=")).unwrap(), &b" bin\n"[..]);
        assert_eq!(value(&secret("v\0", "")).unwrap(), &b"v\0"[..]);
        assert_eq!(value(&secret("", "")).unwrap(), &b""[..]);
        assert_eq!(value(&secret("", "%%%")), Err(SecretValueError::Base64));
        assert_eq!(
            value(&secret(&"x".repeat(SECRET_MAX + 1), "")),
            Err(SecretValueError::TooLarge)
        );
        assert!(value(&secret(&"x".repeat(SECRET_MAX), "")).is_ok());
    }
}
