//! A registry of one image, with a login: enough of the distribution API for an engine to pull from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The registry; ends when dropped.
pub(super) struct Registry {
    /// Where it listens, on loopback, which engines trust without TLS.
    pub(super) address: SocketAddr,
    /// The digest of its image.
    pub(super) digest: String,
    pulls: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

struct Content {
    /// What `Authorization` must say; `None` lets everybody in.
    login: Option<String>,
    /// By the end of their paths.
    parts: HashMap<String, (&'static str, Bytes)>,
    digest: String,
    pulls: Arc<AtomicUsize>,
}

impl Registry {
    /// Serves `test/image:v1`; `login` is base64 of `user:password`.
    pub(super) async fn start(login: Option<&str>) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let unique = uuid::Uuid::new_v4().to_string();
        header.set_size(unique.len() as u64);
        archive.append_data(&mut header, "unique", unique.as_bytes()).unwrap();
        let layer = Bytes::from(archive.into_inner().unwrap());
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/server"], "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = Bytes::from(config.to_string());
        let part = |kind: &str, bytes: &Bytes| json!({ "mediaType": kind, "size": bytes.len(), "digest": digest(bytes) });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("application/vnd.docker.container.image.v1+json", &config),
            "layers": [part("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
        });
        let manifest = Bytes::from(manifest.to_string());
        let of_manifest = digest(&manifest);
        let parts = HashMap::from([
            (format!("blobs/{}", digest(&layer)), ("application/octet-stream", layer)),
            (format!("blobs/{}", digest(&config)), ("application/octet-stream", config)),
            (format!("manifests/{of_manifest}"), (MANIFEST, manifest.clone())),
            ("manifests/v1".to_owned(), (MANIFEST, manifest)),
        ]);
        let pulls = Arc::new(AtomicUsize::new(0));
        let login = login.map(|login| format!("Basic {login}"));
        let content =
            Content { login, parts, digest: of_manifest.clone(), pulls: Arc::clone(&pulls) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::new(content));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, digest: of_manifest, pulls, serving }
    }

    /// The reference of its image.
    pub(super) fn image(&self) -> String {
        format!("{}/test/image:v1", self.address)
    }

    /// How often the layer was loaded.
    pub(super) fn pulls(&self) -> usize {
        self.pulls.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    State(content): State<Arc<Content>>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if content.login.as_deref().is_some_and(|login| given != Some(login)) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")])
            .into_response();
    }
    let path = request.uri().path();
    if path == "/v2/" {
        return StatusCode::OK.into_response();
    }
    match path.strip_prefix("/v2/test/image/").and_then(|part| content.parts.get_key_value(part)) {
        Some((name, (kind, bytes))) => {
            if name.starts_with("blobs/") && *kind != MANIFEST && !bytes.starts_with(b"{") {
                content.pulls.fetch_add(1, Ordering::Relaxed);
            }
            let headers = [
                ("content-type", (*kind).to_owned()),
                ("docker-content-digest", content.digest.clone()),
            ];
            (headers, bytes.clone()).into_response()
        }
        None => (
            StatusCode::NOT_FOUND,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#,
        )
            .into_response(),
    }
}

/// The digest of `bytes`, as registries write it.
fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash: String =
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}
