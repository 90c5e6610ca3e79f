//! The catalog's secrets: names by namespace, values only for those who start containers.

use bytes::Bytes;
use hyperfaas_protocol::{Namespace, SecretName};

use super::{Catalog, CatalogError};
use crate::engine::SecretFile;
use crate::spec::FunctionSpec;

impl Catalog {
    /// A namespace's secrets, by name.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceUnknown`], or the disk's.
    pub async fn secrets(&self, namespace: Namespace) -> Result<Vec<SecretName>, CatalogError> {
        self.read(move |inner| {
            inner.check_namespace(&namespace)?;
            Ok(inner
                .secrets
                .list(&namespace)
                .map_err(CatalogError::SecretFiles)?
                .into_iter()
                .collect())
        })
        .await
    }

    /// Creates a secret.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceUnknown`], [`CatalogError::SecretExists`], or the disk's.
    pub async fn create_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Bytes,
    ) -> Result<(), CatalogError> {
        self.write(move |inner| {
            inner.check_namespace(&namespace)?;
            if inner.secrets.has(&namespace, &name) {
                return Err(CatalogError::SecretExists { namespace, name });
            }
            inner.secrets.write(&namespace, &name, &value).map_err(CatalogError::SecretFiles)?;
            inner.tell();
            Ok(())
        })
        .await
    }

    /// Replaces a secret's value; functions see it with their next deployment.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceUnknown`], [`CatalogError::SecretNotFound`], or the disk's.
    pub async fn update_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Bytes,
    ) -> Result<(), CatalogError> {
        self.write(move |inner| {
            inner.check_namespace(&namespace)?;
            if !inner.secrets.has(&namespace, &name) {
                return Err(CatalogError::SecretNotFound { namespace, name });
            }
            inner.secrets.write(&namespace, &name, &value).map_err(CatalogError::SecretFiles)?;
            inner.tell();
            Ok(())
        })
        .await
    }

    /// Deletes a secret, also one in use: what runs keeps its copy.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceUnknown`], [`CatalogError::SecretNotFound`], or the disk's.
    pub async fn delete_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
    ) -> Result<(), CatalogError> {
        self.write(move |inner| {
            inner.check_namespace(&namespace)?;
            if !inner.secrets.remove(&namespace, &name).map_err(CatalogError::SecretFiles)? {
                return Err(CatalogError::SecretNotFound { namespace, name });
            }
            inner.tell();
            Ok(())
        })
        .await
    }

    /// The values that a replica of `spec` gets, in the order of its secrets.
    ///
    /// # Errors
    /// [`CatalogError::SecretUnknown`] when one was deleted since the deployment, or the disk's.
    pub async fn secret_files(&self, spec: &FunctionSpec) -> Result<Vec<SecretFile>, CatalogError> {
        let (namespace, names) = (spec.key.namespace.clone(), spec.secrets.clone());
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.read(move |inner| {
            let file = |name: SecretName| {
                let bytes =
                    inner.secrets.read(&namespace, &name).map_err(CatalogError::SecretFiles)?;
                match bytes {
                    Some(bytes) => Ok(SecretFile { name, bytes }),
                    None => Err(CatalogError::SecretUnknown(name)),
                }
            };
            names.into_iter().map(file).collect()
        })
        .await
    }
}
