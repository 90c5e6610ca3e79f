//! Claims about [`FunctionSpec::parse`].

use hyperfaas_protocol::openfaas::StringMap;
use proptest::prelude::*;

use super::*;

fn default() -> Namespace {
    Namespace::parse("openfaas-fn").unwrap()
}

fn deployment() -> FunctionDeployment {
    FunctionDeployment {
        service: "fn1".into(),
        image: "a/b:c".into(),
        ..FunctionDeployment::default()
    }
}

fn refusal(change: impl FnOnce(&mut FunctionDeployment)) -> String {
    let mut deployment = deployment();
    change(&mut deployment);
    FunctionSpec::parse(deployment, &default()).unwrap_err().to_string()
}

fn map(pairs: &[(&str, &str)]) -> StringMap {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_minimal_deployment_gets_one_replica_in_the_default_namespace() {
    let spec = FunctionSpec::parse(deployment(), &default()).unwrap();
    assert_eq!(spec.key.to_string(), "fn1.openfaas-fn");
    assert_eq!((spec.initial_replicas(), spec.max_replicas(100)), (1, 100));
    assert_eq!((spec.limits, spec.requests), (Bounds::default(), Bounds::default()));
}

#[test]
fn each_mistake_has_the_text_openfaas_users_know() {
    assert_eq!(refusal(|d| d.service.clear()), "validation failed: service: is required");
    assert_eq!(
        refusal(|d| d.service = "Fn_1".into()),
        "validation failed: service: (Fn_1) is invalid, must be a valid DNS entry"
    );
    assert_eq!(refusal(|d| d.image.clear()), "validation failed: image: is required");
    assert_eq!(
        refusal(|d| d.image = "a b".into()),
        "validation failed: image: (a b) is invalid, must be an image reference such as registry/name:tag"
    );
    assert_eq!(
        refusal(|d| d.namespace = "../x".into()),
        "validation failed: namespace: (../x) is invalid, must be a valid DNS entry"
    );
    assert_eq!(
        refusal(|d| d.secrets = vec!["../etc/passwd".into()]),
        "validation failed: secret name: (../etc/passwd) is invalid, must be a valid DNS entry"
    );
    assert_eq!(
        refusal(
            |d| d.limits = Some(FunctionResources { memory: "12x".into(), ..Default::default() })
        ),
        "validation failed: limits.memory: invalid quantity \"12x\""
    );
    assert_eq!(
        refusal(|d| d.requests = Some(FunctionResources { cpu: "-1".into(), ..Default::default() })),
        "validation failed: requests.cpu: invalid quantity \"-1\""
    );
    assert_eq!(
        refusal(
            |d| d.limits = Some(FunctionResources { nvidia_gpu: "1".into(), ..Default::default() })
        ),
        "validation failed: limits.nvidia.com/gpu: GPUs are not supported by this provider"
    );
}

#[test]
fn variables_that_no_process_can_have_are_refused() {
    for (name, value) in
        [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0y"), ("HYPERFAAS_BOOT", "x")]
    {
        let text = refusal(|d| d.env_vars = map(&[(name, value)]));
        assert!(
            text.starts_with("validation failed: envVars: (") && !text.contains('\0'),
            "{text}"
        );
    }
    let just_too_long = "x".repeat(VARIABLE_MAX - 1);
    assert!(refusal(|d| d.env_vars = map(&[("n", &just_too_long)])).contains("128 KiB"));
    assert!(refusal(|d| d.env_process = "a\0b".into()).contains("envProcess"));
}

#[test]
fn the_whole_deployment_is_bounded() {
    let big = "x".repeat(DEPLOYMENT_MAX);
    assert!(refusal(|d| d.labels = map(&[("l", &big)])).contains("larger than"));
    assert!(refusal(|d| d.annotations = map(&[("l", &big)])).contains("larger than"));
    assert!(refusal(|d| d.constraints = vec![big.clone(), "x".into()]).contains("larger than"));
}

#[test]
fn quantities_are_read_and_zero_means_unset() {
    let mut deployment = deployment();
    deployment.limits =
        Some(FunctionResources { memory: "5Mi".into(), cpu: "100m".into(), ..Default::default() });
    deployment.requests = Some(FunctionResources { memory: "0".into(), ..Default::default() });
    let spec = FunctionSpec::parse(deployment, &default()).unwrap();
    assert_eq!(spec.limits, Bounds { memory: Some(Memory(5 << 20)), cpu: Some(Cpu(100_000_000)) });
    assert_eq!(spec.requests, Bounds::default());
}

#[test]
fn an_empty_object_is_the_same_as_none() {
    let mut deployment = deployment();
    deployment.limits = Some(FunctionResources::default());
    let spec = FunctionSpec::parse(deployment, &default()).unwrap();
    assert_eq!(spec.deployment.limits, None);
}

#[test]
fn secrets_keep_their_order_and_lose_duplicates_while_the_echo_keeps_them() {
    let mut deployment = deployment();
    deployment.secrets = ["b", "a", "b"].map(str::to_owned).to_vec();
    let spec = FunctionSpec::parse(deployment, &default()).unwrap();
    assert_eq!(spec.secrets.iter().map(SecretName::as_str).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(spec.deployment.secrets, ["b", "a", "b"]);
}

#[test]
fn scale_labels_count_only_as_positive_integers() {
    for (min, max, initial, highest) in [
        ("2", "5", 2, 5),
        ("0", "0", 1, 100),
        ("x", "-1", 1, 100),
        ("", "1.5", 1, 100),
        ("3", "1000", 3, 100),
    ] {
        let mut deployment = deployment();
        deployment.labels = map(&[(SCALE_MIN_LABEL, min), (SCALE_MAX_LABEL, max)]);
        let spec = FunctionSpec::parse(deployment, &default()).unwrap();
        assert_eq!(
            (spec.initial_replicas(), spec.max_replicas(100)),
            (initial, highest),
            "{min} {max}"
        );
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_keeps_the_deployment_verbatim(
        service in "[a-z-]{0,8}|\\PC{0,8}",
        image in "[a-z/:.]{1,10}|\\PC{0,8}",
        memory in "[0-9kMi.]{0,6}",
        label in "\\PC{0,8}",
    ) {
        let deployment = FunctionDeployment {
            service, image,
            limits: Some(FunctionResources { memory, ..Default::default() }),
            labels: map(&[(SCALE_MIN_LABEL, &label)]),
            ..Default::default()
        };
        match FunctionSpec::parse(deployment.clone(), &default()) {
            Ok(spec) => {
                prop_assert_eq!(&spec.deployment.service, &deployment.service);
                prop_assert_eq!(&spec.deployment.image, &deployment.image);
                prop_assert_eq!(&spec.deployment.labels, &deployment.labels);
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
