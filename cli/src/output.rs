//! Writing for people: results to standard output, complaints to standard error.

use std::io::{self, Write};

/// Writes a line to standard output.
///
/// A closed pipe (`hyperfaas list | head -1`) is no error: nobody reads any more.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a line to standard error, with the program's name in front.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "hyperfaas: {line}");
}

/// Rows as aligned columns, two spaces apart; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".into(), "long".into(), "x".into()],
            vec!["bbb".into(), "c".into(), "yy".into()],
        ];
        assert_eq!(table(&rows), ["a    long  x", "bbb  c     yy"]);
        assert!(table(&[]).is_empty());
    }
}
