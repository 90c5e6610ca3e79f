//! The OpenFaaS wire types, with the exact JSON names.
//!
//! Decode requests with [`crate::go_json::decode`]; encode answers with serde. Strings are kept byte for byte.
//! Source: `faas-provider/types`, and what each client sends and needs (docs/compat.md).
//! Always: maps in answers are objects, never `null`; integers are plain; empty optional parts are left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::go_json::{GoFields, Kind};

/// A map of strings; sorted, so answers are stable.
pub type StringMap = BTreeMap<String, String>;

/// The body of `POST` and `PUT /system/functions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FunctionDeployment {
    /// The function's name.
    pub service: String,
    /// The image, as the user wrote it.
    pub image: String,
    /// Empty is the default namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Becomes the variable `fprocess`; empty leaves the image's own value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub env_process: String,
    /// Environment of the function.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub env_vars: StringMap,
    /// Placement expressions; echoed, not interpreted on one host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Names of existing secrets, in the order given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Labels; always sent, as faas-cli does.
    pub labels: StringMap,
    /// Annotations; always sent, as faas-cli does.
    pub annotations: StringMap,
    /// Upper bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunctionResources>,
    /// Wishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<FunctionResources>,
    /// Root read-only, `/tmp` writable.
    #[serde(rename = "readOnlyRootFilesystem", skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
}

impl GoFields for FunctionDeployment {
    const FIELDS: &'static [(&'static str, Kind)] = &[
        ("service", Kind::Scalar),
        ("image", Kind::Scalar),
        ("namespace", Kind::Scalar),
        ("envProcess", Kind::Scalar),
        ("envVars", Kind::Strings),
        ("constraints", Kind::Strings),
        ("secrets", Kind::Strings),
        ("labels", Kind::Strings),
        ("annotations", Kind::Strings),
        ("limits", Kind::Struct(RESOURCE_FIELDS)),
        ("requests", Kind::Struct(RESOURCE_FIELDS)),
        ("readOnlyRootFilesystem", Kind::Scalar),
    ];
}

const RESOURCE_FIELDS: &[&str] =
    &["memory", "cpu", "nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"];

/// `limits` or `requests`; quantities exactly as given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionResources {
    /// Such as `128Mi`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub memory: String,
    /// Such as `100m`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpu: String,
    /// Number of NVIDIA devices.
    #[serde(rename = "nvidia.com/gpu", skip_serializing_if = "String::is_empty")]
    pub nvidia_gpu: String,
    /// Number of AMD devices.
    #[serde(rename = "amd.com/gpu", skip_serializing_if = "String::is_empty")]
    pub amd_gpu: String,
    /// Number of Intel devices.
    #[serde(rename = "intel.com/gpu", skip_serializing_if = "String::is_empty")]
    pub intel_gpu: String,
}

impl FunctionResources {
    /// Whether nothing is set; such an object is treated as not given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One function in the answers of list and status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The function's name.
    pub name: String,
    /// The image, as the user wrote it.
    pub image: String,
    /// The namespace; always set, the Go gateway builds metric names from it.
    #[serde(default)]
    pub namespace: String,
    /// `fprocess` of the deployment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub env_process: String,
    /// The user's variables; left out when empty, which the certifier insists on.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub env_vars: StringMap,
    /// As deployed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// As deployed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The user's plus `faas_function`.
    #[serde(default)]
    pub labels: StringMap,
    /// The user's.
    #[serde(default)]
    pub annotations: StringMap,
    /// As deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<FunctionResources>,
    /// As deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<FunctionResources>,
    /// As deployed.
    #[serde(
        default,
        rename = "readOnlyRootFilesystem",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub read_only_root_filesystem: bool,
    /// Calls counted by a gateway; a provider leaves it out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub invocation_count: u64,
    /// Desired.
    #[serde(default)]
    pub replicas: u64,
    /// Able to answer now.
    #[serde(default)]
    pub available_replicas: u64,
    /// When the function was first created; survives updates and restarts.
    pub created_at: Timestamp,
    /// Present when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<FunctionUsage>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What a function's replicas use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FunctionUsage {
    /// Milli-CPUs.
    pub cpu: f64,
    /// Bytes.
    pub total_memory_bytes: f64,
}

/// The body of `DELETE /system/functions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteFunctionRequest {
    /// The function's name.
    pub function_name: String,
    /// Empty: the query's, else the default namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

impl GoFields for DeleteFunctionRequest {
    const FIELDS: &'static [(&'static str, Kind)] =
        &[("functionName", Kind::Scalar), ("namespace", Kind::Scalar)];
}

/// The body of `POST /system/scale-function/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleServiceRequest {
    /// Repeats the name of the path, which wins.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// Desired replicas; `None` when the body named none, which is an error.
    pub replicas: Option<u64>,
    /// Empty: the query's, else the default namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

impl GoFields for ScaleServiceRequest {
    const FIELDS: &'static [(&'static str, Kind)] =
        &[("serviceName", Kind::Scalar), ("replicas", Kind::Scalar), ("namespace", Kind::Scalar)];
}

/// A secret in requests, and without its value in lists.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Its name, also the file's.
    pub name: String,
    /// Empty is the default namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Text value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Base64 of raw bytes; wins over `value` when not empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub raw_value: String,
}

impl std::fmt::Debug for Secret {
    /// Never shows the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl GoFields for Secret {
    const FIELDS: &'static [(&'static str, Kind)] = &[
        ("name", Kind::Scalar),
        ("namespace", Kind::Scalar),
        ("value", Kind::Scalar),
        ("rawValue", Kind::Scalar),
    ];
}

/// A namespace in requests and answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionNamespace {
    /// Its name.
    pub name: String,
    /// Annotations.
    pub annotations: StringMap,
    /// Labels.
    pub labels: StringMap,
}

impl GoFields for FunctionNamespace {
    const FIELDS: &'static [(&'static str, Kind)] =
        &[("name", Kind::Scalar), ("annotations", Kind::Strings), ("labels", Kind::Strings)];
}

/// One line of `GET /system/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMessage {
    /// The function's name.
    pub name: String,
    /// The function's namespace.
    pub namespace: String,
    /// The replica.
    pub instance: String,
    /// When the engine received it.
    pub timestamp: Timestamp,
    /// The raw line.
    pub text: String,
}

/// A provider's or gateway's version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionInfo {
    /// Commit message, gateway only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit_message: String,
    /// Commit.
    pub sha: String,
    /// Version number.
    pub release: String,
}

/// `GET /system/info` of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderInfo {
    /// The provider's name.
    pub provider: String,
    /// Its version.
    pub version: VersionInfo,
    /// What it runs functions on.
    pub orchestration: String,
}

/// `GET /system/info` of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayInfo {
    /// The provider's answer; always an object, faas-cli crashes without it.
    pub provider: ProviderInfo,
    /// The gateway's version.
    pub version: VersionInfo,
    /// Such as `x86_64`.
    pub arch: String,
}
