//! `${VARIABLE}` in stack files.
//!
//! In: text and a lookup. Out: the text with values in place; pure.
//! Source: what faas-cli's envsubst does for the forms people use: `${A}`, `${A:-default}`, `${A-default}`, `${A:=default}`,
//! `${A=default}`, defaults that hold further `${…}`, and `$${…}` for a literal one. An empty value counts as unset; an
//! unset variable without a default is empty. `$A` without braces stays as it is.

/// Defaults within defaults; deeper ones are a mistake.
const DEPTH_MAX: usize = 8;

/// Why a text could not be substituted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubstituteError {
    /// No closing brace, or defaults nested too deeply.
    #[error("line {line}: ${{ without its }}")]
    Open {
        /// Counted from 1.
        line: usize,
    },
    /// A form that is not supported.
    #[error("line {line}: ${{{expression}}} is not of the form ${{NAME}} or ${{NAME:-default}}")]
    Form {
        /// Counted from 1.
        line: usize,
        /// What stands between the braces.
        expression: String,
    },
}

/// `text` with every `${…}` replaced.
///
/// # Errors
/// [`SubstituteError`] with the line where a form is unknown or not closed.
pub(crate) fn substitute(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, SubstituteError> {
    expand(text, lookup, 1, 0)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    first_line: usize,
    depth: usize,
) -> Result<String, SubstituteError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let line = first_line + text[..text.len() - rest.len() + start].matches('\n').count();
        let end = closing_brace(&rest[start + 2..]).filter(|_| depth < DEPTH_MAX);
        let end = start + 2 + end.ok_or(SubstituteError::Open { line })?;
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str(&rest[start..=end]);
        } else {
            out.push_str(&rest[..start]);
            out.push_str(&value(&rest[start + 2..end], lookup, line, depth)?);
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the brace that closes an open one is, nested `${…}` skipped.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if text[..index].ends_with('$') => depth += 1,
            b'}' if depth == 0 => return Some(index),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn value(
    expression: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    line: usize,
    depth: usize,
) -> Result<String, SubstituteError> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let end = expression.bytes().position(|b| !is_name(b)).unwrap_or(expression.len());
    let (name, tail) = expression.split_at(end);
    let default = [":-", ":=", "-", "="].iter().find_map(|operator| tail.strip_prefix(operator));
    if name.is_empty() || (default.is_none() && !tail.is_empty()) {
        let expression = expression.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(SubstituteError::Form { line, expression });
    }
    match (lookup(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => expand(default, lookup, line, depth + 1),
        (None, None) => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, SubstituteError> {
        substitute(text, &|name| match name {
            "TAG" => Some("1.2".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn values_and_defaults_are_put_in() {
        for (text, expected) in [
            ("image: a:${TAG}", "image: a:1.2"),
            ("${TAG:-latest} ${NONE:-latest} ${EMPTY:-latest}", "1.2 latest latest"),
            ("${NONE-a} ${NONE=b} ${NONE:=c}", "a b c"),
            ("${NONE:-${TAG}} ${NONE:-x${ALSO:-y}z}", "1.2 xyz"),
            ("${NONE:-http://a:8080/}", "http://a:8080/"),
            ("[${NONE}]", "[]"),
            ("$${TAG} $TAG $$ {} é", "${TAG} $TAG $$ {} é"),
            ("", ""),
        ] {
            assert_eq!(run(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(run("a\nb ${TAG").unwrap_err(), SubstituteError::Open { line: 2 });
        for bad in ["${}", "${TAG^^}", "${TAG/a/b}", "${ TAG }", "${TAG:3}"] {
            assert!(matches!(run(bad), Err(SubstituteError::Form { line: 1, .. })), "{bad}");
        }
        let deep = "${A:-".repeat(30) + &"}".repeat(30);
        assert_eq!(run(&deep).unwrap_err(), SubstituteError::Open { line: 1 });
    }
}
