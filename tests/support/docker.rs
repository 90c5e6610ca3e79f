//! A corner of the real Docker engine for one test: its own installations, network and image, gone when it is dropped.
//!
//! Fails loudly where no engine answers: these tests are not optional.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::Docker;
use bollard::body_full;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, RemoveVolumeOptionsBuilder,
};
use futures_util::TryStreamExt;
use hyperfaas_protocol::control::Boot;
use hyperfaas_provider::engine::docker::{DEFAULT_HOST, DockerConfig, DockerEngine};
use hyperfaas_provider::engine::{Bounds, ReplicaId, StandbyOrder};
use uuid::Uuid;

/// An order for a standby container that nobody else has the name of, with the key `key`.
pub(crate) fn standby_order() -> StandbyOrder {
    StandbyOrder {
        name: ReplicaId(format!("standby.{}", &Uuid::new_v4().simple().to_string()[..10])),
        boot: Boot::standby("key".into()),
        limits: Bounds::default(),
    }
}

/// The corner.
pub(crate) struct Corner {
    /// A client that is not the code under test.
    pub(crate) docker: Docker,
    /// Unlike any other corner's.
    pub(crate) name: String,
    /// References of images that the test pulls.
    pub(crate) pulled: Vec<String>,
}

impl Corner {
    /// A corner with an image that names a user and variables, holds the stand-in as `/server`, and has no shell.
    pub(crate) async fn new() -> Self {
        let docker = client();
        docker.ping().await.expect("a Docker engine answers; these tests need one");
        let corner = Self {
            docker,
            name: format!("contract-{}", &Uuid::new_v4().simple().to_string()[..12]),
            pulled: Vec::new(),
        };
        corner.build_image().await;
        corner
    }

    /// The reference of the corner's image.
    pub(crate) fn image(&self) -> String {
        format!("hyperfaas-{}:v1", self.name)
    }

    /// The corner's network.
    pub(crate) fn network(&self) -> String {
        self.name.clone()
    }

    /// The configuration of an engine for the corner's installation number `number`, with the stand-in for a watchdog.
    pub(crate) fn config(&self, number: u32) -> DockerConfig {
        let watchdog = PathBuf::from(env!("CARGO_BIN_EXE_stand-in"));
        DockerConfig::new(&host(), &self.network(), &self.installation(number), watchdog)
    }

    /// An engine for the corner's installation number `number`.
    pub(crate) fn engine(&self, number: u32) -> DockerEngine {
        DockerEngine::new(self.config(number)).expect("the stand-in is a static program")
    }

    fn installation(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    async fn build_image(&self) {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(3);
        archive.append_data(&mut header, "srv/it", &b"it\n"[..]).unwrap();
        header.set_mode(0o600);
        header.set_uid(1000);
        header.set_gid(1000);
        archive.append_data(&mut header, "srv/own", &b"it\n"[..]).unwrap();
        let stand_in = std::fs::read(env!("CARGO_BIN_EXE_stand-in")).unwrap();
        header.set_mode(0o755);
        header.set_size(stand_in.len() as u64);
        archive.append_data(&mut header, "server", stand_in.as_slice()).unwrap();
        let changes = [
            "USER 1000:1000",
            "ENV FROM_IMAGE=yes BOTH=image",
            "WORKDIR /srv",
            "ENTRYPOINT [\"/server\"]",
            "CMD [\"a\",\"b c\"]",
        ];
        let (name, tag) = (format!("hyperfaas-{}", self.name), "v1");
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(&name)
            .tag(tag)
            .changes(changes.into_iter().map(str::to_owned).collect())
            .build();
        let body = body_full(archive.into_inner().unwrap().into());
        self.docker
            .create_image(Some(options), Some(body), None)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
    }

    /// Names of the volumes with secrets, of all the corner's installations.
    pub(crate) async fn secret_volumes(&self) -> Vec<String> {
        self.volumes("secrets").await
    }

    async fn volumes(&self, role: &str) -> Vec<String> {
        let mut names = Vec::new();
        for number in 1..=2 {
            let labels = vec![
                format!("com.hyperfaas.role={role}"),
                format!("com.hyperfaas.installation={}", self.installation(number)),
            ];
            let filters = HashMap::from([("label".to_owned(), labels)]);
            let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
            let listed = self.docker.list_volumes(Some(options)).await.unwrap();
            names.extend(listed.volumes.unwrap_or_default().into_iter().map(|volume| volume.name));
        }
        names
    }

    /// Ids of every container of the corner, helpers included.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for number in 1..=2 {
            let filters = HashMap::from([(
                "label".to_owned(),
                vec![format!("com.hyperfaas.installation={}", self.installation(number))],
            )]);
            let options =
                ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
            ids.extend(
                self.docker
                    .list_containers(Some(options))
                    .await
                    .unwrap()
                    .into_iter()
                    .filter_map(|row| row.id),
            );
        }
        ids
    }

    /// Removes everything; says so where the engine would not.
    async fn clear(&self) {
        let force = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        // Storage drivers need a second attempt now and then.
        for _ in 0..5 {
            for id in self.containers().await {
                let _ = self.docker.remove_container(&id, Some(force.clone())).await;
            }
        }
        let left = self.containers().await;
        if !left.is_empty() {
            eprintln!("containers left behind: {left:?}");
        }
        for volume in [self.volumes("secrets").await, self.volumes("watchdog").await].concat() {
            let options = RemoveVolumeOptionsBuilder::default().build();
            let _ = self.docker.remove_volume(&volume, Some(options)).await;
        }
        let _ = self.docker.remove_network(&self.network()).await;
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        for image in self.pulled.iter().chain([&self.image()]) {
            let _ = self.docker.remove_image(image, Some(options.clone()), None).await;
        }
    }
}

impl Drop for Corner {
    /// On a thread of its own: a test's runtime may be the one that is unwinding.
    fn drop(&mut self) {
        let (name, pulled) = (self.name.clone(), std::mem::take(&mut self.pulled));
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let corner = std::mem::ManuallyDrop::new(Self { docker: client(), name, pulled });
            runtime.block_on(corner.clear());
        });
        let _ = cleaning.join();
    }
}

/// The engine the tests use, as the `docker` program would choose it.
pub(crate) fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| DEFAULT_HOST.to_owned())
}

fn client() -> Docker {
    let host = host();
    Docker::connect_with_host(&host)
        .unwrap_or_else(|error| panic!("no Docker engine at {host}: {error}"))
}
