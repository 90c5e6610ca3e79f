//! A function's specification: what a deployment asks for, checked once and valid from then on.
//!
//! In: a decoded [`FunctionDeployment`]. Out: a [`FunctionSpec`], or the first mistake as a [`SpecError`].
//! Units: quantities as in [`Bounds`]; sizes in bytes.
//! Always: the deployment is kept byte for byte for the answers; a valid one can be handed to a container engine.
//! Touches: nothing. Whether namespace and secrets exist is the catalog's question.
//! Source: faas-netes' validation and its texts (docs/compat.md); the kernel's limits on one variable.

mod scaling;

use std::sync::Arc;

use hyperfaas_protocol::control::VARIABLE_PREFIX;
use hyperfaas_protocol::names::NameError;
use hyperfaas_protocol::openfaas::{FunctionDeployment, FunctionResources};
use hyperfaas_protocol::quantity::{Cpu, Memory, QuantityError};
use hyperfaas_protocol::{FunctionKey, FunctionName, Namespace, SecretName};

use crate::engine::Bounds;
use crate::engine::reference::Reference;
use crate::scheduler::Scaling;

pub use scaling::{
    MAX_LABEL as SCALE_MAX_LABEL, MIN_LABEL as SCALE_MIN_LABEL, SHARE_RULE, ScalingError,
    share_group,
};

/// Largest total of all strings of one deployment: 1 MiB, ample for labels and below what the kernel starts a process with.
pub const DEPLOYMENT_MAX: usize = 1 << 20;
/// Largest `NAME=value` in the environment: the kernel refuses to start a process with 128 KiB in one string, NUL included.
pub const VARIABLE_MAX: usize = (128 << 10) - 1;

/// What one function is, valid in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionSpec {
    /// Its name and namespace.
    pub key: FunctionKey,
    /// As the user wrote it; answers echo it byte for byte.
    pub deployment: Arc<FunctionDeployment>,
    /// Upper bounds; zero and absent are unbounded.
    pub limits: Bounds,
    /// Reservations; zero and absent are none.
    pub requests: Bounds,
    /// Secrets to be mounted: in the order given, each once.
    pub secrets: Vec<SecretName>,
    /// Label `com.openfaas.scale.min` where it is a positive integer.
    pub scale_min: Option<u32>,
    /// How it may be scaled.
    pub scaling: Arc<Scaling>,
}

/// Why a deployment was refused; each text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The function's name, its namespace or a secret's name.
    #[error("validation failed: {}", describe_name(.0))]
    Name(#[from] NameError),
    /// No image was named.
    #[error("validation failed: image: is required")]
    ImageMissing,
    /// The image's name is no image reference.
    #[error(
        "validation failed: image: ({0}) is invalid, must be an image reference such as registry/name:tag"
    )]
    ImageInvalid(String),
    /// A quantity of `limits` or `requests`.
    #[error("validation failed: {field}: {source}")]
    Quantity {
        /// Such as `limits.memory`.
        field: &'static str,
        /// What is wrong with it.
        source: QuantityError,
    },
    /// A device was asked for.
    #[error("validation failed: {object}.{key}: GPUs are not supported by this provider")]
    Gpu {
        /// `limits` or `requests`.
        object: &'static str,
        /// Such as `nvidia.com/gpu`.
        key: &'static str,
    },
    /// A variable that no process can have.
    #[error("validation failed: envVars: ({name}) is invalid, {reason}")]
    Variable {
        /// The variable's name, shortened.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The command holds a NUL byte.
    #[error("validation failed: envProcess: must not contain a NUL byte")]
    EnvProcess,
    /// Labels that contradict each other.
    #[error(transparent)]
    Scaling(#[from] ScalingError),
    /// All strings together are too long.
    #[error("validation failed: deployment is larger than {DEPLOYMENT_MAX} bytes")]
    TooLarge,
}

/// `service: is required` as faas-netes words it: the field, a colon, the complaint.
fn describe_name(error: &NameError) -> String {
    match error {
        NameError::Missing { what } => format!("{what}: is required"),
        NameError::Invalid { what, text } => {
            format!("{what}: ({text}) is invalid, must be a valid DNS entry")
        }
    }
}

impl FunctionSpec {
    /// Checks `deployment`; an empty namespace means `default`.
    ///
    /// # Errors
    /// [`SpecError`] with the first mistake, in the order of the fields.
    pub fn parse(deployment: FunctionDeployment, default: &Namespace) -> Result<Self, SpecError> {
        Self::check(deployment, default, true)
    }

    /// As [`FunctionSpec::parse`], for one that was accepted before: contradicting labels then count as absent.
    ///
    /// # Errors
    /// As [`FunctionSpec::parse`].
    pub fn parse_kept(
        deployment: FunctionDeployment,
        default: &Namespace,
    ) -> Result<Self, SpecError> {
        Self::check(deployment, default, false)
    }

    fn check(
        deployment: FunctionDeployment,
        default: &Namespace,
        is_new: bool,
    ) -> Result<Self, SpecError> {
        let name = FunctionName::parse(&deployment.service)?;
        check_image(&deployment.image)?;
        let namespace = Namespace::parse_or(&deployment.namespace, default)?;
        check_size(&deployment)?;
        check_environment(&deployment)?;
        let secrets = secrets(&deployment.secrets)?;
        let limits = bounds(deployment.limits.as_ref(), &LIMITS)?;
        let requests = bounds(deployment.requests.as_ref(), &REQUESTS)?;
        let labels = &deployment.labels;
        let scaling = match scaling::parse(labels, &deployment.env_vars, &limits, &requests) {
            Ok(scaling) => scaling,
            Err(error) if is_new => return Err(error.into()),
            Err(_) => scaling::parse_leniently(labels, &deployment.env_vars, &limits, &requests),
        };
        Ok(Self {
            key: FunctionKey { namespace, name },
            limits,
            requests,
            secrets,
            scale_min: scaling::count(labels, scaling::MIN_LABEL),
            scaling: Arc::new(scaling),
            deployment: Arc::new(without_empty_objects(deployment)),
        })
    }

    /// How many replicas a new function begins with, before the provider's own maximum.
    pub fn initial_replicas(&self) -> u32 {
        self.scale_min.unwrap_or(1)
    }

    /// The most replicas it may have where the provider allows `provider_max`; never zero.
    pub fn max_replicas(&self, provider_max: u32) -> u32 {
        self.scaling.max.min(provider_max)
    }
}

/// `"limits": {}` means the same as no limits and is answered so.
fn without_empty_objects(mut deployment: FunctionDeployment) -> FunctionDeployment {
    for object in [&mut deployment.limits, &mut deployment.requests] {
        if object.as_ref().is_some_and(FunctionResources::is_empty) {
            *object = None;
        }
    }
    deployment
}

fn check_image(image: &str) -> Result<(), SpecError> {
    if image.is_empty() {
        return Err(SpecError::ImageMissing);
    }
    if Reference::parse(image).is_some() {
        Ok(())
    } else {
        Err(SpecError::ImageInvalid(shorten(image)))
    }
}

fn check_size(deployment: &FunctionDeployment) -> Result<(), SpecError> {
    let maps = [&deployment.labels, &deployment.annotations, &deployment.env_vars];
    let maps = maps.into_iter().flatten().map(|(key, value)| key.len() + value.len());
    let lists = deployment.secrets.iter().chain(&deployment.constraints).map(String::len);
    let total = maps.chain(lists).sum::<usize>() + deployment.env_process.len();
    if total > DEPLOYMENT_MAX { Err(SpecError::TooLarge) } else { Ok(()) }
}

fn check_environment(deployment: &FunctionDeployment) -> Result<(), SpecError> {
    if deployment.env_process.contains('\0') {
        return Err(SpecError::EnvProcess);
    }
    let all = deployment.env_vars.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in all.chain([("fprocess", deployment.env_process.as_str())]) {
        let complaint = if name.is_empty() {
            "the name must not be empty"
        } else if name.contains(['=', '\0']) {
            "the name must not contain '=' or a NUL byte"
        } else if value.contains('\0') {
            "the value must not contain a NUL byte"
        } else if name.starts_with(VARIABLE_PREFIX) {
            "names beginning with HYPERFAAS_ are reserved"
        } else if name.len() + 1 + value.len() > VARIABLE_MAX {
            "name and value together must be shorter than 128 KiB"
        } else {
            continue;
        };
        return Err(SpecError::Variable { name: shorten(name), reason: complaint });
    }
    Ok(())
}

/// Valid names, first mention first, each once.
fn secrets(names: &[String]) -> Result<Vec<SecretName>, SpecError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut out = Vec::new();
    for name in names {
        let name = SecretName::parse(name)?;
        if seen.insert(name.clone()) {
            out.push(name);
        }
    }
    Ok(out)
}

/// How one object and its fields are called in errors.
struct ObjectNames {
    object: &'static str,
    memory: &'static str,
    cpu: &'static str,
}

const LIMITS: ObjectNames =
    ObjectNames { object: "limits", memory: "limits.memory", cpu: "limits.cpu" };
const REQUESTS: ObjectNames =
    ObjectNames { object: "requests", memory: "requests.memory", cpu: "requests.cpu" };

fn bounds(resources: Option<&FunctionResources>, names: &ObjectNames) -> Result<Bounds, SpecError> {
    let Some(resources) = resources else { return Ok(Bounds::default()) };
    let devices = [
        ("nvidia.com/gpu", &resources.nvidia_gpu),
        ("amd.com/gpu", &resources.amd_gpu),
        ("intel.com/gpu", &resources.intel_gpu),
    ];
    if let Some((key, _)) =
        devices.into_iter().find(|(_, count)| !matches!(count.as_str(), "" | "0"))
    {
        return Err(SpecError::Gpu { object: names.object, key });
    }
    let memory = quantity(&resources.memory, names.memory, Memory::parse)?;
    let cpu = quantity(&resources.cpu, names.cpu, Cpu::parse)?;
    Ok(Bounds { memory: memory.filter(|memory| memory.0 > 0), cpu: cpu.filter(|cpu| cpu.0 > 0) })
}

fn quantity<T>(
    text: &str,
    field: &'static str,
    parse: impl Fn(&str) -> Result<T, QuantityError>,
) -> Result<Option<T>, SpecError> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|source| SpecError::Quantity { field, source })
}

/// A bounded, printable piece of what the user sent.
fn shorten(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
