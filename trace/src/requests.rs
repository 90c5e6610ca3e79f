//! One line a call: our own `at_ms,function,duration_ms`, and the Azure trace 2021 (`app,func,end_timestamp,duration`).
//!
//! In: a CSV file. Out: [`Calls`]: names, and arrivals in order of time. In the 2021 format a call began `duration`
//! seconds before its `end_timestamp`; the first beginning becomes time zero. In ours, `duration_ms` may be missing.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Duration;

use crate::Arrival;
use crate::table::{ReadError, Row, Table};

/// The longest offset or duration that is accepted: a century, so that sums cannot overflow.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;

/// Calls, one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls {
    /// Unique, in the order of first appearance in the file.
    pub functions: Vec<String>,
    /// In order of time; calls of the same moment in the order of the functions.
    pub arrivals: Vec<Arrival>,
}

/// Reads either format; the header line tells which.
///
/// # Errors
/// The first mistake, with line and column; an empty trace.
pub fn read(source: impl Read) -> Result<Calls, ReadError> {
    let mut table = Table::new(source)?;
    let columns = Columns::of(&table)?;
    let mut calls = Calls::default();
    let mut known = HashMap::<String, usize>::new();
    let mut begun = Vec::new();
    while let Some(row) = table.next()? {
        let (at, duration) = columns.times(&row)?;
        let name = columns.name(&row);
        let function = *known.entry(name).or_insert_with_key(|name| {
            calls.functions.push(name.clone());
            calls.functions.len() - 1
        });
        begun.push((at, function, duration));
    }
    // The 2021 trace counts from the recording's start, so its first calls may have begun before zero.
    let first = match columns {
        Columns::Ours { .. } => 0.0,
        Columns::Azure2021 { .. } => begun.iter().map(|(at, ..)| *at).fold(f64::INFINITY, f64::min),
    };
    calls.arrivals.extend(begun.into_iter().map(|(at, function, duration)| Arrival {
        at: Duration::from_secs_f64((at - first).max(0.0)),
        function,
        duration: duration.map(Duration::from_secs_f64),
    }));
    calls.arrivals.sort_unstable();
    if calls.arrivals.is_empty() { Err(ReadError::Empty) } else { Ok(calls) }
}

/// Writes our own format, to the microsecond.
///
/// # Errors
/// Those of the sink.
pub fn write(calls: &Calls, sink: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(sink);
    writer.write_record(["at_ms", "function", "duration_ms"])?;
    let ms = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
    for call in &calls.arrivals {
        let name = calls.functions.get(call.function).map_or("", String::as_str);
        writer.write_record([
            ms(call.at).as_str(),
            name,
            &call.duration.map(ms).unwrap_or_default(),
        ])?;
    }
    writer.flush().map_err(csv::Error::from)
}

enum Columns {
    Ours { at: usize, function: usize, duration: Option<usize> },
    Azure2021 { app: usize, func: usize, end: usize, duration: usize },
}

impl Columns {
    fn of<R: Read>(table: &Table<R>) -> Result<Self, ReadError> {
        if table.optional("end_timestamp").is_some() {
            return Ok(Self::Azure2021 {
                app: table.column("app")?,
                func: table.column("func")?,
                end: table.column("end_timestamp")?,
                duration: table.column("duration")?,
            });
        }
        Ok(Self::Ours {
            at: table.column("at_ms")?,
            function: table.column("function")?,
            duration: table.optional("duration_ms"),
        })
    }

    fn name(&self, row: &Row<'_>) -> String {
        match self {
            Self::Ours { function, .. } => row.text(*function).to_owned(),
            Self::Azure2021 { app, func, .. } => {
                format!("{}-{}", row.text(*app), row.text(*func))
            }
        }
    }

    /// Beginning and duration, in seconds.
    fn times(&self, row: &Row<'_>) -> Result<(f64, Option<f64>), ReadError> {
        let number = |column: usize, unit: f64| {
            let value = row.number(column)? * unit;
            if value <= LONGEST { Ok(value) } else { Err(row.mistake(column)) }
        };
        match self {
            Self::Ours { at, duration, .. } => {
                let given = duration.filter(|column| !row.text(*column).is_empty());
                Ok((number(*at, 1e-3)?, given.map(|column| number(column, 1e-3)).transpose()?))
            }
            Self::Azure2021 { end, duration, .. } => {
                let took = number(*duration, 1.0)?;
                Ok((number(*end, 1.0)? - took, Some(took)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_format_reads_as_it_was_written_in_order_of_time() {
        let text = "at_ms,function,duration_ms\n1500.000,b,\n0.250,a,10.000\n1500.000,a,\n";
        let calls = read(text.as_bytes()).unwrap();
        assert_eq!(calls.functions, ["b", "a"]);
        let at = calls.arrivals.iter().map(|c| (c.at.as_micros(), c.function)).collect::<Vec<_>>();
        assert_eq!(at, [(250, 1), (1_500_000, 0), (1_500_000, 1)]);
        assert_eq!(calls.arrivals[0].duration, Some(Duration::from_millis(10)));
        let mut written = Vec::new();
        write(&calls, &mut written).unwrap();
        assert_eq!(read(written.as_slice()).unwrap().arrivals.len(), 3);
    }

    #[test]
    fn calls_of_2021_begin_before_they_end_and_the_first_is_time_zero() {
        let text = "app,func,end_timestamp,duration\nx,f,2.0,3.0\nx,f,1.5,0.5\n";
        let calls = read(text.as_bytes()).unwrap();
        assert_eq!(calls.functions, ["x-f"]);
        let at = calls.arrivals.iter().map(|c| c.at.as_millis()).collect::<Vec<_>>();
        assert_eq!(at, [0, 2000]);
    }

    #[test]
    fn a_mistake_names_line_and_column() {
        for (text, message) in [
            ("at_ms\n1\n", "no column \"function\" in the header line"),
            ("at_ms,function\nsoon,a\n", "line 2: \"at_ms\" cannot be \"soon\""),
            ("at_ms,function\n1e300,a\n", "line 2: \"at_ms\" cannot be \"1e300\""),
            ("at_ms,function\n", "the trace is empty"),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for header in ["", "at_ms,function,duration_ms\n", "app,func,end_timestamp,duration\n"] {
                let _ = read([header.as_bytes(), &bytes].concat().as_slice());
            }
            let _ = crate::minutes::read([b"HashApp,HashFunction,1\n", &bytes[..]].concat().as_slice(), None, None);
        }
    }
}
