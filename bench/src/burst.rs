//! A burst on real containers: how long until the objective is met again, what failed, what it cost.
//!
//! In: a [`Burst`] and a [`Mode`]. Out: an [`Outcome`] and one row a second. The function burns CPU on one thread, first come first
//! served, as a Python or Node function does; a replica of the compared systems has `request` as its quota, ours has it as its
//! base and may be raised up to `ceiling` or the node. Touches: the engine, processes, the cgroup tree.

use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use clap::ValueEnum;
use hyperfaas_protocol::moment::{Clock, SystemClock};
use hyperfaas_trace::rate::{Pacing, arrivals};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::alertmanager::{self, Alerting};
use crate::command_load::with_bar;
use crate::convergence::{Objective, convergence};
use crate::corner::Corner;
use crate::failure::{Result, failed};
use crate::hpa::{Hpa, Policy};
use crate::load::Limits;
use crate::meter::{Meter, Reading, used};
use crate::sample::{Sample, Second, Summary, by_second};
use crate::shape::{Frame, Shape};
use crate::stack::{METRICS_PORT, Stack};
use crate::usage;

/// Most replicas of a function, in every mode.
const REPLICAS_MAX: u32 = 20;
/// CPU use an HPA aims at, as a share of the request: the usual setting.
const HPA_TARGET: f64 = 0.8;

/// Who scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Nobody; as many replicas as the load after the step needs, from the start.
    Static,
    /// Nobody; one replica.
    Off,
    /// An emulated Kubernetes HPA with its defaults: decides every 15 s, on metrics of 60 s.
    Hpa,
    /// The same with metrics of 15 s.
    HpaTuned,
    /// OpenFaaS' rule in a real Prometheus and Alertmanager.
    Alertmanager,
    /// Ours, more containers only.
    Out,
    /// Ours, more CPU and more containers.
    UpOut,
    /// Ours, all three phases.
    Full,
}

impl Mode {
    /// As files are named.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Off => "off",
            Self::Hpa => "hpa",
            Self::HpaTuned => "hpa-tuned",
            Self::Alertmanager => "alertmanager",
            Self::Out => "out",
            Self::UpOut => "up-out",
            Self::Full => "full",
        }
    }

    /// The provider's own part in it.
    fn scaling(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::UpOut => "up+out",
            Self::Full => "full",
            _ => "off",
        }
    }

    fn is_ours(self) -> bool {
        self.scaling() != "off"
    }

    fn hpa_scrape(self) -> Option<Duration> {
        match self {
            Self::Hpa => Some(Duration::from_secs(60)),
            Self::HpaTuned => Some(Duration::from_secs(15)),
            _ => None,
        }
    }
}

/// What is done to the function.
#[derive(Debug, Clone)]
pub(crate) struct Burst {
    /// The course of the load.
    pub(crate) shape: Shape,
    /// Its rates and lengths.
    pub(crate) frame: Frame,
    /// CPU a call burns, ms.
    pub(crate) burn_ms: u32,
    /// CPU of a replica, millicores.
    pub(crate) request: u32,
    /// What ours may raise it to, millicores; none: as far as the node goes.
    pub(crate) ceiling: Option<u32>,
    /// 99 % of calls.
    pub(crate) objective: Duration,
    /// Further settings of the provider.
    pub(crate) settings: Vec<(String, String)>,
    /// Where Prometheus is, if not on the path.
    pub(crate) prometheus: Option<PathBuf>,
    /// Random numbers begin here.
    pub(crate) seed: u64,
}

/// What became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Who scaled.
    pub(crate) mode: Mode,
    /// The course of the load.
    pub(crate) shape: Shape,
    /// Calls from the step on.
    pub(crate) after_step: Summary,
    /// Calls before it.
    pub(crate) before_step: Summary,
    /// Seconds from the step until the objective was met for good; none: never.
    pub(crate) converged_s: Option<f64>,
    /// The objective of the 99th percentile, ms.
    pub(crate) objective_ms: f64,
    /// When the step came, seconds since the start.
    pub(crate) step_s: f64,
    /// CPU seconds of all containers from the step to the last call's end.
    pub(crate) cpu_s: f64,
    /// MiB seconds of all containers in that time.
    pub(crate) memory_mib_s: f64,
    /// CPU seconds of provider and gateway in the whole run.
    pub(crate) provider_cpu_s: f64,
    /// Most containers at once.
    pub(crate) containers_max: usize,
    /// CPU of a replica, millicores.
    pub(crate) request: u32,
    /// What ours might raise it to, millicores; none: the node.
    pub(crate) ceiling: Option<u32>,
}

/// One second of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Of several runs, counted from 0.
    pub(crate) round: usize,
    /// Since the start.
    pub(crate) second: u64,
    /// Calls due.
    pub(crate) calls: u64,
    /// Of them, failed.
    pub(crate) failed: u64,
    /// Median latency, ms.
    pub(crate) p50_ms: f64,
    /// 99th percentile, ms.
    pub(crate) p99_ms: f64,
    /// The slowest, ms.
    pub(crate) max_ms: f64,
    /// Containers that ran.
    pub(crate) containers: usize,
    /// CPU used, cores.
    pub(crate) cores: f64,
    /// Memory, MiB.
    pub(crate) memory_mib: f64,
}

impl Burst {
    /// Runs it in one mode. Runs within a `LocalSet`.
    pub(crate) async fn run(&self, mode: Mode) -> Result<(Outcome, Vec<Row>)> {
        let corner = Corner::new()?;
        corner.build_image(&[])?;
        let stack = self.start(mode, &corner).await?;
        let _alerting = match stack.metrics_address.filter(|_| mode == Mode::Alertmanager) {
            Some(metrics) => {
                alertmanager::check(stack.gateway_address).await?;
                let folder = self.prometheus.as_deref();
                Some(Alerting::start(stack.gateway_address, metrics, folder).await?)
            }
            None => None,
        };
        let names = self.deploy(mode, &corner, &stack).await?;
        let meter = Rc::new(Meter::start(corner.name()).await?);
        let scaler = self.hpa(mode).map(|hpa| {
            spawn_local(scale(hpa, names.clone(), Rc::downgrade(&stack), meter.clone()))
        });
        let provider = usage::cpu(stack.provider.pid());
        let before = meter.last().at;
        let samples = self.load(&names, &stack).await;
        if let Some(scaler) = scaler {
            scaler.abort();
            let _ = scaler.await;
        }
        let samples = samples?;
        let readings = since(&meter.readings(), before);
        let provider_cpu = usage::cpu(stack.provider.pid()).zip(provider);
        let mut outcome = self.outcome(mode, &samples, &readings);
        outcome.provider_cpu_s =
            provider_cpu.map_or(0.0, |(after, before)| (after - before).as_secs_f64());
        Ok((outcome, rows(&by_second(&samples), &readings)))
    }

    async fn start(&self, mode: Mode, corner: &Corner) -> Result<Rc<Stack>> {
        let given = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let own = [("HYPERFAAS_SCALING", mode.scaling()), (METRICS_PORT, "0")];
        let settings = own.into_iter().chain(given).collect::<Vec<_>>();
        Ok(Rc::new(Stack::start(corner, &settings).await?))
    }

    /// Deploys one function a course, and waits for its first replicas.
    async fn deploy(&self, mode: Mode, corner: &Corner, stack: &Stack) -> Result<Vec<String>> {
        let courses = self.frame.phases(self.shape).len();
        let names = (0..courses).map(|nth| format!("burn-{nth}")).collect::<Vec<_>>();
        let replicas = match (mode, self.shape) {
            (Mode::Static, _) => self.right_size(),
            (_, Shape::Zero) => 0,
            _ => 1,
        };
        for name in &names {
            stack.deploy(name, &corner.image(), self.deployment(mode, replicas)).await?;
            stack.until_available(name, replicas.max(1).into()).await?;
            // Else a provider that ignores the setting would be shown under its name.
            if mode.is_ours() && !stack.explains(name).await? {
                return failed("this provider does not scale by load");
            }
            if replicas == 0 {
                stack.scale(name, 0).await?;
                corner.until_at_zero(name).await?;
            }
        }
        Ok(names)
    }

    fn deployment(&self, mode: Mode, replicas: u32) -> Value {
        let cpu = |millicores: u32| json!({ "cpu": format!("{millicores}m") });
        let min = replicas.max(1).to_string();
        let mut fields = json!({
            "labels": { "com.openfaas.scale.min": min, "com.openfaas.scale.max": REPLICAS_MAX.to_string() },
            "envVars": { "exec_timeout": "2m", "read_timeout": "2m", "write_timeout": "2m" },
            "requests": cpu(self.request),
        });
        if self.shape == Shape::Zero {
            fields["labels"]["com.openfaas.scale.zero"] = json!("true");
        }
        let limit = if mode.is_ours() { self.ceiling } else { Some(self.request) };
        if let Some(limit) = limit {
            fields["limits"] = cpu(limit);
        }
        fields
    }

    /// Replicas that carry the load after the step with a quarter to spare.
    fn right_size(&self) -> u32 {
        let rate = self.frame.rate * self.shape.factor();
        let cores = rate * f64::from(self.burn_ms) / 1e3;
        let needed = (cores * 1.25 / (f64::from(self.request) / 1e3)).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let needed = needed.clamp(1.0, f64::from(REPLICAS_MAX)) as u32;
        // What the paper's figure used for 60 calls of 10 ms at 200m is one more than the bare 4.
        needed.max(if self.shape == Shape::Step5 { 2 } else { 5 })
    }

    fn hpa(&self, mode: Mode) -> Option<Policy> {
        Some(Policy {
            sync: Duration::from_secs(15),
            scrape: mode.hpa_scrape()?,
            target: HPA_TARGET,
            request: f64::from(self.request) / 1e3,
            min: 1,
            max: REPLICAS_MAX,
        })
    }

    async fn load(&self, names: &[String], stack: &Stack) -> Result<Vec<Sample>> {
        let query = format!("?burn_ms={}", self.burn_ms);
        let targets = names.iter().map(|name| stack.function(name, &query)).collect();
        let mut calls = Vec::new();
        for (index, (phases, seed)) in
            self.frame.phases(self.shape).iter().zip(self.seed..).enumerate()
        {
            let course = arrivals(phases, Pacing::Poisson, hyperfaas_trace::random(seed));
            calls.extend(course.map(|at| (at, index)));
        }
        calls.sort_unstable();
        let total = calls.len() as u64;
        let limits = Limits { connections: 2048, ..Limits::default() };
        with_bar(targets, calls.into_iter(), limits, total).await
    }

    fn outcome(&self, mode: Mode, samples: &[Sample], readings: &[Reading]) -> Outcome {
        let step = self.frame.before;
        let (before, after) = samples.iter().partition::<Vec<_>, _>(|sample| sample.at < step);
        let end = samples.iter().map(|s| s.at + s.latency).max().unwrap_or_default();
        let objective = Objective { percentile: 99.0, limit: self.objective };
        let (cpu_s, memory_mib_s) = used(readings, step, end);
        Outcome {
            mode,
            shape: self.shape,
            after_step: Summary::of(&after),
            before_step: Summary::of(&before),
            converged_s: convergence(samples, step, objective).map(|time| time.as_secs_f64()),
            objective_ms: self.objective.as_secs_f64() * 1e3,
            step_s: step.as_secs_f64(),
            cpu_s,
            memory_mib_s,
            provider_cpu_s: 0.0,
            containers_max: readings.iter().map(|r| r.containers).max().unwrap_or_default(),
            request: self.request,
            ceiling: self.ceiling.filter(|_| mode.is_ours()),
        }
    }
}

/// The emulated HPA: reads the meter, asks the provider. With several functions, each is judged by an equal share of the use:
/// the meter does not tell them apart, so this mode is for shapes of one function.
async fn scale(policy: Policy, names: Vec<String>, stack: Weak<Stack>, meter: Rc<Meter>) {
    let clock = SystemClock::start();
    let mut hpas = names.iter().map(|_| Hpa::new(policy)).collect::<Vec<_>>();
    let mut decided = clock.now();
    // Not kept alive from here: the provider must end before its containers are removed.
    while let Some(stack) = stack.upgrade() {
        let shares = u32::try_from(names.len()).unwrap_or(1).max(1);
        hpas.iter_mut().for_each(|hpa| hpa.observe(meter.last().cpu / shares, clock.now()));
        if clock.now().since(decided) >= policy.sync {
            decided = clock.now();
            for (name, hpa) in names.iter().zip(&mut hpas) {
                let Ok((replicas, _)) = stack.replicas(name).await else { continue };
                let current = u32::try_from(replicas).unwrap_or(u32::MAX);
                let desired = hpa.desired(current, clock.now());
                if desired != current
                    && let Err(error) = stack.scale(name, desired).await
                {
                    eprintln!("the emulated HPA cannot scale {name}: {error}");
                }
            }
        }
        drop(stack);
        sleep(Duration::from_millis(500)).await;
    }
}

/// Readings from `from` on, counted from there.
fn since(readings: &[Reading], from: Duration) -> Vec<Reading> {
    let later = readings.iter().filter(|reading| reading.at >= from);
    later.map(|reading| Reading { at: reading.at - from, ..*reading }).collect()
}

fn rows(seconds: &[Second], readings: &[Reading]) -> Vec<Row> {
    let row = |second: &Second| {
        let start = Duration::from_secs(second.second);
        let at = |moment: Duration| {
            let after = readings.partition_point(|reading| reading.at < moment);
            readings.get(after).or_else(|| readings.last()).copied().unwrap_or_default()
        };
        let (from, to) = (at(start), at(start + Duration::from_secs(1)));
        let passed = to.at.saturating_sub(from.at).as_secs_f64();
        let cpu = to.cpu.saturating_sub(from.cpu).as_secs_f64();
        Row {
            round: 0,
            second: second.second,
            calls: second.calls,
            failed: second.failed,
            p50_ms: second.p50_ms,
            p99_ms: second.p99_ms,
            max_ms: second.max_ms,
            containers: from.containers,
            cores: if passed > 0.0 { cpu / passed } else { 0.0 },
            memory_mib: from.memory as f64 / f64::from(1 << 20),
        }
    };
    seconds.iter().map(row).collect()
}
