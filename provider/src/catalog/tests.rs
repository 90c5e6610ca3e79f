//! Claims about the catalog, each on a directory of its own.

use bytes::Bytes;
use hyperfaas_protocol::SecretName;
use hyperfaas_protocol::openfaas::FunctionDeployment;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn open(state: &TempDir) -> Catalog {
    try_open(state).unwrap()
}

fn try_open(state: &TempDir) -> Result<Catalog, StoreError> {
    let default_namespace = Namespace::parse("openfaas-fn").unwrap();
    Catalog::open(&CatalogSettings {
        state_dir: state.path().join("state"),
        default_namespace,
        max_replicas: 100,
    })
}

fn spec(name: &str, labels: &[(&str, &str)]) -> FunctionSpec {
    let labels =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let deployment = FunctionDeployment {
        service: name.into(),
        image: "a/b:c".into(),
        labels,
        ..FunctionDeployment::default()
    };
    FunctionSpec::parse(deployment, &Namespace::parse("openfaas-fn").unwrap()).unwrap()
}

fn secret(name: &str) -> SecretName {
    SecretName::parse(name).unwrap()
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let state = TempDir::new().unwrap();
    let dev = Namespace::parse("dev").unwrap();
    let (created, key, master) = {
        let catalog = open(&state);
        let created =
            catalog.create(spec("fn1", &[("com.openfaas.scale.min", "2")])).await.unwrap();
        catalog.scale(created.spec.key.clone(), 7).await.unwrap();
        catalog.create_namespace(dev.clone(), FunctionNamespace::default()).await.unwrap();
        catalog.create_secret(dev.clone(), secret("s1"), Bytes::from_static(b"v\0")).await.unwrap();
        (
            created,
            catalog.function(&spec("fn1", &[]).key).unwrap().spec.key.clone(),
            *catalog.master_key(),
        )
    };
    let catalog = open(&state);
    let function = catalog.function(&key).unwrap();
    assert_eq!((function.replicas, function.revision), (7, created.revision));
    assert_eq!((function.created_at, &function.spec), (created.created_at, &created.spec));
    assert_eq!(*catalog.master_key(), master);
    assert_eq!(
        catalog.namespaces().iter().map(Namespace::as_str).collect::<Vec<_>>(),
        ["openfaas-fn", "dev"]
    );
    assert_eq!(catalog.secrets(dev).await.unwrap(), [secret("s1")]);
}

#[tokio::test]
async fn a_second_provider_on_the_same_directory_is_told_so() {
    let state = TempDir::new().unwrap();
    let _first = open(&state);
    let error = try_open(&state).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(error.to_string().contains("another provider is running"));
}

#[tokio::test]
async fn an_update_always_gets_a_new_revision_and_keeps_birth_and_replicas() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let first = catalog.create(spec("fn1", &[])).await.unwrap();
    catalog.scale(first.spec.key.clone(), 5).await.unwrap();
    let second = catalog.update(spec("fn1", &[])).await.unwrap();
    assert!(second.revision > first.revision);
    assert_eq!((second.created_at, second.replicas), (first.created_at, 5));
    let third = catalog.update(spec("fn1", &[("com.openfaas.scale.min", "3")])).await.unwrap();
    assert_eq!(third.replicas, 3);
    let fourth = catalog.update(spec("fn1", &[])).await.unwrap();
    assert!(fourth.spec.deployment.labels.is_empty() && fourth.replicas == 3);
}

#[tokio::test]
async fn a_name_that_comes_back_never_reuses_a_revision_also_across_restarts() {
    let state = TempDir::new().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let catalog = open(&state);
        let function = catalog.create(spec("fn1", &[])).await.unwrap();
        assert!(function.revision > last);
        last = function.revision;
        catalog.delete(function.spec.key.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_unknown_or_there_already_is_refused_and_changes_nothing() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let missing = spec("fn1", &[]);
    assert!(matches!(catalog.update(missing.clone()).await, Err(CatalogError::FunctionUnknown(_))));
    assert!(matches!(
        catalog.delete(missing.key.clone()).await,
        Err(CatalogError::FunctionUnknown(_))
    ));
    assert!(matches!(
        catalog.scale(missing.key.clone(), 1).await,
        Err(CatalogError::FunctionUnknown(_))
    ));
    let before = *catalog.subscribe().borrow();
    let mut elsewhere = missing.clone();
    elsewhere.key.namespace = Namespace::parse("nowhere").unwrap();
    assert!(matches!(catalog.create(elsewhere).await, Err(CatalogError::NamespaceUnknown(_))));
    let mut with_secret = missing.clone();
    with_secret.secrets = vec![secret("s1")];
    assert!(matches!(
        catalog.create(with_secret.clone()).await,
        Err(CatalogError::SecretUnknown(_))
    ));
    assert!(matches!(
        catalog.update(with_secret.clone()).await,
        Err(CatalogError::FunctionUnknown(_))
    ));
    assert_eq!((*catalog.subscribe().borrow(), catalog.snapshot().len()), (before, 0));
    catalog.create(missing.clone()).await.unwrap();
    assert!(matches!(catalog.create(missing).await, Err(CatalogError::FunctionExists(_))));
    assert!(matches!(catalog.update(with_secret).await, Err(CatalogError::SecretUnknown(_))));
    assert_eq!(catalog.snapshot().len(), 1);
}

#[tokio::test]
async fn scaling_is_clamped_to_the_smaller_maximum() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let plain = catalog.create(spec("plain", &[])).await.unwrap();
    let small = catalog.create(spec("small", &[("com.openfaas.scale.max", "4")])).await.unwrap();
    assert_eq!(catalog.scale(plain.spec.key.clone(), u64::MAX).await.unwrap(), 100);
    assert_eq!(catalog.scale(small.spec.key.clone(), 1_000_000_000).await.unwrap(), 4);
    assert_eq!(catalog.scale(small.spec.key.clone(), 0).await.unwrap(), 0);
    let greedy =
        catalog.create(spec("greedy", &[("com.openfaas.scale.min", "4000")])).await.unwrap();
    assert_eq!(greedy.replicas, 100);
}

#[tokio::test]
async fn functions_are_listed_by_name_within_their_namespace() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let dev = Namespace::parse("dev").unwrap();
    catalog.create_namespace(dev.clone(), FunctionNamespace::default()).await.unwrap();
    for name in ["zz", "0", "a-b", "a"] {
        catalog.create(spec(name, &[])).await.unwrap();
    }
    let mut other = spec("b", &[]);
    other.key.namespace = dev.clone();
    catalog.create(other).await.unwrap();
    let names = |namespace: &Namespace| {
        catalog.functions(namespace).iter().map(|f| f.spec.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(catalog.default_namespace()), ["0", "a", "a-b", "zz"]);
    assert_eq!(names(&dev), ["b"]);
}

#[tokio::test]
async fn subscribers_hear_of_a_change_once_it_can_be_seen() {
    let state = TempDir::new().unwrap();
    let catalog = Arc::new(open(&state));
    let mut changes = catalog.subscribe();
    let creating = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.create(spec("fn1", &[])).await.map(drop) }
    });
    changes.changed().await.unwrap();
    assert!(catalog.function(&spec("fn1", &[]).key).is_some());
    creating.await.unwrap().unwrap();
}

#[tokio::test]
async fn racing_creates_of_one_name_succeed_exactly_once() {
    let state = TempDir::new().unwrap();
    let catalog = Arc::new(open(&state));
    let tasks = (0..16).map(|_| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move { catalog.create(spec("fn1", &[])).await.is_ok() })
    });
    let mut won = 0;
    for task in tasks.collect::<Vec<_>>() {
        won += usize::from(task.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn the_namespace_of_openfaas_own_services_is_not_for_functions() {
    let state = TempDir::new().unwrap();
    let core = Namespace::parse("openfaas").unwrap();
    assert!(matches!(
        open(&state).create_namespace(core, FunctionNamespace::default()).await,
        Err(CatalogError::NamespaceIsReserved(_))
    ));
}

#[tokio::test]
async fn a_namespace_goes_only_when_it_is_empty_and_not_the_default() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let dev = Namespace::parse("dev").unwrap();
    let default = catalog.default_namespace().clone();
    assert!(matches!(
        catalog.delete_namespace(default).await,
        Err(CatalogError::NamespaceIsDefault(_))
    ));
    assert!(matches!(
        catalog.delete_namespace(dev.clone()).await,
        Err(CatalogError::NamespaceNotFound(_))
    ));
    catalog.create_namespace(dev.clone(), FunctionNamespace::default()).await.unwrap();
    let again = catalog.create_namespace(dev.clone(), FunctionNamespace::default()).await;
    assert!(matches!(again, Err(CatalogError::NamespaceExists(_))));
    catalog.create_secret(dev.clone(), secret("s1"), Bytes::new()).await.unwrap();
    let refused = catalog.delete_namespace(dev.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "namespace dev is not empty: delete its secrets first");
    catalog.delete_secret(dev.clone(), secret("s1")).await.unwrap();
    catalog.delete_namespace(dev.clone()).await.unwrap();
    assert!(!catalog.has_namespace(&dev));
}

#[tokio::test]
async fn a_replica_gets_the_bytes_of_its_secrets_in_order() {
    let state = TempDir::new().unwrap();
    let catalog = open(&state);
    let default = catalog.default_namespace().clone();
    for (name, value) in [("b", &b"2\0"[..]), ("a", b"1\n")] {
        catalog
            .create_secret(default.clone(), secret(name), Bytes::copy_from_slice(value))
            .await
            .unwrap();
    }
    let mut wanted = spec("fn1", &[]);
    wanted.secrets = vec![secret("b"), secret("a")];
    let files = catalog.secret_files(&wanted).await.unwrap();
    assert_eq!(files.iter().map(|f| &f.bytes[..]).collect::<Vec<_>>(), [&b"2\0"[..], b"1\n"]);
    catalog.delete_secret(default, secret("a")).await.unwrap();
    assert!(matches!(catalog.secret_files(&wanted).await, Err(CatalogError::SecretUnknown(_))));
}

/// One change, by a small number for the function's name.
#[derive(Debug, Clone)]
enum Change {
    Create(u8),
    Update(u8, u32),
    Scale(u8, u64),
    Delete(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let name = 0..3_u8;
    prop_oneof![
        name.clone().prop_map(Change::Create),
        (name.clone(), 0..4_u32).prop_map(|(name, min)| Change::Update(name, min)),
        (name.clone(), 0..200_u64).prop_map(|(name, count)| Change::Scale(name, count)),
        name.prop_map(Change::Delete),
    ]
}

fn named(name: u8, min: u32) -> FunctionSpec {
    spec(&format!("f{name}"), &[("com.openfaas.scale.min", &min.to_string())])
}

/// Revision and replicas by name.
fn shape(catalog: &Catalog) -> BTreeMap<String, (u64, u32)> {
    let all = catalog.snapshot();
    all.values().map(|f| (f.spec.key.name.to_string(), (f.revision, f.replicas))).collect()
}

/// What a provider started on the files as they are now would know; the running one is not asked and not ended.
fn after_a_kill(state: &TempDir) -> BTreeMap<String, (u64, u32)> {
    let copy = TempDir::new().unwrap();
    let (from, to) = (state.path().join("state"), copy.path().join("state"));
    std::fs::create_dir(&to).unwrap();
    std::fs::copy(from.join("catalog.redb"), to.join("catalog.redb")).unwrap();
    shape(&open(&copy))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn killed_after_any_acknowledged_change_it_knows_all_of_them(changes in prop::collection::vec(change(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let state = TempDir::new().unwrap();
        let catalog = open(&state);
        let mut highest = 0;
        for change in changes {
            let before = shape(&catalog);
            let is_done = runtime.block_on(async {
                match change.clone() {
                    Change::Create(name) => catalog.create(named(name, 0)).await.is_ok(),
                    Change::Update(name, min) => catalog.update(named(name, min)).await.is_ok(),
                    Change::Scale(name, count) => catalog.scale(named(name, 0).key, count).await.is_ok(),
                    Change::Delete(name) => catalog.delete(named(name, 0).key).await.is_ok(),
                }
            });
            let after = shape(&catalog);
            prop_assert_eq!(&after_a_kill(&state), &after, "{:?}", change);
            let existed = |name: u8| before.contains_key(&format!("f{name}"));
            let is_due = match change {
                Change::Create(name) => !existed(name),
                Change::Update(name, _) | Change::Scale(name, _) | Change::Delete(name) => existed(name),
            };
            prop_assert_eq!(is_done, is_due, "{:?}", change);
            if !is_done {
                prop_assert_eq!(&after, &before);
            }
            if let (true, Change::Create(name) | Change::Update(name, _)) = (is_done, change) {
                let revision = after[&format!("f{name}")].0;
                prop_assert!(revision > highest, "revisions only grow");
                highest = revision;
            }
        }
    }
}

#[tokio::test]
async fn wakes_are_durable_also_when_nobody_waits_and_those_that_come_together_are_one_change() {
    let state = TempDir::new().unwrap();
    let names: Vec<_> = (0..40).map(|index| format!("fn{index}")).collect();
    let key = |name: &str| spec(name, &[]).key;
    {
        let catalog = open(&state);
        for name in &names {
            catalog.create(spec(name, &[("com.openfaas.scale.min", "2")])).await.unwrap();
            catalog.scale(key(name), 0).await.unwrap();
        }
        catalog.create(spec("awake", &[])).await.unwrap();
        let before = *catalog.subscribe().borrow();
        let wakes: Vec<_> = names.iter().map(|name| catalog.wake(&key(name))).collect();
        assert!(wakes.iter().all(|wake| wake.is_first));
        let (again, awake) = (catalog.wake(&key(&names[39])), catalog.wake(&key("awake")));
        assert!(!again.is_first);
        drop(wakes);
        again.ended().await.unwrap();
        awake.ended().await.unwrap();
        assert_eq!(catalog.function(&key("awake")).unwrap().replicas, 1);
        let unknown = catalog.wake(&key("nobody")).ended().await.unwrap_err();
        assert!(matches!(&*unknown, CatalogError::FunctionUnknown(_)), "{unknown}");
        let changes = *catalog.subscribe().borrow() - before;
        assert_eq!(changes, 1, "written together");
        catalog.finish().await;
    }
    let catalog = open(&state);
    for name in &names {
        assert_eq!(catalog.function(&key(name)).unwrap().replicas, 2, "{name}");
    }
}
