//! Images' root file systems on this host: each made once, kept while it is of use, gone when it is not.
//!
//! In: images that are present on the engine. Out: [`Root`]s, which keep their directory from being removed while they live.
//! Layout: `<directory>/<image id>/root` beside `root.json`, which says what it is and was written last; `.new-…` is being
//! made, `.gone-…` being removed; both are swept at start, so a crash leaves nothing half usable.
//! Always: what is under an image's id is complete and on disk; two callers share one making; all roots together, those
//! being made included, stay within the budget: the longest unused one that nobody holds makes room.
//! Touches: the directory, which is root's alone; the engine's export.

mod making;
pub(in crate::node) mod place;
mod store;
mod unpack;
mod user;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use store::Store;
pub use unpack::UnpackError;
pub use user::ImageUser;

/// Digits of an image id.
const ID_DIGITS: usize = 64;

/// An image's content id, without the name of its hash: hexadecimal digits, so that it can be a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootId(String);

impl RootId {
    /// The id in the engine's form, with `sha256:` or without; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let is_id = digits.len() == ID_DIGITS && digits.bytes().all(is_digit);
        is_id.then(|| Self(digits.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The image as the user wrote it when the root was made; for people.
    pub reference: String,
    /// Bytes on disk, roughly.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Who the image's processes are; `None` when the image names a user that it does not have.
    pub user: Option<ImageUser>,
}

/// A root in use; it stays as long as this or a clone lives.
#[derive(Debug, Clone)]
pub struct Root(Arc<Held>);

#[derive(Debug)]
struct Held {
    id: RootId,
    facts: Facts,
}

impl Root {
    /// The image.
    pub fn id(&self) -> &RootId {
        &self.0.id
    }

    /// A root that is nowhere, of an image with this user.
    #[cfg(test)]
    pub(super) fn for_tests(user: Option<ImageUser>) -> Self {
        let facts = Facts { reference: String::new(), bytes: 0, entries: 0, user };
        Self(Arc::new(Held { id: RootId("0".repeat(ID_DIGITS)), facts }))
    }

    /// What is known of it.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }
}

/// An empty root that is no image's.
#[derive(Debug)]
pub(super) struct Trial {
    root: Root,
    path: PathBuf,
}

impl Trial {
    fn new(directory: &Path) -> std::io::Result<Self> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let id = RootId(random.repeat(ID_DIGITS / random.len()));
        let path = directory.join(id.as_str());
        std::fs::create_dir_all(path.join(store::ROOT))?;
        let facts = Facts { reference: String::new(), bytes: 0, entries: 0, user: None };
        Ok(Self { root: Root(Arc::new(Held { id, facts })), path })
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }
}

impl Drop for Trial {
    /// Without its facts, what is left of it is swept at the next start.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Where the root of one image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nobody has asked for it, or it was removed.
    Absent,
    /// Being made.
    Making {
        /// Bytes unpacked so far.
        bytes: u64,
    },
    /// Ready.
    Ready {
        /// Bytes on disk, roughly.
        bytes: u64,
    },
    /// The last attempt failed.
    Failed {
        /// Why, one line.
        reason: String,
    },
}

/// How the roots of a host stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Roots that can be used.
    pub ready: usize,
    /// Roots that are being made.
    pub making: usize,
    /// Images that no root could be made of.
    pub failed: usize,
    /// Bytes of all, those being made included.
    pub bytes: u64,
}

/// Why there is no root of an image.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootError {
    /// The engine's id of the image is no content id.
    #[error("image id \"{0}\" is no SHA-256")]
    Id(String),
    /// The engine did not hand the image out.
    #[error("file system not exported: {0}")]
    Engine(#[from] EngineError),
    /// What it handed out cannot be unpacked.
    #[error("file system not unpacked: {0}")]
    Unpack(Arc<UnpackError>),
    /// The directory of roots failed.
    #[error("roots' directory {path}: {reason}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// This provider is going down.
    #[error("shutting down")]
    Ending,
}

/// The roots of this host. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<Store>,
    making: Arc<making::Making>,
}

impl Roots {
    /// Opens the roots in `directory`, made when missing, whose bytes together may be `budget`. Remains of a crash and
    /// what is damaged are removed in the background of the current runtime.
    ///
    /// # Errors
    /// [`RootError::Directory`] when it cannot be made or read.
    pub fn open(directory: &Path, budget: u64) -> Result<Self, RootError> {
        let store = Store::open(directory, budget).map_err(|error| RootError::Directory {
            path: directory.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { store: Arc::new(store), making: Arc::default() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.store.directory()
    }

    /// The root of `image`, made first where it is not there; callers at the same time share one making, which goes on when
    /// all of them leave.
    ///
    /// # Errors
    /// [`RootError`]; nothing is left behind then.
    pub async fn ensure(
        &self,
        image: &crate::engine::Image,
        engine: &Arc<dyn crate::engine::Engine>,
    ) -> Result<Root, RootError> {
        let id = RootId::parse(&image.id).ok_or_else(|| RootError::Id(image.id.clone()))?;
        match self.hold(&id) {
            Some(root) => Ok(root),
            None => self.making.join(&self.store, id, image, engine).await,
        }
    }

    /// The root of an image, if it is there; counts as a use.
    pub fn hold(&self, id: &RootId) -> Option<Root> {
        self.store.hold(id)
    }

    /// Whether a guest can be made of an image: its root is there, and its user is known and not root.
    ///
    /// # Errors
    /// What is in the way, one line for people.
    pub fn can_visit(&self, id: &RootId) -> Result<(), &'static str> {
        match self.store.facts(id).map(|facts| facts.user.as_ref().map(|user| user.uid)) {
            None => Err("its image's root file system is not ready"),
            Some(None) => Err("its image's user is unknown"),
            Some(Some(0)) => Err("its image runs as root"),
            Some(Some(_)) => Ok(()),
        }
    }

    /// Where the root of an image stands.
    pub fn status(&self, id: &RootId) -> Status {
        match self.store.bytes(id) {
            Some(bytes) => Status::Ready { bytes },
            None => self.making.status(id),
        }
    }

    /// An empty root for trying what can be done with one; gone when dropped.
    pub(super) fn trial(&self) -> std::io::Result<Trial> {
        Trial::new(self.store.directory())
    }

    /// Bytes of all roots, those being made included.
    pub fn bytes(&self) -> u64 {
        self.store.used()
    }

    /// How the roots stand together.
    pub fn summary(&self) -> Summary {
        let (making, failed) = self.making.counts();
        Summary { ready: self.store.count(), making, failed, bytes: self.bytes() }
    }

    /// Removes every root that is neither in `live` nor held; how many.
    pub async fn collect(&self, live: HashSet<RootId>) -> usize {
        self.making.forget_all_but(&live);
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || store.collect(&live)).await.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
