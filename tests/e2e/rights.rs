//! What the provider may do beyond the engine's API: with the rights of docker-compose.yml all of it, with fewer it says so.
//!
//! The first tests run this very program again in a container: nothing else is as close to a provider in a container that
//! makes slots.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{LogsOptionsBuilder, WaitContainerOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::docker::{Corner, host};
use crate::support::stack::{PATIENCE, Stack, probe_image};

/// The test that makes slots, by its name in this program.
const MAKES_SLOTS: &str = "e2e::slots::nothing_is_left_of_a_slot_after_many_rounds";

/// What a service of the compose file may do.
#[derive(Debug, Clone, Deserialize)]
struct Rights {
    #[serde(default)]
    pid: Option<String>,
    #[serde(default)]
    cap_drop: Vec<String>,
    #[serde(default)]
    cap_add: Vec<String>,
    #[serde(default)]
    security_opt: Vec<String>,
    #[serde(default)]
    privileged: bool,
}

#[derive(Debug, Deserialize)]
struct Compose {
    services: HashMap<String, Rights>,
}

fn of_compose_file() -> Rights {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-compose.yml");
    let compose: Compose = serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    compose.services["provider"].clone()
}

/// Runs [`MAKES_SLOTS`] in a container with `rights`; its exit status and what it said.
async fn make_slots(corner: &Corner, rights: Rights) -> (i64, String) {
    let program = std::env::current_exe().unwrap();
    // The stand-in lies beside it, and is looked for where it was built.
    let built = program.ancestors().nth(2).unwrap().to_str().unwrap().to_owned();
    let socket = host().strip_prefix("unix://").expect("the tests' engine is local").to_owned();
    let bind = |path: String, is_read_only| Mount {
        typ: Some(MountType::BIND),
        source: Some(path.clone()),
        target: Some(path),
        read_only: Some(is_read_only),
        ..Mount::default()
    };
    let state = Mount {
        typ: Some(MountType::VOLUME),
        target: Some("/state".to_owned()),
        ..Mount::default()
    };
    let body = ContainerCreateBody {
        image: Some(corner.image()),
        user: Some("0".to_owned()),
        entrypoint: Some(vec![program.to_str().unwrap().to_owned()]),
        cmd: Some([MAKES_SLOTS, "--exact", "--nocapture"].map(str::to_owned).to_vec()),
        env: Some(vec![
            "TMPDIR=/state".to_owned(),
            "HYPERFAAS_SLOT_ROUNDS=100".to_owned(),
            format!("DOCKER_HOST={}", host()),
        ]),
        labels: Some(HashMap::from([
            ("com.hyperfaas.managed".to_owned(), "true".to_owned()),
            ("com.hyperfaas.installation".to_owned(), format!("{}-1", corner.name)),
        ])),
        host_config: Some(HostConfig {
            pid_mode: rights.pid,
            cap_drop: Some(rights.cap_drop),
            cap_add: Some(rights.cap_add),
            security_opt: Some(rights.security_opt),
            privileged: Some(rights.privileged),
            mounts: Some(vec![bind(built, true), bind(socket, false), state]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let id = corner.docker.create_container(None, body).await.unwrap().id;
    corner.docker.start_container(&id, None).await.unwrap();
    let options = WaitContainerOptionsBuilder::default().build();
    let mut ending = corner.docker.wait_container(&id, Some(options));
    let status = match timeout(PATIENCE, ending.next()).await.expect("it ends").expect("an end") {
        Ok(ended) => ended.status_code,
        Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => panic!("{error}"),
    };
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let pieces: Vec<_> = corner.docker.logs(&id, Some(options)).try_collect().await.unwrap();
    (status, pieces.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn the_rights_of_the_compose_file_are_enough() {
    let corner = Corner::new().await;
    let rights = of_compose_file();
    assert!(!rights.privileged, "{rights:?}");
    let (status, said) = make_slots(&corner, rights).await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("100 rounds: made in"), "{said}");
}

#[tokio::test]
async fn each_missing_right_is_named() {
    let corner = Corner::new().await;
    let all = of_compose_file();
    let without = |capability: &str| Rights {
        cap_add: all.cap_add.iter().filter(|name| *name != capability).cloned().collect(),
        ..all.clone()
    };
    for (rights, reason) in [
        (Rights { pid: None, ..all.clone() }, "slots are off: the host's pid namespace"),
        (without("SYS_ADMIN"), "slots are off: capability SYS_ADMIN (mounts and namespaces);"),
        (without("SYS_PTRACE"), "slots are off: capability SYS_PTRACE (entering containers);"),
        (without("SETFCAP"), "slots are off: capability SETFCAP (unpacking images);"),
    ] {
        let (status, said) = make_slots(&corner, rights).await;
        assert!(status != 0 && said.contains(reason), "{reason}: {said}");
    }
}

#[tokio::test]
async fn what_is_deployed_gets_a_root_and_what_is_deleted_loses_it() {
    let mut stack = Stack::start_with(&[("HYPERFAAS_SLOTS", "true")]).await;
    assert_eq!(stack.logged("abilities on this host", "slots").await, "on");
    let told = stack.info().await;
    assert_eq!(told["provider"], "hyperfaas", "OpenFaaS' own fields are as they were");
    assert_eq!(told["hyperfaas"]["abilities"]["slots"], json!({ "on": true }));
    stack.deploy("f", probe_image(), json!({})).await;
    let ready = async |count: u64| stack.info().await["hyperfaas"]["roots"]["ready"] == count;
    stack.eventually("its root is made", async || ready(1).await).await;
    assert!(stack.info().await["hyperfaas"]["roots"]["bytes"].as_u64().unwrap() > 0);
    stack.delete("f").await;
    stack.eventually("its root is removed", async || ready(0).await).await;
    assert!(stack.terminate().await);
}

#[tokio::test]
async fn without_the_setting_nothing_is_unpacked_and_that_is_said() {
    let mut stack = Stack::start().await;
    let said = stack.logged("abilities on this host", "slots").await;
    assert_eq!(said, "off: HYPERFAAS_SLOTS is not true");
    let told = stack.info().await;
    assert_eq!(told["hyperfaas"]["abilities"]["slots"]["on"], false);
    assert_eq!(told["hyperfaas"]["roots"], Value::Null);
}
