//! Users beside the one of the secret files: hashed passwords and what each may do.
//!
//! In: a file with a line for each user, `NAME:ROLE:HASH`. Out: the [`Role`] of whoever proves to be one of them.
//! Always: passwords are checked with argon2 off the async threads, at most [`CHECKS_AT_ONCE`] at a time; an unknown name
//! costs as much as a wrong password; a checked password is remembered as a keyed hash for [`REMEMBERED`].
//! Touches: the file, at start and whenever it changes.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use hyperfaas_http::reload::{Words, watch};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Users in one file.
const USERS_MAX: usize = 10_000;
/// Password checks at a time: each takes 19 MiB and tens of milliseconds.
const CHECKS_AT_ONCE: usize = 2;
/// How long a password that was right is not checked again; every request carries it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Passwords remembered.
const REMEMBERED_MAX: usize = 1000;

/// What a user may do with `/system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look at everything, change nothing.
    ReadOnly,
    /// Everything within these namespaces, nothing elsewhere.
    Namespaces(Vec<String>),
}

/// Why a users file was refused.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A line makes no sense.
    #[error("{path} line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The users of one file; clones are the same ones.
#[derive(Clone)]
pub struct Users {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    by_name: RwLock<ByName>,
    checks: Semaphore,
    /// Keyed hashes of checked names and passwords, and until when they hold.
    checked: Mutex<HashMap<[u8; 32], Instant>>,
    /// Makes the hashes above useless to whoever reads memory later.
    key: [u8; 16],
    /// Checked for names that are unknown.
    nobody: String,
}

type ByName = HashMap<String, User>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    role: Role,
    hash: String,
}

impl fmt::Debug for Users {
    /// Never shows a hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Users {
    /// Reads the users of `path`.
    ///
    /// # Errors
    /// [`UsersError`] when it cannot be read or a line is wrong.
    pub fn from_file(path: &Path) -> Result<Self, UsersError> {
        let by_name = RwLock::new(read(path)?);
        let nobody = hash_password(b"nobody").expect("hashing with the defaults works");
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                by_name,
                checks: Semaphore::new(CHECKS_AT_ONCE),
                checked: Mutex::default(),
                key: *uuid::Uuid::new_v4().as_bytes(),
                nobody,
            }),
        })
    }

    /// Takes over what the file says now; whether it changed.
    ///
    /// # Errors
    /// [`UsersError`] when the file is wrong; the old users stay then.
    pub fn reload(&self) -> Result<bool, UsersError> {
        let new = read(&self.shared.path)?;
        let mut by_name = self.shared.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *by_name != new;
        if is_new {
            *by_name = new;
            self.shared.checked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(is_new)
    }

    /// Looks at the file every two seconds until `stop`, and takes over what is new.
    pub(crate) async fn watch(&self, stop: CancellationToken) {
        let words = Words { reloaded: "users reloaded", kept: "users stay as they were" };
        watch(stop, words, || self.reload()).await;
    }

    /// The role of `name`, if `password` is right.
    pub(crate) async fn role(&self, name: &str, password: &[u8]) -> Option<Role> {
        let shared = &self.shared;
        let user = {
            let by_name = shared.by_name.read().unwrap_or_else(PoisonError::into_inner);
            by_name.get(name).cloned()
        };
        let hash = user.as_ref().map_or(&shared.nobody, |user| &user.hash).clone();
        let print = self.print(name, password, &hash);
        if !self.is_remembered(&print) {
            let _place = shared.checks.acquire().await.ok()?;
            let password = password.to_owned();
            let check = move || Argon2::default().verify_password(&password, hash.as_str()).is_ok();
            if !tokio::task::spawn_blocking(check).await.unwrap_or(false) || user.is_none() {
                return None;
            }
            self.remember(print);
        }
        user.map(|user| user.role)
    }

    fn print(&self, name: &str, password: &[u8], hash: &str) -> [u8; 32] {
        let mut print = Sha256::new();
        for part in [&self.shared.key[..], name.as_bytes(), b":", hash.as_bytes(), b":", password] {
            print.update(part);
        }
        print.finalize().into()
    }

    fn is_remembered(&self, print: &[u8; 32]) -> bool {
        let checked = self.shared.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(print).is_some_and(|until| *until > Instant::now())
    }

    fn remember(&self, print: [u8; 32]) {
        let mut checked = self.shared.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= REMEMBERED_MAX {
            checked.clear();
        }
        checked.insert(print, Instant::now() + REMEMBERED);
    }
}

/// The argon2id hash of `password`, as it stands in a users file.
///
/// # Errors
/// A line when the system gives no random numbers.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password(password);
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<ByName, UsersError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsersError::Unreadable { path: path.to_owned(), error })?;
    let mut by_name = ByName::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem| UsersError::Line { path: path.to_owned(), line: number + 1, problem };
        let (name, user) = parse(line).map_err(wrong)?;
        if by_name.len() >= USERS_MAX {
            return Err(wrong("there are more than 10000 users"));
        }
        if by_name.insert(name.to_owned(), user).is_some() {
            return Err(wrong("this user is there twice"));
        }
    }
    Ok(by_name)
}

fn parse(line: &str) -> Result<(&str, User), &'static str> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("must be NAME:ROLE:HASH");
    };
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a name must not be empty or hold white space");
    }
    let role = match role.split_once('=') {
        None if role == "admin" => Role::Admin,
        None if role == "read-only" => Role::ReadOnly,
        Some(("namespaces", list))
            if list.split(',').all(|n| hyperfaas_protocol::Namespace::parse(n).is_ok()) =>
        {
            Role::Namespaces(list.split(',').map(str::to_owned).collect())
        }
        _ => return Err("the role must be admin, read-only or namespaces=NAME,NAME"),
    };
    if !hash.starts_with("$argon2") || PasswordHash::new(hash).is_err() {
        return Err("the hash must be argon2's, as --hash-password prints it");
    }
    Ok((name, User { role, hash: hash.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that are cheap to check, for tests that check many.
    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[tokio::test]
    async fn whoever_proves_to_be_a_user_has_its_role() {
        let hash = hash_password(b"pass:word").unwrap();
        assert!(hash.starts_with("$argon2id$"));
        let (_directory, path) = file(&format!(
            "# people\n\nann:admin:{hash}\nbob:read-only:{hash}\n carl:namespaces=dev,test:{hash}\n"
        ));
        let users = Users::from_file(&path).unwrap();
        for (name, role) in [
            ("ann", Role::Admin),
            ("bob", Role::ReadOnly),
            ("carl", Role::Namespaces(vec!["dev".into(), "test".into()])),
            ("ann", Role::Admin),
        ] {
            assert_eq!(users.role(name, b"pass:word").await, Some(role));
        }
        for (name, password) in
            [("ann", "pass:wor"), ("dora", "pass:word"), ("dora", "nobody"), ("", "")]
        {
            assert_eq!(users.role(name, password.as_bytes()).await, None, "{name}");
        }
        std::fs::write(&path, "broken").unwrap();
        assert!(users.reload().is_err());
        assert!(users.role("ann", b"pass:word").await.is_some(), "a broken file changes nothing");
        std::fs::write(&path, "").unwrap();
        assert!(users.reload().unwrap());
        assert_eq!(users.role("ann", b"pass:word").await, None, "nobody is remembered who is gone");
    }

    #[test]
    fn wrong_lines_are_named() {
        let hash = hash_password(b"x").unwrap();
        for (text, line) in [
            ("ann".to_owned(), 1),
            (format!("\nann:root:{hash}"), 2),
            (format!("ann:namespaces=:{hash}"), 1),
            (format!("ann:namespaces=a b:{hash}"), 1),
            (format!(":admin:{hash}"), 1),
            ("ann:admin:plain".to_owned(), 1),
            ("ann:admin:$argon2id$v=19$oops".to_owned(), 1),
            (format!("ann:admin:{hash}\nann:admin:{hash}"), 2),
        ] {
            let (_directory, path) = file(&text);
            let error = Users::from_file(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}: ")), "{text}: {error}");
            assert!(!error.contains("argon2id$"), "{error}");
        }
    }
}
