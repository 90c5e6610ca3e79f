//! A corner of the Docker engine for one run: a network, reference containers and an image of its own, gone when it is dropped.
//!
//! Touches: the engine, through its command line; temporary files. Everything carries labels and a name no other run has.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{During, Failure, Result, failed};
use crate::stack::{binary, until};

/// What every object of ours carries.
const MANAGED: &str = "com.hyperfaas.managed=true";
/// The function's port behind a watchdog.
const FUNCTION_PORT: u16 = 8082;

/// How often it is looked for what is left in the end, and how long in between.
const CLEARINGS: u32 = 5;
const CLEARING_PAUSE: Duration = Duration::from_millis(500);

/// The corner.
#[derive(Debug)]
pub(crate) struct Corner {
    name: String,
}

/// A running container.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// Its first process, as this machine numbers it.
    pub(crate) pid: u32,
    /// Where it listens, if it does on 8080.
    pub(crate) address: SocketAddr,
}

impl Corner {
    /// An empty corner with its network.
    pub(crate) fn new() -> Result<Self> {
        let name = format!("bench-{}", unique());
        let corner = Self { name };
        let label = corner.label();
        docker(&["network", "create", "--label", MANAGED, "--label", &label, &corner.name])?;
        Ok(corner)
    }

    /// The name of network and installation.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The image with this very program as its function, in mode http.
    pub(crate) fn image(&self) -> String {
        format!("hyperfaas-{}:latest", self.name)
    }

    fn label(&self) -> String {
        // Not the installation itself: its provider would take these containers for its own.
        format!("com.hyperfaas.installation={}-reference", self.name)
    }

    /// Builds [`Corner::image`], with `watchdogs` below `/watchdogs/`, by their names, and `/cat` for fork modes.
    pub(crate) fn build_image(&self, watchdogs: &[(String, PathBuf)]) -> Result<()> {
        self.build_image_of("", watchdogs)
    }

    /// The same with an ordinary user, so that it can be a guest.
    pub(crate) fn build_users_image(&self) -> Result<()> {
        self.build_image_of("USER app\n", &[])
    }

    fn build_image_of(&self, user: &str, watchdogs: &[(String, PathBuf)]) -> Result<()> {
        let context = tempfile::tempdir().during("making a folder")?;
        let put = |from: &Path, to: String| {
            let to = context.path().join(to);
            std::fs::copy(from, &to).during(format!("copying {}", from.display()))
        };
        for folder in ["root/watchdogs", "root/etc", "root/tmp"] {
            std::fs::create_dir_all(context.path().join(folder)).during("making folders")?;
        }
        let own = std::env::current_exe().during("finding this program")?;
        put(&own, "root/bench".to_owned())?;
        put(&binary("bench-cat")?, "root/cat".to_owned())?;
        for (name, path) in watchdogs {
            put(path, format!("root/watchdogs/{name}"))?;
        }
        let passwd = "root:x:0:0::/:/sbin/nologin\napp:x:1000:1000::/:/sbin/nologin\n";
        let dockerfile = format!(
            "FROM scratch\nCOPY root/ /\nENV mode=http upstream_url=http://127.0.0.1:{FUNCTION_PORT} \
             fprocess=\"/bench serve --port {FUNCTION_PORT}\"\n{user}CMD [\"/watchdogs/fwatchdog\"]\n"
        );
        for (file, text) in [("root/etc/passwd", passwd), ("Dockerfile", &dockerfile)] {
            std::fs::write(context.path().join(file), text).during(format!("writing {file}"))?;
        }
        let folder = context.path().display().to_string();
        docker(&["build", "-q", "--label", &self.label(), "-t", &self.image(), &folder]).map(drop)
    }

    /// Starts a container of [`Corner::image`] that runs `command` with further variables.
    pub(crate) fn run(&self, command: &[&str], variables: &[(&str, &str)]) -> Result<Container> {
        let (label, image) = (self.label(), self.image());
        let mut words =
            vec!["run", "-d", "--network", &self.name, "--label", MANAGED, "--label", &label];
        let variables = variables.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        variables.iter().for_each(|variable| words.extend(["-e", variable.as_str()]));
        words.push(&image);
        words.extend(command);
        container(docker(&words)?.trim())
    }

    /// What this very program says inside a container of `image`, in the place of what the image would run.
    pub(crate) fn bench_in(&self, image: &str, words: &[&str]) -> Result<String> {
        const INSIDE: &str = "/hyperfaas-bench";
        let own = std::env::current_exe().during("finding this program")?;
        let (label, mount) = (self.label(), format!("{}:{INSIDE}:ro", own.display()));
        let run = ["run", "--rm", "--network", &self.name, "--label", MANAGED, "--label", &label];
        docker(&[&run[..], &["-v", &mount, "--entrypoint", INSIDE, image], words].concat())
    }

    /// The variables of `image`.
    pub(crate) fn variables(&self, image: &str) -> Result<Vec<(String, String)>> {
        let text = docker(&["image", "inspect", "-f", "{{json .Config.Env}}", image])?;
        let list: Option<Vec<String>> =
            serde_json::from_str(&text).during(format!("reading the variables of {image}"))?;
        let pairs = list.unwrap_or_default().into_iter().filter_map(|variable| {
            let (name, value) = variable.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Ok(pairs.collect())
    }

    /// The running containers of `function` of this corner's provider.
    pub(crate) fn replicas(&self, function: &str) -> Result<Vec<Container>> {
        self.ids(function, "-q")?.split_whitespace().map(container).collect()
    }

    /// The ids of all running containers of this corner's provider, standby ones among them.
    pub(crate) fn running(&self) -> Result<Vec<String>> {
        let installation = format!("label=com.hyperfaas.installation={}", self.name);
        let text = docker(&["ps", "-q", "--filter", &installation])?;
        Ok(text.split_whitespace().map(ToOwned::to_owned).collect())
    }

    /// A running container.
    pub(crate) fn container(&self, id: &str) -> Result<Container> {
        container(id)
    }

    /// Waits until `function` has no container at all, not even an ended one.
    pub(crate) async fn until_at_zero(&self, function: &str) -> Result<()> {
        until(format!("{function} has no container"), async || {
            Ok(self.ids(function, "-aq")?.trim().is_empty())
        })
        .await
    }

    fn ids(&self, function: &str, which: &str) -> Result<String> {
        let installation = format!("label=com.hyperfaas.installation={}", self.name);
        let function = format!("label=com.hyperfaas.function={function}");
        docker(&["ps", which, "--filter", &installation, "--filter", &function])
    }

    /// A container whose start was under way when its provider ended comes only now, and the engine lets go of a container's
    /// storage or network a moment later: so it is looked again until nothing is left.
    fn clear(&self) {
        let mut left = self.remove_all();
        for _ in 1..CLEARINGS {
            if left.is_empty() {
                break;
            }
            std::thread::sleep(CLEARING_PAUSE);
            left = self.remove_all();
        }
        left.iter().for_each(|error| eprintln!("left behind: {error}"));
        let _ = docker(&["image", "rm", "-f", &self.image()]);
    }

    /// What could not be removed, and why.
    fn remove_all(&self) -> Vec<Failure> {
        let labels = [self.label(), format!("com.hyperfaas.installation={}", self.name)];
        let filters = labels.map(|label| format!("label={label}"));
        let mut left = Vec::new();
        // All containers before the network they are in.
        for (list, remove) in [
            (["ps", "-aq"].as_slice(), ["rm", "-fv"].as_slice()),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
            (&["network", "ls", "-q"], &["network", "rm"]),
        ] {
            for filter in &filters {
                let listed = docker(&[list, &["--filter", filter]].concat()).unwrap_or_default();
                let found = listed.split_whitespace().collect::<Vec<_>>();
                if !found.is_empty() {
                    left.extend(docker(&[remove, &found].concat()).err());
                }
            }
        }
        left
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        self.clear();
    }
}

fn container(id: &str) -> Result<Container> {
    let format = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let text = docker(&["inspect", "-f", format, id])?;
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok()).filter(|pid| *pid > 0);
    let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
    let (Some(pid), Some(ip)) = (pid, ip) else {
        let log = docker(&["logs", "--tail", "5", id]).unwrap_or_default();
        return failed(format!("container {id} does not run: {log}"));
    };
    Ok(Container { pid, address: (ip, 8080).into() })
}

/// Runs docker's command line.
pub(crate) fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker")
        .env("DOCKER_BUILDKIT", "0")
        .args(arguments)
        .output()
        .during("running docker")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return failed(format!("docker {}: {error}", arguments.first().unwrap_or(&"")));
    }
    String::from_utf8(output.stdout).map_err(|cause| Failure::During {
        what: "reading docker's output".to_owned(),
        cause: cause.into(),
    })
}

/// Ten letters and digits that no other run has.
fn unique() -> String {
    let nanos = jiff::Timestamp::now().as_nanosecond().unsigned_abs();
    let mixed = nanos.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u128::from(std::process::id());
    format!("{:010x}", mixed & 0xFF_FFFF_FFFF)
}
