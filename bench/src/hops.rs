//! The hops of a ladder: containers and programs are started, called once, and looked at.
//!
//! In: which others to put beside ours. Out: [`Scene`]: the [`Hop`]s and what must live while they are called, and what each
//! watchdog weighs. All hops have the function in a container of the same network, so the way to it costs the same.
//! Touches: the engine, processes.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use hyperfaas_protocol::control::{BOOT_VARIABLE, Boot, CONTROL_PORT};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::corner::{Container, Corner};
use crate::failure::{During, Result, failed};
use crate::ladder::{DIRECT, Hop};
use crate::load::Target;
use crate::stack::{Program, Stack, binary, get, post, until};
use crate::usage;

/// Name of our watchdog in tables and in the image.
const OURS: &str = "fwatchdog";
/// The hop through port 8080 of our watchdog.
pub(crate) const VIA_8080: &str = OURS;
/// The same over a lane.
pub(crate) const VIA_LANE: &str = "fwatchdog, over a lane";
/// What the lane of the hop without a provider is opened with; nothing else has it.
const LANE_KEY: &str = "bench";
/// A call that its function answers only after so long is under way, and no other of it begins, as long as anything is measured.
const NEVER_MS: u32 = 60_000;

/// What stands beside ours.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Watchdogs for mode http, by name.
    pub(crate) watchdogs: Vec<(String, PathBuf)>,
    /// Watchdogs that fork per request, by name.
    pub(crate) classics: Vec<(String, PathBuf)>,
    /// Anything that answers at a URL, by name.
    pub(crate) urls: Vec<(String, String)>,
}

/// What a program weighs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Weight {
    /// The program.
    pub(crate) name: String,
    /// Of its file, bytes.
    pub(crate) file_bytes: u64,
    /// Resident after a first call, bytes; without the function, with helpers of its own.
    pub(crate) idle_bytes: u64,
    /// Resident after all calls, bytes.
    pub(crate) after_bytes: u64,
}

/// Hops, alive as long as this is.
#[derive(Debug)]
pub(crate) struct Scene {
    /// To be called.
    pub(crate) hops: Vec<Hop>,
    /// Watchdogs, provider, gateway, with their processes.
    weighed: Vec<(Weight, Vec<u32>)>,
    stacks: Vec<Stack>,
    gateway: Option<Program>,
    corner: Corner,
    /// Of the further providers: two of one installation would remove each other's containers.
    corners: Vec<Corner>,
}

impl Scene {
    /// The function alone, behind our watchdog and the other ones, each alone; and behind provider and gateway if `is_whole`.
    pub(crate) async fn http(others: &Others, is_whole: bool) -> Result<Self> {
        let corner = Corner::new()?;
        let watchdogs = with_ours(&others.watchdogs)?;
        corner.build_image(&watchdogs)?;
        let mut scene = Self::empty(corner);
        let direct = scene.corner.run(&["/bench", "serve", "--port", "8080"], &[])?;
        let processes = vec![("function".to_owned(), direct.pid)];
        scene.add(DIRECT, get(direct.address, "/"), processes).await?;
        for (name, path) in &watchdogs {
            let container = scene.corner.run(&[&format!("/watchdogs/{name}")], &[])?;
            let target = get(container.address, "/");
            answers(&target).await?;
            scene.weigh(name, path, &own(container.pid))?;
            scene.add(name, target, by_role(&container)).await?;
        }
        scene.lane().await?;
        if is_whole {
            scene.whole().await?;
        }
        for (name, url) in &others.urls {
            let (address, path) = resolve(url)?;
            scene.add(name, get(address, &path), Vec::new()).await?;
        }
        Ok(scene)
    }

    /// Our watchdog and the other ones that fork a process for each request; and ours behind the provider if `is_whole`.
    pub(crate) async fn fork(others: &Others, is_whole: bool) -> Result<Self> {
        let corner = Corner::new()?;
        let watchdogs = with_ours(&others.classics)?;
        corner.build_image(&watchdogs)?;
        let mut scene = Self::empty(corner);
        for (name, _) in &watchdogs {
            let variables = [("mode", ""), ("upstream_url", ""), ("fprocess", "/cat")];
            let container = scene.corner.run(&[&format!("/watchdogs/{name}")], &variables)?;
            let processes = vec![("watchdog+forks".to_owned(), container.pid)];
            scene.add(&format!("fork: {name}"), post(container.address, "/"), processes).await?;
        }
        if is_whole {
            scene.whole_fork().await?;
        }
        Ok(scene)
    }

    fn empty(corner: Corner) -> Self {
        let (hops, weighed, stacks, corners) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { hops, weighed, stacks, gateway: None, corner, corners }
    }

    /// Our watchdog, called as a provider calls it.
    async fn lane(&mut self) -> Result<()> {
        let boot = Boot { is_standby: false, ..Boot::standby(LANE_KEY.to_owned()) };
        let boot = serde_json::to_string(&boot).during("writing a watchdog's orders")?;
        let command = format!("/watchdogs/{OURS}");
        let container = self.corner.run(&[&command], &[(BOOT_VARIABLE, &boot)])?;
        answers(&get(container.address, "/")).await?;
        let address = (container.address.ip(), CONTROL_PORT).into();
        let target = Target { lane_key: Some(LANE_KEY.into()), ..get(address, "/") };
        self.add(VIA_LANE, target, by_role(&container)).await
    }

    async fn whole(&mut self) -> Result<()> {
        let stack = Stack::start(&self.corner, &[]).await?;
        let labels = json!({ "labels": { "com.openfaas.scale.max": "1" } });
        stack.deploy("reference", &self.corner.image(), labels).await?;
        stack.until_available("reference", 1).await?;
        let Some(replica) = self.corner.replicas("reference")?.into_iter().next() else {
            return failed("the provider has started no container");
        };
        let behind = by_role(&replica);
        let through = |more: &[(&str, u32)]| {
            let more = more.iter().map(|(role, pid)| ((*role).to_owned(), *pid));
            behind.iter().cloned().chain(more).collect::<Vec<_>>()
        };
        let (gateway, address) = stack.gateway().await?;
        let provider = ("provider", stack.provider.pid());
        self.weigh("hyperfaas-provider", &binary("hyperfaas-provider")?, &[provider.1])?;
        self.weigh("hyperfaas-gateway", &binary("hyperfaas-gateway")?, &[gateway.pid()])?;
        let path = "/function/reference";
        let (inside, apart) = (stack.gateway_address, ("gateway", gateway.pid()));
        for (name, target, processes) in [
            ("the provider's container, port 8080", get(replica.address, "/"), through(&[])),
            ("provider", get(stack.provider_address, path), through(&[provider])),
            ("gateway in the provider's process", get(inside, path), through(&[provider])),
            ("gateway in its own process", get(address, path), through(&[provider, apart])),
        ] {
            self.add(name, target, processes).await?;
        }
        self.stacks.push(stack);
        self.gateway = Some(gateway);
        Ok(())
    }

    /// Calls that are on disk when they are answered. Their function answers none in time, so that nothing but accepting is
    /// measured, and its gateway serves no other hop, whose figures a long queue could be in.
    pub(crate) async fn asynchronous(&mut self) -> Result<()> {
        let corner = Corner::new()?;
        corner.build_image(&[])?;
        let stack = Stack::start(&corner, &[]).await?;
        let labels =
            json!({ "com.openfaas.scale.max": "1", "com.hyperfaas.async.concurrency": "1" });
        stack.deploy("never", &corner.image(), json!({ "labels": labels })).await?;
        stack.until_available("never", 1).await?;
        let path = format!("/async-function/never?sleep_ms={NEVER_MS}");
        let (target, pid) = (post(stack.gateway_address, &path), stack.provider.pid());
        self.add("asynchronous call, until on disk", target, vec![("provider".to_owned(), pid)])
            .await?;
        self.stacks.push(stack);
        self.corners.push(corner);
        Ok(())
    }

    async fn whole_fork(&mut self) -> Result<()> {
        let stack = Stack::start(&self.corner, &[]).await?;
        let fields = json!({
            "envProcess": "/cat",
            "envVars": { "mode": "", "upstream_url": "" },
            "labels": { "com.openfaas.scale.max": "1" },
        });
        stack.deploy("forks", &self.corner.image(), fields).await?;
        stack.until_available("forks", 1).await?;
        let Some(replica) = self.corner.replicas("forks")?.into_iter().next() else {
            return failed("the provider has started no container");
        };
        let forks = ("watchdog+forks".to_owned(), replica.pid);
        let provider = ("provider".to_owned(), stack.provider.pid());
        let (direct, path) = (post(replica.address, "/"), "/function/forks");
        let lane = post(stack.provider_address, path);
        self.add("fork: the provider's container, port 8080", direct, vec![forks.clone()]).await?;
        self.add("fork: provider, over a lane", lane, vec![forks, provider]).await?;
        self.stacks.push(stack);
        Ok(())
    }

    async fn add(
        &mut self,
        name: &str,
        target: Target,
        processes: Vec<(String, u32)>,
    ) -> Result<()> {
        answers(&target).await?;
        self.hops.push(Hop { name: name.to_owned(), target, processes });
        Ok(())
    }

    fn weigh(&mut self, name: &str, file: &PathBuf, pids: &[u32]) -> Result<()> {
        let file_bytes =
            std::fs::metadata(file).during(format!("reading {}", file.display()))?.len();
        let idle_bytes = resident(pids);
        let weight = Weight { name: name.to_owned(), file_bytes, idle_bytes, after_bytes: 0 };
        self.weighed.push((weight, pids.to_vec()));
        Ok(())
    }

    /// What programs weighed when idle, and weigh now.
    pub(crate) fn weights(&self) -> Vec<Weight> {
        let now = |(weight, pids): &(Weight, Vec<u32>)| Weight {
            after_bytes: resident(pids),
            ..weight.clone()
        };
        self.weighed.iter().map(now).collect()
    }
}

fn resident(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| usage::resident(*pid)).sum()
}

fn with_ours(others: &[(String, PathBuf)]) -> Result<Vec<(String, PathBuf)>> {
    Ok(std::iter::once((OURS.to_owned(), binary(OURS)?)).chain(others.iter().cloned()).collect())
}

/// The watchdog's own processes in a container: all but the function's.
fn own(first: u32) -> Vec<u32> {
    let helpers = usage::descendants(first).into_iter().filter(|pid| !is_function(*pid));
    std::iter::once(first).chain(helpers).collect()
}

fn by_role(container: &Container) -> Vec<(String, u32)> {
    let role = |pid: u32| if is_function(pid) { "function" } else { "watchdog" };
    let rest = usage::descendants(container.pid).into_iter().map(|pid| (role(pid).to_owned(), pid));
    std::iter::once(("watchdog".to_owned(), container.pid)).chain(rest).collect()
}

fn is_function(pid: u32) -> bool {
    usage::name(pid).is_some_and(|name| name == "bench")
}

/// Waits until `target` answers with success.
pub(crate) async fn answers(target: &Target) -> Result<()> {
    until(format!("{} answers", target.address), async || {
        let call = async { target.connect().await?.call(&target.request).await };
        Ok(call.await.is_ok_and(|answer| answer.status < 400))
    })
    .await
}

/// Where a `http://` URL leads.
pub(crate) fn resolve(url: &str) -> Result<(SocketAddr, String)> {
    let Some(rest) = url.strip_prefix("http://") else {
        return failed(format!("{url} does not begin with http://"));
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port { host.to_owned() } else { format!("{host}:80") };
    let mut found = host.to_socket_addrs().during(format!("resolving {host}"))?;
    let Some(address) = found.next() else { return failed(format!("{host} has no address")) };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((address, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_an_address_and_a_path() {
        for (url, address, path) in [
            ("http://127.0.0.1:8080/function/x?y=1", "127.0.0.1:8080", "/function/x?y=1"),
            ("http://127.0.0.1", "127.0.0.1:80", "/"),
            ("http://[::1]:99?a", "[::1]:99", "/?a"),
        ] {
            let (found, found_path) = resolve(url).unwrap();
            assert_eq!((found.to_string().as_str(), found_path.as_str()), (address, path));
        }
        assert!(resolve("https://127.0.0.1/").is_err());
        assert!(resolve("http://").is_err());
    }
}
