//! `hyperfaas deploy`.

use std::path::Path;

use hyperfaas_protocol::openfaas::FunctionDeployment;

use crate::api::{DeployMode, Gateway};
use crate::args::DeployArgs;
use crate::deployment::{Additions, from_image, from_stack};
use crate::error::Error;
use crate::output::{complain, say};
use crate::stack::Stack;
use crate::wait::{Target, until_ready};

/// Stack file that is used when none is named, as faas-cli does it.
const DEFAULT_FILE: &str = "stack.yml";

/// Deploys all functions, then waits for those that were accepted.
pub(crate) async fn run(args: DeployArgs) -> Result<(), Error> {
    let mode = match (args.update, args.replace) {
        (true, true) => {
            return Err(Error::Usage(
                "--replace and --update exclude each other; add --update=false".into(),
            ));
        }
        (true, false) => DeployMode::Update,
        (false, true) => DeployMode::Replace,
        (false, false) => DeployMode::Create,
    };
    let (deployments, stack_gateway) = deployments(&args)?;
    let gateway = Gateway::open(&args.gateway, stack_gateway.as_deref(), false)?;
    let mut accepted = Vec::new();
    for deployment in &deployments {
        if deploy(&gateway, deployment, mode, &args).await {
            accepted.push(Target {
                name: deployment.service.clone(),
                namespace: deployment.namespace.clone(),
            });
        }
    }
    let mut failed = deployments.len() - accepted.len();
    if !args.wait.is_zero() {
        failed += until_ready(&gateway, &accepted, args.wait).await;
    }
    if failed == 0 { Ok(()) } else { Err(Error::Some { failed, all: deployments.len() }) }
}

/// What to deploy, in order, and the gateway that the stack file names.
fn deployments(args: &DeployArgs) -> Result<(Vec<FunctionDeployment>, Option<String>), Error> {
    let additions = Additions::of(args)?;
    if let (Some(image), Some(name)) = (&args.image, &args.name) {
        return Ok((vec![from_image(name, image, args.fprocess.as_deref(), additions)], None));
    }
    let file = match &args.stack.file {
        Some(file) => file.as_path(),
        None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
        None => {
            return Err(Error::Usage(
                "name a stack file with -f, or an image with --image and --name".into(),
            ));
        }
    };
    let stack = Stack::load(file, &args.stack)?;
    let gateway = stack.gateway().map(str::to_owned);
    let make =
        |(name, function): (String, _)| from_stack(&name, function, &additions, Path::new("."));
    Ok((stack.functions.into_iter().map(make).collect::<Result<_, _>>()?, gateway))
}

/// Deploys one function and says how that went; whether it was accepted.
async fn deploy(
    gateway: &Gateway,
    deployment: &FunctionDeployment,
    mode: DeployMode,
    args: &DeployArgs,
) -> bool {
    let name = &deployment.service;
    match gateway.deploy(deployment, mode, args.timeout).await {
        Ok(status) => {
            let dot = if deployment.namespace.is_empty() { "" } else { "." };
            let url = format!("{}/function/{name}{dot}{}", gateway.url(), deployment.namespace);
            say(&format!("{name}: deployed, {status}. URL: {url}"));
            true
        }
        Err(error) => {
            complain(&format!("{name}: {error}"));
            false
        }
    }
}
