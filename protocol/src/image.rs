//! What kind of function an image holds, told from its configuration alone.
//!
//! In: the effective environment, entrypoint and command. Out: [`FunctionKind`].
//! Source: `fprocess`, `mode` and the command `fwatchdog` of every official template (docs/compat.md).

use serde::{Deserialize, Serialize};

/// How a function's process is run and reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    /// Built for a watchdog: `fprocess` and `mode` say what to run; the image's command is the original watchdog.
    Watchdog,
    /// Serves HTTP on port 8080 by itself; its own entrypoint and command are run.
    Server,
}

/// The kind of an image whose effective environment is `variable`, started by `entrypoint` followed by `command`.
pub fn kind<'a>(
    variable: impl Fn(&str) -> Option<&'a str>,
    entrypoint: &[String],
    command: &[String],
) -> FunctionKind {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    if variable("mode") == Some("inproc") {
        return FunctionKind::Server;
    }
    let is_watchdog = |word: &String| word.rsplit('/').next() == Some("fwatchdog");
    if set("fprocess")
        || set("function_process")
        || entrypoint.iter().chain(command).any(is_watchdog)
    {
        FunctionKind::Watchdog
    } else {
        FunctionKind::Server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(env: &[(&str, &str)], entrypoint: &[&str], command: &[&str]) -> FunctionKind {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let variable =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        kind(variable, &words(entrypoint), &words(command))
    }

    #[test]
    fn official_templates_are_told_from_plain_servers() {
        use FunctionKind::{Server, Watchdog};
        assert_eq!(kind_of(&[("fprocess", "cat")], &[], &["fwatchdog"]), Watchdog);
        assert_eq!(kind_of(&[], &[], &["fwatchdog"]), Watchdog);
        assert_eq!(kind_of(&[], &[], &["./fwatchdog"]), Watchdog);
        assert_eq!(
            kind_of(&[("fprocess", "x")], &["docker-entrypoint.sh"], &["fwatchdog"]),
            Watchdog
        );
        assert_eq!(kind_of(&[("fprocess", "node index.js")], &[], &["start.sh"]), Watchdog);
        assert_eq!(
            kind_of(&[("fprocess", "./handler"), ("mode", "inproc")], &[], &["./handler"]),
            Server
        );
        assert_eq!(kind_of(&[], &["/server"], &[]), Server);
        assert_eq!(kind_of(&[("fprocess", "")], &["/server"], &[]), Server);
    }
}
