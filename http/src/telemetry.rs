//! Log set-up of the programs: to standard error, text or JSON, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

/// Chooses the form of log lines: `text` (default) or `json`.
pub const FORMAT_VARIABLE: &str = "HYPERFAAS_LOG_FORMAT";
/// Chooses what is logged, in the syntax of tracing's filters; default `info`.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The format is neither `text` nor `json`.
    #[error("{FORMAT_VARIABLE}: \"{0}\" is neither text nor json")]
    Format(String),
    /// The filter's syntax is wrong.
    #[error("{FILTER_VARIABLE}: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else set up logging in this process.
    #[error("logging is already set up: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process; `lookup` finds [`FORMAT_VARIABLE`] and [`FILTER_VARIABLE`].
///
/// # Errors
/// [`TelemetryError`] when a variable is wrong or logging was set up before.
pub fn init(lookup: impl Fn(&str) -> Option<String>) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(lookup(FILTER_VARIABLE).unwrap_or_else(|| "info".into()))?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    match format(lookup(FORMAT_VARIABLE).as_deref())? {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

fn format(text: Option<&str>) -> Result<LogFormat, TelemetryError> {
    match text {
        None | Some("" | "text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(TelemetryError::Format(other.chars().take(40).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_text_unless_json_is_asked_for() {
        assert_eq!(format(None).unwrap(), LogFormat::Text);
        assert_eq!(format(Some("json")).unwrap(), LogFormat::Json);
        assert!(format(Some("xml")).is_err());
    }
}
