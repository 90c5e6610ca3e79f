//! Results to a page: `benchmarks.md` with tables and, in `benchmarks/`, plots.
//!
//! In: the results' folder. Out: the method, and a section for each kind of result that is there; each figure with its command,
//! machine, date and spread. What was measured by a debug build or on a busy machine says so itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::bodies::Bodies;
use crate::burst::{Outcome, Row as BurstRow};
use crate::cold::{Start, Starts};
use crate::command_ladder::Climbed;
use crate::command_load::{Step, say};
use crate::density::Held;
use crate::failure::{During, Result};
use crate::ladder::{Row, Spread};
use crate::plot::Plot;
use crate::record::{Record, read, read_table};
use crate::scheduler::{Load, Moment, Scheduled, Simulated, nanoseconds};
use crate::sparse::Sparse;
use crate::surge::Surge;

/// What does not depend on results.
const METHOD: &str = include_str!("method.md");
/// Folder of the plots, beside the page.
const PLOTS: &str = "benchmarks";
/// The burst that the README shows.
const SHOWN: &str = "burst-step15";
/// Processors at work before a run from which a machine does not count as calm.
const BUSY: f64 = 0.5;

/// `bench report`.
pub(crate) fn report(from: &Path, to: &Path) -> Result<()> {
    let plots = to.join(PLOTS);
    for folder in [from, &plots] {
        std::fs::create_dir_all(folder).during(format!("making {}", folder.display()))?;
    }
    let mut page = METHOD.to_owned();
    bursts(from, &plots, &mut page)?;
    ladders(from, &plots, &mut page)?;
    for (_, record) in read::<Bodies>(from, "bodies")? {
        page.push_str("\n## Large request bodies\n\n");
        bodies(&mut page, &record);
    }
    colds(from, &plots, &mut page)?;
    for (_, record) in read::<Surge>(from, "surge")? {
        page.push_str("\n## Many functions at zero at once\n\n");
        surge(&mut page, &record);
    }
    for (_, record) in read::<Held>(from, "density")? {
        page.push_str("\n## Memory of an idle function\n\n");
        density(&mut page, &record);
    }
    for (_, record) in read::<Sparse>(from, "sparse")? {
        page.push_str("\n## Functions that are hardly called\n\n");
        sparse(&mut page, &record);
    }
    for (_, record) in read::<Scheduled>(from, "scheduler")? {
        schedulers(from, &plots, &mut page, &record)?;
    }
    for (_, record) in read::<Vec<Step>>(from, "ceiling")? {
        page.push_str("\n## The loader's own limit\n\n");
        ceiling(&mut page, &record);
    }
    if page == METHOD {
        page.push_str("\n## Figures\n\nNo run on a calm machine is recorded yet.\n");
    }
    let path = to.join("benchmarks.md");
    std::fs::write(&path, page).during(format!("writing {}", path.display()))?;
    say(&format!("written: {}", path.display()));
    readme(from)
}

/// Prints what the README shows: the burst's plot and its table.
fn readme(from: &Path) -> Result<()> {
    let mut runs = read::<Vec<Outcome>>(from, &format!("{SHOWN}-"))?;
    // Not those with a ceiling, whose names go on with it.
    runs.retain(|(_, record)| record.result.first().is_some_and(|run| run.ceiling.is_none()));
    runs.sort_by_key(|(_, record)| record.result.first().map(|run| run.mode as u8));
    if runs.is_empty() {
        return Ok(());
    }
    say(&format!("\nFor the README:\n\n![](docs/{PLOTS}/{SHOWN}.svg)\n"));
    say(
        "| who scales | p99 within the objective again, seconds after the step | calls failed | CPU seconds |\n| --- | --- | --- | --- |",
    );
    for (_, record) in &runs {
        let failed =
            record.result.iter().map(|run| run.after_step.calls - run.after_step.succeeded);
        let cpu = Spread::of(record.result.iter().map(|run| run.cpu_s)).median;
        let mode = record.result.first().map_or("", |run| run.mode.name());
        let converged = converged(&record.result);
        say(&format!("| {mode} | {converged} | {} | {cpu:.1} |", failed.sum::<u64>()));
    }
    Ok(())
}

/// How a result came about, as a line of the page.
fn circumstances<T>(page: &mut String, record: &Record<T>) {
    page.push_str(&circumstance(record, &record.date));
}

/// How results came about that are shown together: a line for all that came about in the same way.
fn circumstances_of<'a, T: 'a>(page: &mut String, records: impl Iterator<Item = &'a Record<T>>) {
    let mut ways = BTreeMap::<String, Vec<&Record<T>>>::new();
    for record in records {
        ways.entry(circumstance(record, "")).or_default().push(record);
    }
    for mut same in ways.into_values() {
        same.sort_by(|a, b| a.date.cmp(&b.date));
        let [first, .., last] = &same[..] else {
            circumstances(page, same[0]);
            continue;
        };
        let date = format!("{} to {}", first.date, last.date);
        page.push_str(&circumstance(first, &date));
    }
}

/// The same with `date` instead of the record's own.
fn circumstance<T>(record: &Record<T>, date: &str) -> String {
    let machine = &record.machine;
    let mut page = format!(
        "`{}`, {date}, commit {}. Machine: {} × {}, {} GiB, Linux {}, Docker {}, cgroup v{}.",
        record.command,
        machine.commit,
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.docker,
        machine.cgroup
    );
    if !machine.is_release {
        page.push_str(" **A debug build: these figures mean nothing.**");
    }
    if machine.load_before > BUSY {
        let _ = write!(
            page,
            " **Something else kept {:.1} processors busy: read the ratios.**",
            machine.load_before
        );
    }
    page + "\n\n"
}

fn spread(spread: &Spread, digits: usize) -> String {
    if spread.min == spread.max {
        return format!("{:.digits$}", spread.median);
    }
    format!("{:.digits$} ({:.digits$}..{:.digits$})", spread.median, spread.min, spread.max)
}

type Runs = (String, Record<Vec<Outcome>>);

fn bursts(from: &Path, plots: &Path, page: &mut String) -> Result<()> {
    let mut groups = BTreeMap::<String, Vec<Runs>>::new();
    for (name, record) in read::<Vec<Outcome>>(from, "burst-")? {
        let Some(first) = record.result.first() else { continue };
        let mode = first.mode.name();
        let group = name.strip_suffix(&format!("-{mode}")).unwrap_or(&name).to_owned();
        groups.entry(group).or_default().push((name, record));
    }
    for (group, mut runs) in groups {
        runs.sort_by_key(|(_, record)| record.result.first().map(|run| run.mode as u8));
        let course = group.trim_start_matches("burst-");
        let _ = write!(page, "\n## Burst: {course}\n\n![]({PLOTS}/{group}.svg)\n\n");
        burst_plot(from, course, &runs)?.draw(&plots.join(format!("{group}.svg")))?;
        page.push_str(
            "| who scales | p99 within the objective, s after the step | failed | p50 ms | p99 ms | CPU s | MiB s | containers | loader late, p99 ms | runs |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for (_, record) in &runs {
            burst_row(page, &record.result);
        }
        page.push('\n');
        circumstances_of(page, runs.iter().map(|(_, record)| record));
    }
    Ok(())
}

fn burst_row(page: &mut String, runs: &[Outcome]) {
    let Some(first) = runs.first() else { return };
    let of = |figure: fn(&Outcome) -> f64| Spread::of(runs.iter().map(figure));
    let failed =
        runs.iter().map(|run| run.after_step.calls - run.after_step.succeeded).sum::<u64>();
    let calls = runs.iter().map(|run| run.after_step.calls).sum::<u64>().max(1);
    let _ = writeln!(
        page,
        "| {} | {} | {failed} ({:.1} %) | {} | {} | {} | {} | {} | {:.1} | {} |",
        first.mode.name(),
        converged(runs),
        failed as f64 * 100.0 / calls as f64,
        spread(&of(|run| run.after_step.latency.p50), 0),
        spread(&of(|run| run.after_step.latency.p99), 0),
        spread(&of(|run| run.cpu_s), 1),
        spread(&of(|run| run.memory_mib_s), 0),
        runs.iter().map(|run| run.containers_max).max().unwrap_or_default(),
        of(|run| run.after_step.loader_lag.p99).max,
        runs.len()
    );
}

/// The times of the runs that converged, and how many did not.
fn converged(runs: &[Outcome]) -> String {
    let times = runs.iter().filter_map(|run| run.converged_s).collect::<Vec<_>>();
    match runs.len() - times.len() {
        0 => spread(&Spread::of(times), 1),
        _ if times.is_empty() => "never".to_owned(),
        never => format!("{}, never in {never} of {}", spread(&Spread::of(times), 1), runs.len()),
    }
}

/// Of each second, the median over the runs.
fn burst_plot(from: &Path, course: &str, runs: &[Runs]) -> Result<Plot> {
    let mut series = Vec::new();
    for (name, record) in runs {
        let mut seconds = BTreeMap::<u64, Vec<f64>>::new();
        for row in read_table::<BurstRow>(from, name)?.into_iter().filter(|row| row.calls > 0) {
            seconds.entry(row.second).or_default().push(row.p99_ms);
        }
        let point = |(second, ms): (u64, Vec<f64>)| (second as f64, Spread::of(ms).median);
        let mode = record.result.first().map_or("", |run| run.mode.name());
        series.push((mode.to_owned(), seconds.into_iter().map(point).collect()));
    }
    let objective = runs.first().and_then(|(_, record)| record.result.first());
    Ok(Plot {
        title: format!("Latency during a burst ({course})"),
        x: "seconds".to_owned(),
        y: "p99 of each second, ms".to_owned(),
        log: (false, true),
        limit: objective.map(|run| run.objective_ms),
        series,
    })
}

fn ladders(from: &Path, plots: &Path, page: &mut String) -> Result<()> {
    for (name, record) in read::<Climbed>(from, "ladder")? {
        page.push_str("\n## What each hop adds\n\n");
        let _ = write!(page, "![]({PLOTS}/{name}.svg)\n\n");
        throughput_plot(&record.result.http).draw(&plots.join(format!("{name}.svg")))?;
        page.push_str(
            "| callers | hop | p50 µs | added µs | p99 µs | answers a second | CPU µs per answer, by process |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for row in record.result.http.iter().chain(&record.result.fork) {
            ladder_row(page, row);
        }
        page.push_str("\n| program | file, MiB | resident when idle, MiB | after all calls |\n| --- | --- | --- | --- |\n");
        for weight in &record.result.weights {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (file, idle) = (mib(weight.file_bytes), mib(weight.idle_bytes));
            let after = mib(weight.after_bytes);
            let _ = writeln!(page, "| {} | {file:.2} | {idle:.2} | {after:.2} |", weight.name);
        }
        let _ = write!(page, "\nMedian of {} rounds (lowest..highest). ", record.result.rounds);
        circumstances(page, &record);
    }
    Ok(())
}

fn bodies(page: &mut String, record: &Record<Bodies>) {
    page.push_str("| way | MiB a second | the watchdog's CPU, ms a GiB |\n| --- | --- | --- |\n");
    for way in &record.result.ways {
        let (per_second, cpu) = (spread(&way.per_second, 0), spread(&way.watchdog_ms, 0));
        let _ = writeln!(page, "| {} | {per_second} | {cpu} |", way.way);
    }
    let Bodies { size_mib, rounds, .. } = &record.result;
    let _ = write!(page, "\nBodies of {size_mib} MiB one after the other; {rounds} rounds. ");
    circumstances(page, record);
}

fn ladder_row(page: &mut String, row: &Row) {
    let roles = row.cpu_by_role.iter().map(|(role, us)| format!("{role} {us:.0}"));
    let failed = if row.failed > 0 { format!(" ({} failed)", row.failed) } else { String::new() };
    let _ = writeln!(
        page,
        "| {} | {} | {} | {} | {:.0} | {}{failed} | {} |",
        row.connections,
        row.hop,
        spread(&row.p50_us, 0),
        row.added_us.map_or_else(|| "–".to_owned(), |added| spread(&added, 0)),
        row.p99_us.median,
        spread(&row.per_second, 0),
        roles.collect::<Vec<_>>().join(", ")
    );
}

fn throughput_plot(rows: &[Row]) -> Plot {
    let mut series = Vec::<crate::plot::Series>::new();
    for row in rows {
        let point = (row.connections as f64, row.per_second.median);
        match series.iter_mut().find(|(name, _)| *name == row.hop) {
            Some((_, points)) => points.push(point),
            None => series.push((row.hop.clone(), vec![point])),
        }
    }
    Plot {
        title: "Throughput".to_owned(),
        x: "callers".to_owned(),
        y: "answers a second".to_owned(),
        log: (true, true),
        limit: None,
        series,
    }
}

fn colds(from: &Path, plots: &Path, page: &mut String) -> Result<()> {
    for (name, record) in read::<Vec<Starts>>(from, "cold-")? {
        let setting = name.trim_start_matches("cold-");
        let _ = write!(page, "\n## From zero to the first answer: {setting}\n\n");
        let _ = write!(page, "![]({PLOTS}/{name}.svg)\n\n");
        let starts = read_table::<Start>(from, &name)?;
        cold_plot(&record.result, &starts).draw(&plots.join(format!("{name}.svg")))?;
        page.push_str(
            "| function | first answer, ms | the next, ms | its program alone, ms | rounds |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for row in &record.result {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                row.name,
                spread(&row.first_ms, 1),
                spread(&row.second_ms, 2),
                row.alone_ms.map_or_else(|| "–".to_owned(), |ms| spread(&ms, 1)),
                row.rounds
            );
        }
        page.push('\n');
        circumstances(page, &record);
    }
    Ok(())
}

fn surge(page: &mut String, record: &Record<Surge>) {
    let Surge { functions, calls, standby, failed, rounds, .. } = &record.result;
    page.push_str(
        "| first answer of the function in the middle, ms | of the last, ms | functions a second | calls failed |\n\
         | --- | --- | --- | --- |\n",
    );
    let _ = writeln!(
        page,
        "| {} | {} | {} | {failed} |",
        spread(&record.result.median_ms, 0),
        spread(&record.result.last_ms, 0),
        spread(&record.result.per_second, 0)
    );
    let _ = write!(
        page,
        "\n{functions} functions, {calls} calls of each at once, {standby} standby containers waiting; {rounds} rounds. "
    );
    circumstances(page, record);
}

/// The share of starts that took at most so long.
fn cold_plot(table: &[Starts], starts: &[Start]) -> Plot {
    let series = table.iter().map(|row| {
        let own = starts.iter().filter(|start| start.name == row.name);
        let mut ms = own.map(|start| start.first_ms).collect::<Vec<_>>();
        ms.sort_by(f64::total_cmp);
        let count = ms.len().max(1) as f64;
        let points = ms.iter().enumerate();
        let points = points.map(|(nth, ms)| (*ms, (nth + 1) as f64 / count)).collect();
        (row.name.clone(), points)
    });
    Plot {
        title: "First answer from zero".to_owned(),
        x: "ms".to_owned(),
        y: "share of starts within".to_owned(),
        log: (true, false),
        limit: None,
        series: series.collect(),
    }
}

fn density(page: &mut String, record: &Record<Held>) {
    let held = &record.result;
    page.push_str("| what | KiB per function |\n| --- | --- |\n");
    for (what, kib) in [
        ("its container, own memory of all processes", spread(&held.container_kib, 0)),
        ("of it the watchdog, resident", spread(&held.watchdog_kib, 0)),
        ("the engine's shim, resident", spread(&held.shim_kib, 0)),
        ("the provider, with a replica", format!("{:.1}", held.provider_kib)),
        ("the provider, scaled to zero", format!("{:.1}", held.provider_at_zero_kib)),
    ] {
        let _ = writeln!(page, "| {what} | {kib} |");
    }
    let _ = write!(page, "\n{} functions. ", held.functions);
    circumstances(page, record);
}

fn sparse(page: &mut String, record: &Record<Sparse>) {
    page.push_str(
        "| | KiB in all | own | page cache | shims | provider | at most | containers | median ms | p99 ms | calls |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for way in &record.result.ways {
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {} |",
            way.name,
            way.all_kib(),
            way.own_kib,
            way.cache_kib,
            way.shims_kib,
            way.provider_kib,
            way.most_kib,
            way.containers,
            way.median_ms,
            way.p99_ms,
            way.calls
        );
    }
    let Sparse { functions, every_s, .. } = &record.result;
    let _ = write!(page, "\n{functions} functions, each called every {every_s:.0} s. ");
    circumstances(page, record);
}

fn schedulers(
    from: &Path,
    plots: &Path,
    page: &mut String,
    record: &Record<Scheduled>,
) -> Result<()> {
    page.push_str(
        "\n## The scheduler's decisions\n\n| decision | median | between |\n| --- | --- | --- |\n",
    );
    for decision in &record.result.decisions {
        let (low, high) = decision.between_ns;
        let [median, low, high] = [decision.median_ns, low, high].map(nanoseconds);
        let _ = writeln!(page, "| {} | {median} | {low} to {high} |", decision.name);
    }
    page.push('\n');
    circumstances(page, record);
    for load in &record.result.loads {
        let _ = write!(page, "\n## Simulated: {}\n\n", load.title);
        for (what, unit, of) in [
            ("memory", "memory held, GiB", (|line| line.memory_mib / 1024.0) as fn(&Moment) -> f64),
            ("cpus", "CPUs granted", |line| line.cpus_granted),
        ] {
            let name = format!("scheduler-{}-{what}.svg", load.name);
            simulated_plot(from, load, unit, of)?.draw(&plots.join(&name))?;
            let _ = write!(page, "![]({PLOTS}/{name})\n\n");
        }
        page.push_str(
            "| mode | requests | failed | slowdown p50 | p99 | p99.9 | cold starts | container starts | specialisations | CPUs used | granted | memory, GiB | containers (most) | real time, s |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for run in &load.runs {
            simulated_row(page, run);
        }
        let _ = write!(page, "\n`{}`, run by ", load.command);
        circumstances(page, record);
    }
    Ok(())
}

fn simulated_row(page: &mut String, run: &Simulated) {
    let [median, p99, p999] = run.slowdown;
    let _ = writeln!(
        page,
        "| {} | {} | {} | {median:.2} | {p99:.2} | {p999:.1} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.0} ({:.0}) | {:.0} |",
        run.run,
        run.requests,
        run.failed,
        run.cold,
        run.starts,
        run.specialised,
        run.cpus_used,
        run.cpus_granted,
        run.memory_gib,
        run.containers,
        run.containers_peak,
        run.took_s
    );
}

fn simulated_plot(from: &Path, load: &Load, unit: &str, of: fn(&Moment) -> f64) -> Result<Plot> {
    let mut series = Vec::new();
    for run in &load.runs {
        let name = format!("scheduler-{}-{}", load.name, run.run.replace('+', "-"));
        let lines = read_table::<Moment>(from, &name)?;
        let points = lines.iter().map(|line| (line.at_s / 3600.0, of(line))).collect();
        series.push((run.run.clone(), points));
    }
    Ok(Plot {
        title: load.title.clone(),
        x: "hours".to_owned(),
        y: unit.to_owned(),
        log: (false, false),
        limit: None,
        series,
    })
}

fn ceiling(page: &mut String, record: &Record<Vec<Step>>) {
    page.push_str(
        "| calls a second | made | late p50 ms | late p99 ms | latency p50 ms | CPU µs per call |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for step in &record.result {
        let _ = writeln!(
            page,
            "| {:.0} | {:.0} | {:.3} | {:.3} | {:.3} | {:.1} |",
            step.rate, step.made, step.lag_p50_ms, step.lag_p99_ms, step.p50_ms, step.cpu_us
        );
    }
    page.push('\n');
    circumstances(page, record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Machine, write, write_table};

    #[test]
    fn the_page_in_docs_has_the_method_of_today() {
        let page = include_str!("../../docs/benchmarks.md");
        assert!(page.starts_with(METHOD), "run `bench report`, or put the text into method.md");
    }

    #[test]
    fn a_result_becomes_a_section_with_its_plot_and_circumstances() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let start =
            |round, first_ms| Start { name: "static".to_owned(), round, first_ms, second_ms: 1.0 };
        let starts = [start(0, 10.0), start(1, 30.0), start(2, 20.0)];
        let table = vec![Starts {
            name: "static".to_owned(),
            first_ms: Spread::of(starts.iter().map(|start| start.first_ms)),
            second_ms: Spread::of([1.0]),
            alone_ms: None,
            rounds: 3,
        }];
        write_table(from.path(), "cold-x", &starts).unwrap();
        write(from.path(), "cold-x", Machine::now(), table).unwrap();
        report(from.path(), to.path()).unwrap();
        let page = std::fs::read_to_string(to.path().join("benchmarks.md")).unwrap();
        assert!(page.contains("| static | 20.0 (10.0..30.0) | 1.00 | – | 3 |"), "{page}");
        assert!(page.contains("Machine: ") && page.contains("debug build"), "{page}");
        assert!(to.path().join("benchmarks/cold-x.svg").is_file());
    }

    #[test]
    fn runs_that_never_converged_are_told_apart() {
        let run = |converged_s| Outcome {
            mode: crate::burst::Mode::Full,
            shape: crate::shape::Shape::Step15,
            after_step: crate::sample::Summary::of(&[]),
            before_step: crate::sample::Summary::of(&[]),
            converged_s,
            objective_ms: 500.0,
            step_s: 20.0,
            cpu_s: 1.0,
            memory_mib_s: 1.0,
            provider_cpu_s: 0.0,
            containers_max: 1,
            request: 200,
            ceiling: None,
        };
        assert_eq!(converged(&[run(Some(1.0)), run(Some(2.0))]), "1.5 (1.0..2.0)");
        assert_eq!(converged(&[run(Some(1.0)), run(None)]), "1.0, never in 1 of 2");
        assert_eq!(converged(&[run(None)]), "never");
    }
}
