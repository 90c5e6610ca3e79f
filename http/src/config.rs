//! Settings as OpenFaaS writes them: environment variables, with an optional TOML file below.
//!
//! In: a lookup by name. Out: typed values; every mistake is collected, so a user sees all of them at once.
//! Always: a variable that is set wins over the file; an empty value counts as not set.
//! Touches: the environment and the file named by [`FILE_VARIABLE`], in [`lookup`] only.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, File, FileFormat};
use hyperfaas_protocol::duration::GoDuration;

/// Names the optional settings file.
pub const FILE_VARIABLE: &str = "HYPERFAAS_CONFIG";
/// Exit status of a program whose settings are wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_SETTINGS: u8 = 64;

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// The process's settings: environment first, then the file that `HYPERFAAS_CONFIG` names.
///
/// Keys of the file are the variables' names in lower case; values may be strings, numbers or booleans.
///
/// # Errors
/// [`SettingsError`] when the file is named but cannot be read or is not TOML.
pub fn lookup() -> Result<impl Fn(&str) -> Option<String>, SettingsError> {
    let file = match std::env::var(FILE_VARIABLE) {
        Ok(path) if !path.is_empty() => Some(read_file(&path)?),
        _ => None,
    };
    Ok(layered(|name: &str| std::env::var(name).ok(), file))
}

fn layered(
    environment: impl Fn(&str) -> Option<String>,
    file: Option<Config>,
) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let below = || file.as_ref()?.get_string(&name.to_ascii_lowercase()).ok();
        environment(name).filter(|value| !value.is_empty()).or_else(below)
    }
}

fn read_file(path: &str) -> Result<Config, SettingsError> {
    let file = File::new(path, FileFormat::Toml);
    let read = Config::builder().add_source(file).build();
    read.map_err(|error| {
        SettingsError(vec![format!("{FILE_VARIABLE}: {path}: {}", one_line(&error))])
    })
}

fn one_line(error: &impl Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads typed settings through a lookup and remembers every mistake.
pub struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl std::fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("mistakes", &self.mistakes).finish_non_exhaustive()
    }
}

impl<'a> Settings<'a> {
    /// Settings that come from `lookup`.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, mistakes: Vec::new() }
    }

    /// The text of `name`, white space around it removed; `None` when not set or empty.
    pub fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The text of `name`, or `default`.
    pub fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    /// Whether `name` is exactly `true`; everything else is false, as in OpenFaaS.
    pub fn flag(&self, name: &str) -> bool {
        (self.lookup)(name).is_some_and(|text| text == "true")
    }

    /// Whether a setting that is on by default stays on: only exactly `false` turns it off.
    pub fn flag_unless_false(&self, name: &str) -> bool {
        (self.lookup)(name).is_none_or(|text| text != "false")
    }

    /// A duration (`60`, `1m30s`), or `default`; zero and negative ones are mistakes.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.optional_duration(name, default).unwrap_or_else(|| {
            self.mistake(name, "must be longer than zero");
            default
        })
    }

    /// A duration, or `default`; zero or less means "no limit" and is `None`.
    pub fn optional_duration(&mut self, name: &str, default: Duration) -> Option<Duration> {
        let Some(text) = self.text(name) else { return Some(default) };
        match GoDuration::parse_setting(&text) {
            Some(duration) => duration.positive(),
            None => {
                self.mistake(
                    name,
                    &format!("\"{}\" is not a duration such as 60, 90s or 1m30s", shorten(&text)),
                );
                Some(default)
            }
        }
    }

    /// A whole number within the type's range, or `default`.
    pub fn integer<T: FromStr>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.mistake(name, &format!("\"{}\" is not a whole number in range", shorten(&text)));
            default
        })
    }

    /// Adds a mistake about `name`; for rules of the caller's own.
    pub fn mistake(&mut self, name: &str, problem: &str) {
        self.mistakes.push(format!("{name}: {problem}"));
    }

    /// `value`, unless there was any mistake.
    ///
    /// # Errors
    /// [`SettingsError`] with all of them.
    pub fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        if self.mistakes.is_empty() { Ok(value) } else { Err(SettingsError(self.mistakes)) }
    }
}

/// A bounded, printable form of a wrong value.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_openfaas_rules() {
        let lookup = |name: &str| match name {
            "read_timeout" => Some("90".to_owned()),
            "write_timeout" => Some("1m30s".to_owned()),
            "never" => Some("0".to_owned()),
            "basic_auth" => Some("true".to_owned()),
            "shouting" => Some("TRUE".to_owned()),
            "port" => Some("8081".to_owned()),
            "blank" => Some(String::new()),
            _ => None,
        };
        let mut settings = Settings::new(&lookup);
        let day = Duration::from_secs(86_400);
        assert_eq!(settings.duration("read_timeout", day), Duration::from_secs(90));
        assert_eq!(settings.duration("write_timeout", day), Duration::from_secs(90));
        assert_eq!(settings.duration("blank", day), day);
        assert_eq!(settings.optional_duration("never", day), None);
        assert!(
            settings.flag("basic_auth") && !settings.flag("shouting") && !settings.flag("absent")
        );
        assert_eq!(settings.integer("port", 1_u16), 8081);
        assert_eq!(settings.finish(()), Ok(()));
    }

    #[test]
    fn every_mistake_is_reported_by_name() {
        let lookup = |name: &str| match name {
            "a" => Some("fast".to_owned()),
            "b" => Some("-3".to_owned()),
            "c" => Some("0".to_owned()),
            _ => None,
        };
        let mut settings = Settings::new(&lookup);
        settings.duration("a", Duration::from_secs(1));
        settings.integer::<u16>("b", 1);
        settings.duration("c", Duration::from_secs(1));
        let error = settings.finish(()).unwrap_err();
        assert_eq!(error.0.len(), 3);
        assert_eq!(
            error.to_string().lines().map(|line| &line[..2]).collect::<Vec<_>>(),
            ["a:", "b:", "c:"]
        );
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.toml");
        std::fs::write(&path, "port = 9000\nbasic_auth = true\nread_timeout = \"7s\"\n").unwrap();
        let file = read_file(path.to_str().unwrap()).unwrap();
        let environment = |name: &str| match name {
            "read_timeout" => Some("9s".to_owned()),
            "port" => Some(String::new()),
            _ => None,
        };
        let lookup = layered(environment, Some(file));
        assert_eq!(lookup("read_timeout").as_deref(), Some("9s"));
        assert_eq!(lookup("port").as_deref(), Some("9000"));
        assert_eq!(lookup("basic_auth").as_deref(), Some("true"));
        assert_eq!(lookup("absent"), None);
    }

    #[test]
    fn a_broken_file_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.toml");
        std::fs::write(&path, "port = [").unwrap();
        let error = read_file(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error.0.len(), 1);
        assert!(
            error.0[0].starts_with("HYPERFAAS_CONFIG: ") && !error.0[0].contains('\n'),
            "{error}"
        );
        assert!(read_file("/nowhere/at/all.toml").is_err());
    }
}
