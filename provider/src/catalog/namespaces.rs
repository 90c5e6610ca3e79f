//! The catalog's namespaces; the default one always exists and cannot be deleted.

use std::sync::{Arc, PoisonError};

use hyperfaas_protocol::Namespace;
use hyperfaas_protocol::openfaas::FunctionNamespace;

use super::{Catalog, CatalogError, Inner, Namespaces, functions_in};
use crate::spec::DEPLOYMENT_MAX;

/// Where OpenFaaS' own services live: functions call `gateway.openfaas`, so no function may be called so.
const CORE_NAMESPACE: &str = "openfaas";

impl Catalog {
    /// All namespaces: the default one first, then by name.
    pub fn namespaces(&self) -> Vec<Namespace> {
        let all = self.inner.namespaces();
        let default = self.default_namespace();
        std::iter::once(default)
            .chain(all.keys().filter(|name| *name != default))
            .cloned()
            .collect()
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &Namespace) -> bool {
        self.inner.namespaces().contains_key(name)
    }

    /// One namespace with its labels and annotations.
    pub fn namespace(&self, name: &Namespace) -> Option<Arc<FunctionNamespace>> {
        self.inner.namespaces().get(name).cloned()
    }

    /// Creates a namespace; `namespace.name` is set to `name`.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceIsReserved`], [`CatalogError::NamespaceExists`], [`CatalogError::NamespaceTooLarge`], or the
    /// disk's.
    pub async fn create_namespace(
        &self,
        name: Namespace,
        namespace: FunctionNamespace,
    ) -> Result<(), CatalogError> {
        if name.as_str() == CORE_NAMESPACE {
            return Err(CatalogError::NamespaceIsReserved(name));
        }
        self.write(move |inner| {
            if inner.namespaces().contains_key(&name) {
                return Err(CatalogError::NamespaceExists(name));
            }
            inner.keep_namespace(name, namespace)
        })
        .await
    }

    /// Replaces a namespace's labels and annotations.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceNotFound`], [`CatalogError::NamespaceTooLarge`], or the disk's.
    pub async fn update_namespace(
        &self,
        name: Namespace,
        namespace: FunctionNamespace,
    ) -> Result<(), CatalogError> {
        self.write(move |inner| {
            if !inner.namespaces().contains_key(&name) {
                return Err(CatalogError::NamespaceNotFound(name));
            }
            inner.keep_namespace(name, namespace)
        })
        .await
    }

    /// Deletes an empty namespace.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceIsDefault`], [`CatalogError::NamespaceNotFound`], [`CatalogError::NamespaceNotEmpty`] when
    /// functions or secrets are left, or the disk's.
    pub async fn delete_namespace(&self, name: Namespace) -> Result<(), CatalogError> {
        self.write(move |inner| {
            if name == inner.settings.default_namespace {
                return Err(CatalogError::NamespaceIsDefault(name));
            }
            if !inner.namespaces().contains_key(&name) {
                return Err(CatalogError::NamespaceNotFound(name));
            }
            if functions_in(&inner.current(), &name).next().is_some() {
                return Err(CatalogError::NamespaceNotEmpty { namespace: name, left: "functions" });
            }
            if !inner.secrets.list(&name).map_err(CatalogError::SecretFiles)?.is_empty() {
                return Err(CatalogError::NamespaceNotEmpty { namespace: name, left: "secrets" });
            }
            inner.store.remove_namespace(&name)?;
            inner.publish_namespaces(|namespaces| drop(namespaces.remove(&name)));
            Ok(())
        })
        .await
    }
}

impl Inner {
    pub(super) fn namespaces(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn check_namespace(&self, name: &Namespace) -> Result<(), CatalogError> {
        if self.namespaces().contains_key(name) {
            Ok(())
        } else {
            Err(CatalogError::NamespaceUnknown(name.clone()))
        }
    }

    fn keep_namespace(
        &self,
        name: Namespace,
        mut namespace: FunctionNamespace,
    ) -> Result<(), CatalogError> {
        let strings = namespace.labels.iter().chain(&namespace.annotations);
        if strings.map(|(key, value)| key.len() + value.len()).sum::<usize>() > DEPLOYMENT_MAX {
            return Err(CatalogError::NamespaceTooLarge(name));
        }
        namespace.name = name.to_string();
        self.store.put_namespace(&name, &namespace)?;
        self.publish_namespaces(|namespaces| drop(namespaces.insert(name, Arc::new(namespace))));
        Ok(())
    }

    fn publish_namespaces(&self, change: impl FnOnce(&mut Namespaces)) {
        let mut namespaces = Namespaces::clone(&self.namespaces());
        change(&mut namespaces);
        *self.namespaces.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(namespaces);
        self.tell();
    }
}
