//! CSV with a header line, columns found by their names; every mistake names its line and column.

use std::io::Read;

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not CSV, not UTF-8, or the source failed.
    #[error("cannot read the trace")]
    Csv(#[from] csv::Error),
    /// No column of any of these names.
    #[error("no column {0:?} in the header line")]
    Column(&'static str),
    /// A cell that is not what its column demands.
    #[error("line {line}: {column:?} cannot be {value:?}")]
    Cell {
        /// Counted from 1, the header line included.
        line: u64,
        /// Which column.
        column: String,
        /// What stood there, cut to 40 characters.
        value: String,
    },
    /// A trace without functions or without minutes.
    #[error("the trace is empty")]
    Empty,
}

/// A file being read.
pub(crate) struct Table<R> {
    reader: csv::Reader<R>,
    header: Vec<String>,
}

impl<R: Read> Table<R> {
    pub(crate) fn new(source: R) -> Result<Self, ReadError> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(false).from_reader(source);
        let header = reader.headers()?.iter().map(ToOwned::to_owned).collect();
        Ok(Self { reader, header })
    }

    /// Names of the columns, in order.
    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    /// The column `name`, whatever its case.
    pub(crate) fn column(&self, name: &'static str) -> Result<usize, ReadError> {
        self.optional(name).ok_or(ReadError::Column(name))
    }

    pub(crate) fn optional(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column.eq_ignore_ascii_case(name))
    }

    /// The next row, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Row<'_>>, ReadError> {
        let mut record = csv::StringRecord::new();
        let more = self.reader.read_record(&mut record)?;
        Ok(more.then_some(Row { record, header: &self.header }))
    }
}

/// One line.
pub(crate) struct Row<'a> {
    record: csv::StringRecord,
    header: &'a [String],
}

impl Row<'_> {
    pub(crate) fn text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// A count; `3.0` counts too, since tools write that.
    pub(crate) fn count(&self, column: usize) -> Result<u32, ReadError> {
        let value = self.number(column)?;
        #[expect(clippy::cast_possible_truncation, reason = "checked in the line above it")]
        #[expect(clippy::cast_sign_loss, reason = "numbers of a table are not negative")]
        let count = (value.fract() == 0.0 && value <= f64::from(u32::MAX)).then_some(value as u32);
        count.ok_or_else(|| self.mistake(column))
    }

    /// A finite number that is not negative.
    pub(crate) fn number(&self, column: usize) -> Result<f64, ReadError> {
        let value = self.text(column).parse::<f64>().ok();
        value.filter(|v| v.is_finite() && *v >= 0.0).ok_or_else(|| self.mistake(column))
    }

    pub(crate) fn mistake(&self, column: usize) -> ReadError {
        ReadError::Cell {
            line: self.record.position().map_or(0, csv::Position::line),
            column: self.header.get(column).cloned().unwrap_or_default(),
            value: self.text(column).chars().take(40).collect(),
        }
    }
}
