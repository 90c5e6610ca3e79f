//! The per-minute format of the Azure Functions trace 2019: invocations, durations, memory.
//!
//! In: up to three CSV files. Out: a [`Trace`]. The public files and the samples of the invitro load generator are both
//! read: columns are found by name, and a minute's column is `7` or `minute_7`.
//! Always: rows of the same function (the public files have one a trigger) are added up.

use std::collections::HashMap;
use std::io::{Read, Write};

use crate::table::{ReadError, Row, Table};
use crate::{Function, Quantiles, Trace};

/// Columns of the durations file and the probability each stands for.
const DURATION_COLUMNS: [(&str, f64); 7] = [
    ("percentile_Average_0", 0.0),
    ("percentile_Average_1", 0.01),
    ("percentile_Average_25", 0.25),
    ("percentile_Average_50", 0.5),
    ("percentile_Average_75", 0.75),
    ("percentile_Average_99", 0.99),
    ("percentile_Average_100", 1.0),
];

/// Columns of the memory file and the probability each stands for.
const MEMORY_COLUMNS: [(&str, f64); 8] = [
    ("AverageAllocatedMb_pct1", 0.01),
    ("AverageAllocatedMb_pct5", 0.05),
    ("AverageAllocatedMb_pct25", 0.25),
    ("AverageAllocatedMb_pct50", 0.5),
    ("AverageAllocatedMb_pct75", 0.75),
    ("AverageAllocatedMb_pct95", 0.95),
    ("AverageAllocatedMb_pct99", 0.99),
    ("AverageAllocatedMb_pct100", 1.0),
];

/// Reads invocations, and durations and memory where given.
///
/// Functions of the other two files that have no invocations are ignored, as are functions missing there.
///
/// # Errors
/// The first mistake, with line and column; an empty trace.
pub fn read<R: Read>(
    invocations: R,
    durations: Option<R>,
    memory: Option<R>,
) -> Result<Trace, ReadError> {
    let mut apps = Vec::new();
    let mut trace = read_invocations(invocations, &mut apps)?;
    if let Some(source) = durations {
        let mut found = by_key(source, &["HashApp", "HashFunction"], &DURATION_COLUMNS)?;
        for (function, app) in trace.functions.iter_mut().zip(&apps) {
            function.duration_ms = found.remove(&key(&[app, &function.name]));
        }
    }
    if let Some(source) = memory {
        let found = by_key(source, &["HashApp"], &MEMORY_COLUMNS)?;
        for (function, app) in trace.functions.iter_mut().zip(&apps) {
            function.memory_mib = found.get(&key(&[app])).cloned();
        }
    }
    rename_duplicates(&mut trace, &apps);
    Ok(trace)
}

/// Writes the invocations of `trace` in the public files' format; the function's name stands for owner and application.
///
/// # Errors
/// Those of the sink.
pub fn write(trace: &Trace, sink: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(sink);
    let minutes = (1..=trace.minutes()).map(|minute| minute.to_string());
    let fixed = ["HashOwner", "HashApp", "HashFunction", "Trigger"].map(ToOwned::to_owned);
    writer.write_record(fixed.into_iter().chain(minutes))?;
    for function in &trace.functions {
        let name = function.name.as_str();
        let fixed = [name, name, name, "http"].map(ToOwned::to_owned);
        let counts = function.per_minute.iter().map(ToString::to_string);
        writer.write_record(fixed.into_iter().chain(counts))?;
    }
    writer.flush().map_err(csv::Error::from)
}

fn read_invocations(source: impl Read, apps: &mut Vec<String>) -> Result<Trace, ReadError> {
    let mut table = Table::new(source)?;
    let (app, name) = (table.column("HashApp")?, table.column("HashFunction")?);
    let minutes = minute_columns(table.header());
    let mut known = HashMap::<String, usize>::new();
    let mut trace = Trace::default();
    while let Some(row) = table.next()? {
        let counts = minutes.iter().map(|column| row.count(*column));
        let per_minute = counts.collect::<Result<Vec<_>, _>>()?;
        let id = key(&[row.text(app), row.text(name)]);
        if let Some(&seen) = known.get(&id) {
            let counts = trace.functions[seen].per_minute.iter_mut().zip(per_minute);
            counts.for_each(|(sum, count)| *sum = sum.saturating_add(count));
            continue;
        }
        known.insert(id, trace.functions.len());
        apps.push(row.text(app).to_owned());
        trace.functions.push(Function {
            name: row.text(name).to_owned(),
            per_minute,
            duration_ms: None,
            memory_mib: None,
        });
    }
    if trace.calls() == 0 { Err(ReadError::Empty) } else { Ok(trace) }
}

/// Columns of the minutes, in the order of time.
fn minute_columns(header: &[String]) -> Vec<usize> {
    let minute = |name: &str| name.strip_prefix("minute_").unwrap_or(name).parse::<u32>().ok();
    let mut columns = header
        .iter()
        .enumerate()
        .filter_map(|(column, name)| Some((minute(name)?, column)))
        .collect::<Vec<_>>();
    columns.sort_unstable();
    columns.into_iter().map(|(_, column)| column).collect()
}

fn by_key(
    source: impl Read,
    keys: &[&'static str],
    columns: &[(&'static str, f64)],
) -> Result<HashMap<String, Quantiles>, ReadError> {
    let mut table = Table::new(source)?;
    let keys = keys.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let columns = columns
        .iter()
        .map(|(name, probability)| Ok((table.column(name)?, *probability)))
        .collect::<Result<Vec<_>, ReadError>>()?;
    let mut found = HashMap::new();
    while let Some(row) = table.next()? {
        let texts = keys.iter().map(|column| row.text(*column)).collect::<Vec<_>>();
        found.insert(key(&texts), quantiles(&row, &columns)?);
    }
    Ok(found)
}

fn quantiles(row: &Row<'_>, columns: &[(usize, f64)]) -> Result<Quantiles, ReadError> {
    let point = |(column, probability): &(usize, f64)| Ok((*probability, row.number(*column)?));
    let points = columns.iter().map(point).collect::<Result<Vec<_>, ReadError>>()?;
    Quantiles::new(points).ok_or(ReadError::Empty)
}

/// Hashes hold no line feed, so joined keys cannot collide.
fn key(parts: &[&str]) -> String {
    parts.join("\n")
}

/// Function hashes are unique only within an application: where two share one, the application is put before it.
fn rename_duplicates(trace: &mut Trace, apps: &[String]) {
    let mut seen = HashMap::<String, u32>::new();
    for function in &trace.functions {
        *seen.entry(function.name.clone()).or_default() += 1;
    }
    for (function, app) in trace.functions.iter_mut().zip(apps) {
        if seen[&function.name] > 1 {
            function.name = format!("{app}-{}", function.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str =
        "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,0,2,1\no,a,g,timer,1,1,1\n";
    const SAMPLE: &str = "HashFunction,HashApp,HashOwner,minute_1,minute_2,minute_3\n\
                          f,a,o,0,2,1\ng,a,o,1,1,1\n";

    fn trace(text: &str) -> Result<Trace, ReadError> {
        read(text.as_bytes(), None, None)
    }

    #[test]
    fn the_public_format_and_the_samples_are_the_same_trace() {
        let public = trace(PUBLIC).unwrap();
        assert_eq!(public, trace(SAMPLE).unwrap());
        assert_eq!(public.calls(), 6);
        assert_eq!(public.functions[0].per_minute, [0, 2, 1]);
        assert_eq!(public.cut(1, 9).functions[0].per_minute, [2, 1]);
    }

    #[test]
    fn what_was_written_reads_the_same() {
        let mut text = Vec::new();
        let before = trace(PUBLIC).unwrap();
        write(&before, &mut text).unwrap();
        assert_eq!(read(text.as_slice(), None, None).unwrap(), before);
    }

    #[test]
    fn columns_of_minutes_are_in_the_order_of_time_and_rows_of_a_function_add_up() {
        let text = "HashApp,HashFunction,Trigger,2,10,1\na,f,http,2,10,1\na,f,queue,5,0,0\n";
        assert_eq!(trace(text).unwrap().functions[0].per_minute, [1, 7, 10]);
    }

    #[test]
    fn durations_and_memory_are_joined() {
        let run = "HashFunction,HashApp,Count,percentile_Average_0,percentile_Average_1,percentile_Average_25,\
                   percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n\
                   f,a,5,1,1,2,3,4,9,10\n";
        let mem = "HashApp,AverageAllocatedMb_pct1,AverageAllocatedMb_pct5,AverageAllocatedMb_pct25,\
                   AverageAllocatedMb_pct50,AverageAllocatedMb_pct75,AverageAllocatedMb_pct95,\
                   AverageAllocatedMb_pct99,AverageAllocatedMb_pct100\na,1,2,3,64,80,90,95,99\n";
        let joined = read(PUBLIC.as_bytes(), Some(run.as_bytes()), Some(mem.as_bytes())).unwrap();
        let [f, g] = &joined.functions[..] else { panic!("two functions") };
        assert!((f.duration_ms.as_ref().unwrap().median() - 3.0).abs() < 1e-9);
        assert!(g.duration_ms.is_none());
        assert!((g.memory_mib.as_ref().unwrap().median() - 64.0).abs() < 1e-9);
    }

    #[test]
    fn functions_that_share_a_hash_keep_apart() {
        let text = "HashApp,HashFunction,1\na,f,1\nb,f,2\n";
        let names = trace(text).unwrap().functions.into_iter().map(|f| f.name);
        assert_eq!(names.collect::<Vec<_>>(), ["a-f", "b-f"]);
    }

    #[test]
    fn a_mistake_names_line_and_column() {
        for (text, message) in [
            ("HashApp,1\na,1\n", "no column \"HashFunction\" in the header line"),
            ("HashApp,HashFunction,1\na,f,1\na,g,many\n", "line 3: \"1\" cannot be \"many\""),
            ("HashApp,HashFunction,1\na,f,-1\n", "line 2: \"1\" cannot be \"-1\""),
            ("HashApp,HashFunction,1\na,f,1.5\n", "line 2: \"1\" cannot be \"1.5\""),
            ("HashApp,HashFunction,1\na,f,5e9\n", "line 2: \"1\" cannot be \"5e9\""),
            ("HashApp,HashFunction,1\n", "the trace is empty"),
            ("HashApp,HashFunction,1\na,f\n", "cannot read the trace"),
            ("", "no column \"HashApp\" in the header line"),
        ] {
            assert_eq!(trace(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }
}
