//! Where we are: alone in an image, or started by a provider; and what workers inherit.
//!
//! In: our own environment. Out: a [`Place`].
//! Always: variables with our prefix reach no worker; a boot variable that cannot be understood is an error, never "alone".

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use hyperfaas_protocol::control::{BOOT_VARIABLE, Boot, LINK_VERSION, VARIABLE_PREFIX};

use crate::sys::Seal;
use crate::user;

/// How much likelier than ourselves the kernel should take a worker when memory runs out; the range is 0 to 1000.
const OOM_MARGIN: i32 = 300;

/// Where this watchdog runs.
#[derive(Debug)]
pub(crate) struct Place {
    /// What the provider said, if there is one.
    pub(crate) boot: Option<Boot>,
    /// The environment of workers.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// What workers give up.
    pub(crate) seal: Seal,
}

/// Why the place cannot be worked in; one line for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("{BOOT_VARIABLE} is not valid: {0}")]
    Boot(String),
    #[error("{BOOT_VARIABLE} has version {0}, this watchdog speaks {LINK_VERSION}")]
    Version(u8),
    #[error(transparent)]
    User(#[from] user::UserError),
    #[error("cannot become user {0:?}: this watchdog does not run as root")]
    NotRoot(String),
}

impl Place {
    /// Reads the environment and, under a provider, the image's user files.
    ///
    /// # Errors
    /// [`PlaceError`] for a boot variable that is malformed or of another version, and a user that cannot be had.
    pub(crate) fn find(variables: Vec<(OsString, OsString)>) -> Result<Self, PlaceError> {
        let boot = variables
            .iter()
            .find(|(name, _)| name == BOOT_VARIABLE)
            .map(|(_, value)| parse(value))
            .transpose()?;
        let mut environment = for_workers(variables);
        let mut seal = Seal {
            user: None,
            managed: boot.is_some(),
            oom_score: oom_score(),
            mark: None,
            cage: None,
        };
        if let Some(boot) = &boot {
            let user = user::load(&boot.user)?;
            if !boot.has_home {
                environment.insert("HOME".into(), user.home.clone().into());
            }
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            if (user.uid, user.gid) != (uid, gid) {
                if !uid.is_root() {
                    return Err(PlaceError::NotRoot(boot.user.clone()));
                }
                seal.user = Some(user);
            }
        }
        Ok(Self { boot, environment: environment.into_iter().collect(), seal })
    }
}

fn parse(value: &OsStr) -> Result<Boot, PlaceError> {
    // The text of a JSON error can quote the input, which holds the key: only its place is told.
    let describe = |error: serde_json::Error| {
        PlaceError::Boot(format!("{:?} error in column {}", error.classify(), error.column()))
    };
    let boot: Boot = serde_json::from_slice(value.as_bytes()).map_err(describe)?;
    match boot.version {
        LINK_VERSION if boot.key.is_empty() => Err(PlaceError::Boot("the key is empty".into())),
        LINK_VERSION => Ok(boot),
        version => Err(PlaceError::Version(version)),
    }
}

/// The environment without our own variables; of a name that occurs twice the last value counts.
fn for_workers(variables: Vec<(OsString, OsString)>) -> BTreeMap<OsString, OsString> {
    let is_ours = |name: &OsStr| name.as_bytes().starts_with(VARIABLE_PREFIX.as_bytes());
    variables.into_iter().filter(|(name, _)| !is_ours(name)).collect()
}

/// `None` where the kernel does not tell our own.
fn oom_score() -> Option<i32> {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    Some(own.saturating_add(OOM_MARGIN).clamp(-1000, 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pairs: &[(&str, &str)]) -> Result<Place, PlaceError> {
        Place::find(
            pairs
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect(),
        )
    }

    #[test]
    fn our_variables_reach_no_worker() {
        let place =
            find(&[("HYPERFAAS_METRICS_PORT", "off"), ("A", "1"), ("MY_HYPERFAAS_", "2")]).unwrap();
        let names: Vec<_> =
            place.environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["A", "MY_HYPERFAAS_"]);
        assert!(place.boot.is_none() && !place.seal.managed);
    }

    #[test]
    fn a_boot_that_cannot_be_understood_is_refused_without_telling_its_key() {
        for text in ["", "{", "[]", r#"{"version":1,"key":"secret","control_port":70000}"#] {
            let error = find(&[("HYPERFAAS_BOOT", text)]).unwrap_err().to_string();
            assert!(
                error.starts_with("HYPERFAAS_BOOT is not valid") && !error.contains("secret"),
                "{error}"
            );
        }
        let newer = r#"{"version":9,"key":"k","control_port":1,"http_port":2,"kind":"watchdog"}"#;
        assert!(matches!(find(&[("HYPERFAAS_BOOT", newer)]), Err(PlaceError::Version(9))));
    }
}
