//! The catalog's durable form: one embedded database in the state directory.
//!
//! In: records to keep or drop. Out: everything kept, at start. Each call is one durable transaction: when it returns,
//! the change is on disk; when it fails, nothing has changed.
//! Always: one process at a time; the directory and what is in it belong to their owner alone.
//! Touches: `catalog.redb` in the state directory. Calls block on the disk; the catalog runs them off the async threads.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyperfaas_protocol::openfaas::{FunctionDeployment, FunctionNamespace};
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace};
use jiff::Timestamp;
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalog::{FIRST_CALL, Function, Functions, Namespaces};
use crate::spec::FunctionSpec;

/// The database's file name in the state directory.
const FILE: &str = "catalog.redb";
/// What this code writes; a newer number means a newer provider wrote the file.
const FORMAT: u64 = 1;
/// Memory the database may keep pages in: 4 MiB holds a catalog of thousands of functions.
const CACHE_BYTES: usize = 4 << 20;

/// (namespace, name) → [`FunctionRecord`] as JSON.
const FUNCTIONS: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("functions");
/// Name → [`FunctionNamespace`] as JSON.
const NAMESPACES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("namespaces");
/// `format` and `revision` (little-endian numbers), `master_key` (32 bytes).
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the database.
    #[error("another provider is running on {0}: only one may use a state directory")]
    InUse(PathBuf),
    /// The directory or file cannot be used.
    #[error("cannot use state directory {path}: {error}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A newer provider wrote the file.
    #[error(
        "the catalog has format {found}, this provider reads up to {FORMAT}: install the newer provider"
    )]
    Format {
        /// What the file says.
        found: u64,
    },
    /// A record makes no sense to this provider.
    #[error("catalog record {key} cannot be read: {reason}")]
    Record {
        /// Whose record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The database failed.
    #[error("catalog database: {0}")]
    Database(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// What a function's row holds.
#[derive(Serialize, Deserialize)]
struct FunctionRecord {
    deployment: FunctionDeployment,
    revision: u64,
    replicas: u32,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Everything that was kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By key.
    pub(crate) functions: Functions,
    /// Stored ones only; the default one may be missing.
    pub(crate) namespaces: Namespaces,
    /// The last revision given out, never given out again.
    pub(crate) revision: u64,
    /// Made at the first start, the same ever since.
    pub(crate) master_key: [u8; 32],
}

/// The database; a failed write closes it, and the next one opens it anew.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens the database in `directory`, making both where they are missing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::InUse`] when another process has it open.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let database = Mutex::new(Some(open(directory)?));
        Ok(Self { directory: directory.to_owned(), database })
    }

    /// Reads everything, after laying down format and master key at the first start.
    ///
    /// # Errors
    /// [`StoreError`] when the file is of a newer format or a record cannot be read.
    pub(crate) fn load(&self) -> Result<Kept, StoreError> {
        let mut kept = Kept::default();
        self.write(|write| {
            write.open_table(FUNCTIONS)?;
            write.open_table(NAMESPACES)?;
            let mut meta = write.open_table(META)?;
            let format = number(&meta, "format")?.unwrap_or(FORMAT);
            if format > FORMAT {
                return Err(StoreError::Format { found: format });
            }
            meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
            let stored = meta.get("master_key")?.and_then(|bytes| bytes.value().try_into().ok());
            kept.master_key = stored.unwrap_or_else(random_key);
            meta.insert("master_key", kept.master_key.as_slice())?;
            kept.revision = number(&meta, "revision")?.unwrap_or(0);
            Ok(())
        })?;
        self.write(|write| {
            kept.functions = read_functions(&write.open_table(FUNCTIONS)?)?;
            kept.namespaces = read_namespaces(&write.open_table(NAMESPACES)?)?;
            Ok(())
        })?;
        Ok(kept)
    }

    /// Keeps `functions`, all of them or none, and `revision`, the last one given out.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn put_functions(
        &self,
        functions: &[Function],
        revision: u64,
    ) -> Result<(), StoreError> {
        let row = |function: &Function| {
            let record = FunctionRecord {
                deployment: FunctionDeployment::clone(&function.spec.deployment),
                revision: function.revision,
                replicas: function.replicas,
                created_at: function.created_at,
                updated_at: function.updated_at,
            };
            encode(&record, &function.spec.key)
        };
        let rows: Vec<_> = functions.iter().map(row).collect::<Result<_, _>>()?;
        self.write(|write| {
            let mut table = write.open_table(FUNCTIONS)?;
            for (function, bytes) in functions.iter().zip(&rows) {
                table.insert(row_key(&function.spec.key), bytes.as_slice())?;
            }
            write.open_table(META)?.insert("revision", revision.to_le_bytes().as_slice())?;
            Ok(())
        })
    }

    /// Drops a function; an unknown one is no error.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn remove_function(&self, key: &FunctionKey) -> Result<(), StoreError> {
        self.write(|write| {
            write.open_table(FUNCTIONS)?.remove(row_key(key))?;
            Ok(())
        })
    }

    /// Keeps a namespace.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn put_namespace(
        &self,
        name: &Namespace,
        namespace: &FunctionNamespace,
    ) -> Result<(), StoreError> {
        let bytes = encode(namespace, name)?;
        self.write(|write| {
            write.open_table(NAMESPACES)?.insert(name.as_str(), bytes.as_slice())?;
            Ok(())
        })
    }

    /// Drops a namespace; an unknown one is no error.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub(crate) fn remove_namespace(&self, name: &Namespace) -> Result<(), StoreError> {
        self.write(|write| {
            write.open_table(NAMESPACES)?.remove(name.as_str())?;
            Ok(())
        })
    }

    /// Runs one durable transaction.
    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => open(&self.directory)?,
        };
        let write = database.begin_write()?;
        change(&write)?;
        write.commit()?;
        // Not put back after an error: a database that once met a full disk refuses everything until it is opened anew.
        *slot = Some(database);
        Ok(())
    }
}

fn open(directory: &Path) -> Result<Database, StoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| StoreError::Directory { path, error }
    };
    make_private(directory).map_err(at(directory))?;
    let path = directory.join(FILE);
    let created = Database::builder().set_cache_size(CACHE_BYTES).create(&path);
    let database = created.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(directory.to_owned()),
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => at(&path)(error),
        other => other.into(),
    })?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(at(&path))?;
    sync_directory(directory).map_err(at(directory))?;
    Ok(database)
}

fn read_functions(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
) -> Result<Functions, StoreError> {
    let mut functions = Functions::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let (namespace, name) = key.value();
        let function = function_of(namespace, name, value.value()).map_err(|reason| {
            StoreError::Record { key: format!("function {name}.{namespace}"), reason }
        })?;
        functions.insert(function.spec.key.clone(), Arc::new(function));
    }
    Ok(functions)
}

fn read_namespaces(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Namespaces, StoreError> {
    let mut namespaces = Namespaces::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let record = |reason: String| StoreError::Record {
            key: format!("namespace {}", key.value()),
            reason,
        };
        let name = Namespace::parse(key.value()).map_err(|e| record(e.to_string()))?;
        let namespace = serde_json::from_slice(value.value()).map_err(|e| record(e.to_string()))?;
        namespaces.insert(name, Arc::new(namespace));
    }
    Ok(namespaces)
}

fn row_key(key: &FunctionKey) -> (&str, &str) {
    (key.namespace.as_str(), key.name.as_str())
}

fn function_of(namespace: &str, name: &str, record: &[u8]) -> Result<Function, String> {
    let record: FunctionRecord = serde_json::from_slice(record).map_err(|e| e.to_string())?;
    let namespace = Namespace::parse(namespace).map_err(|e| e.to_string())?;
    let key =
        FunctionKey { namespace, name: FunctionName::parse(name).map_err(|e| e.to_string())? };
    let spec =
        FunctionSpec::parse_kept(record.deployment, &key.namespace).map_err(|e| e.to_string())?;
    if spec.key != key {
        return Err(format!("it holds {}", spec.key));
    }
    Ok(Function {
        spec: Arc::new(spec),
        revision: record.revision,
        replicas: record.replicas,
        call: FIRST_CALL,
        created_at: record.created_at,
        updated_at: record.updated_at,
    })
}

fn encode(record: &impl Serialize, key: &impl std::fmt::Display) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record)
        .map_err(|e| StoreError::Record { key: key.to_string(), reason: e.to_string() })
}

fn number(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<u64>, StoreError> {
    let value = meta.get(key)?;
    Ok(value.and_then(|bytes| <[u8; 8]>::try_from(bytes.value()).ok()).map(u64::from_le_bytes))
}

/// 32 bytes nobody can guess: a hash over 366 random bits.
fn random_key() -> [u8; 32] {
    let mut hash = Sha256::new();
    for _ in 0..3 {
        hash.update(uuid::Uuid::new_v4().as_bytes());
    }
    hash.finalize().into()
}

/// Makes `path` with all its parents, readable by its owner alone also when it was there before.
pub(crate) fn make_private(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Makes names that were added to or removed from `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_change_leaves_nothing_behind_and_the_store_usable() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let name = Namespace::parse("dev").unwrap();
        let failed = store.write(|write| {
            write.open_table(NAMESPACES)?.insert("half", b"{}".as_slice())?;
            Err(StoreError::Format { found: 2 })
        });
        assert!(failed.is_err());
        store.put_namespace(&name, &FunctionNamespace::default()).unwrap();
        assert_eq!(store.load().unwrap().namespaces.into_keys().collect::<Vec<_>>(), [name]);
    }

    #[test]
    fn a_catalog_of_a_newer_provider_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let newer = |write: &WriteTransaction| {
            write.open_table(META)?.insert("format", 2_u64.to_le_bytes().as_slice())?;
            Ok(())
        };
        store.write(newer).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Format { found: 2 })));
    }

    #[test]
    fn only_the_owner_may_look() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("deep/state");
        let _store = Store::open(&state).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE))), (0o700, 0o600));
    }
}
