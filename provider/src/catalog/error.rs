//! Why the catalog refused a change; each text is one line for the client.

use hyperfaas_protocol::{FunctionKey, Namespace, SecretName};

use crate::store::StoreError;

/// Why the catalog refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No such function.
    #[error("function {0} not found")]
    FunctionUnknown(FunctionKey),
    /// There is one of that name.
    #[error("function {0} already exists")]
    FunctionExists(FunctionKey),
    /// Something was asked for in a namespace that does not exist.
    #[error("namespace {0} not valid: it does not exist")]
    NamespaceUnknown(Namespace),
    /// A namespace was asked for that does not exist.
    #[error("namespace {0} not found")]
    NamespaceNotFound(Namespace),
    /// There is one of that name.
    #[error("namespace {0} already exists")]
    NamespaceExists(Namespace),
    /// Functions or secrets are left in it.
    #[error("namespace {namespace} is not empty: delete its {left} first")]
    NamespaceNotEmpty {
        /// Which one.
        namespace: Namespace,
        /// What is left in it.
        left: &'static str,
    },
    /// Names of services would be shadowed by functions in it.
    #[error("namespace {0} is reserved for OpenFaaS' own services")]
    NamespaceIsReserved(Namespace),
    /// The default namespace cannot go.
    #[error("namespace {0} is the default namespace and cannot be deleted")]
    NamespaceIsDefault(Namespace),
    /// Labels and annotations are too long.
    #[error("namespace {0} is too large: labels and annotations take more than {max} bytes", max = crate::spec::DEPLOYMENT_MAX)]
    NamespaceTooLarge(Namespace),
    /// A deployment names a secret that does not exist.
    #[error("unable to find secret: {0}")]
    SecretUnknown(SecretName),
    /// A secret was asked for that does not exist.
    #[error("secret {name}.{namespace} not found")]
    SecretNotFound {
        /// Where it would be.
        namespace: Namespace,
        /// What it would be called.
        name: SecretName,
    },
    /// There is one of that name.
    #[error("secret {name}.{namespace} already exists")]
    SecretExists {
        /// Where it is.
        namespace: Namespace,
        /// What it is called.
        name: SecretName,
    },
    /// The catalog's database failed.
    #[error("the catalog cannot be written")]
    Store(#[from] StoreError),
    /// The secrets' directory failed.
    #[error("the secrets' directory cannot be used")]
    SecretFiles(#[source] std::io::Error),
    /// The process is ending.
    #[error("the provider is stopping")]
    Stopping,
}
