//! A function that runs in a container it does not own: its order checked, its settings read, its cage built.
//!
//! In: a [`Guest`] as ordered. Out: a [`Visit`], with everything that can fail before its processes start, or one line that
//! says why it cannot be served here.
//! Always: what comes from the guest's image is looked up in its own root; its settings are read exactly as an owner's.
//! Touches: the slot, `/proc`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;

use hyperfaas_protocol::control::{Boot, FUNCTION_PORT, Guest, LINK_VERSION, VARIABLE_PREFIX};
use rustix::process::Uid;

use super::crew::Trait;
use super::hold;
use crate::config::{Config, Mode};
use crate::evidence;
use crate::rooted::Root;
use crate::sys::{Cage, CagePlan, OUTBOUND, check_guests};

/// Longest name of a function with its namespace, in bytes.
const NAME_MAX: usize = 253;

/// A guest that can be started.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) function: String,
    pub(super) config: Config,
    /// The command that waits with the function, where the order says so.
    pub(super) held: Option<Vec<String>>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) root: Root,
    pub(super) cage: Cage,
    pub(super) user: Uid,
}

impl Visit {
    /// Checks `guest`; `taken` are the ports that others in this container listen on.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub(super) fn prepare(guest: &Guest, taken: &[u16]) -> Result<Self, String> {
        check_guests().map_err(|error| format!("guests cannot be kept apart here: {error}"))?;
        check_name(&guest.function)?;
        let environment = environment(guest)?;
        let path = Path::new(&guest.root);
        let root = Root::open(path).map_err(|error| format!("its root {}: {error}", guest.root))?;
        let config = settings(guest, &root)?;
        let held = guest.is_held.then(|| held(&config)).transpose()?;
        let user = Uid::from_raw(guest.uid);
        let connect: Vec<_> = OUTBOUND
            .into_iter()
            // Behind the container's own 8080 is only what everybody on the network may call.
            .filter(|port| *port == FUNCTION_PORT || !taken.contains(port))
            .collect();
        let cage = Cage::build(CagePlan {
            root: path,
            directory: &guest.directory,
            ids: (guest.uid, guest.gid),
            processes_max: guest.processes_max,
            descriptors_max: guest.descriptors_max,
            connect: &connect,
        });
        let cage = cage.map_err(|error| error.to_string())?;
        if Trait::User(user).is_taken() {
            return Err(format!("its user {user} has processes in this container"));
        }
        Ok(Self { function: guest.function.clone(), config, held, environment, root, cage, user })
    }
}

/// A name that is safe in every line it appears in.
fn check_name(function: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if function.is_empty() || function.len() > NAME_MAX || !function.bytes().all(is_plain) {
        return Err("the function's name is not valid".into());
    }
    Ok(())
}

/// The guest's environment without our own variables.
fn environment(guest: &Guest) -> Result<Vec<(OsString, OsString)>, String> {
    let is_valid = |(name, value): &&(String, String)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    if !guest.environment.iter().all(|pair| is_valid(&pair)) {
        return Err("its environment has a name or value that no process can have".into());
    }
    let theirs = guest.environment.iter().filter(|(name, _)| !name.starts_with(VARIABLE_PREFIX));
    Ok(theirs.map(|(name, value)| (name.into(), value.into())).collect())
}

fn settings(guest: &Guest, root: &Root) -> Result<Config, String> {
    let variable = |name: &str| {
        let found = guest.environment.iter().find(|(theirs, _)| theirs == name);
        found.map(|(_, value)| value.clone())
    };
    // Of these only kind and command matter to a guest's settings.
    let boot = Boot {
        version: LINK_VERSION,
        key: String::new(),
        control_port: 0,
        http_port: FUNCTION_PORT,
        kind: guest.kind,
        entrypoint: guest.entrypoint.clone(),
        command: guest.command.clone(),
        user: String::new(),
        has_home: true,
        is_standby: false,
        in_flight_max: None,
    };
    let path = variable("PATH").unwrap_or_default();
    let scan = || evidence::scan(&path, |file| root.file(file));
    let mut config =
        Config::from_vars(variable, Some(&boot), scan).map_err(|error| error.to_string())?;
    if let Some(max) = guest.in_flight_max {
        let max = usize::try_from(max).ok().and_then(NonZeroUsize::new);
        config.max_inflight = Some(max.ok_or("its in_flight_max is 0")?);
    }
    match &mut config.mode {
        // Where the keys come from is up to the guest, and asked by us: it would reach through us what its cage denies it.
        _ if config.jwt.is_some() => Err("jwt_auth is not served for guests".into()),
        // The same: the connection would be ours.
        Mode::Http { upstream, .. } if !upstream.is_loopback() => {
            Err("its upstream_url is not its own server".into())
        }
        Mode::Static { root: site } => {
            *site = Path::new(&guest.directory).join(&*site);
            Ok(config)
        }
        _ => Ok(config),
    }
}

/// The command of a server that waits before it runs.
fn held(config: &Config) -> Result<Vec<String>, String> {
    match &config.mode {
        Mode::Http { words, .. } => hold::held(words).map_err(str::to_owned),
        _ => Err("only a server's interpreter can wait".into()),
    }
}

/// The settings' upstream port, where there is a server.
pub(super) fn port(config: &Config) -> Option<u16> {
    match &config.mode {
        Mode::Http { upstream, .. } => Some(upstream.port),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::image::FunctionKind;

    use super::*;

    fn guest(environment: &[(&str, &str)]) -> Guest {
        let pairs = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Guest {
            function: "f.openfaas-fn".into(),
            kind: FunctionKind::Watchdog,
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: pairs.collect(),
            root: "/".into(),
            directory: "/".into(),
            uid: 7,
            gid: 7,
            in_flight_max: None,
            processes_max: 10,
            descriptors_max: 10,
            is_held: false,
        }
    }

    #[test]
    fn settings_are_read_as_an_owners() {
        let slot = tempfile::tempdir().unwrap();
        let root = Root::open(slot.path()).unwrap();
        let of = |environment: &[(&str, &str)]| settings(&guest(environment), &root);
        let served = of(&[("fprocess", "cat"), ("max_inflight", "3")]).unwrap();
        assert_eq!(served.max_inflight.map(NonZeroUsize::get), Some(3));
        let limited = Guest { in_flight_max: Some(2), ..guest(&[("fprocess", "cat")]) };
        let limited = settings(&limited, &root).unwrap();
        assert_eq!(limited.max_inflight.map(NonZeroUsize::get), Some(2));
        let none = Guest { in_flight_max: Some(0), ..guest(&[("fprocess", "cat")]) };
        assert_eq!(settings(&none, &root).unwrap_err(), "its in_flight_max is 0");
        let url = ("upstream_url", "http://127.0.0.1:5000");
        assert_eq!(port(&of(&[("fprocess", "x"), ("mode", "http"), url]).unwrap()), Some(5000));
        let server = Guest { kind: FunctionKind::Server, command: vec!["x".into()], ..guest(&[]) };
        assert!(settings(&server, &root).unwrap().is_relay);
        for (path, found) in [("site", "/srv/site"), ("/site", "/site")] {
            let guest = guest(&[("mode", "static"), ("static_path", path)]);
            let guest = Guest { directory: "/srv".into(), ..guest };
            let expected = Mode::Static { root: found.into() };
            assert_eq!(settings(&guest, &root).unwrap().mode, expected);
        }
        for (environment, reason) in [
            (&[][..], "provide a valid process via fprocess environmental variable"),
            (
                &[("fprocess", "x"), ("mode", "http"), ("upstream_url", "http://elsewhere")],
                "its upstream_url is not its own server",
            ),
            (
                &[
                    ("fprocess", "x"),
                    ("jwt_auth", "true"),
                    ("OPENFAAS_NAME", "x"),
                    ("OPENFAAS_NAMESPACE", "x"),
                ],
                "jwt_auth is not served for guests",
            ),
        ] {
            assert_eq!(of(environment).unwrap_err(), reason);
        }
    }

    #[test]
    fn names_and_environments_that_cannot_be_are_refused() {
        for name in ["", "a b", "a\n", "ä", &"x".repeat(254)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("Fn_1.name-space").is_ok());
        for pair in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "\0")] {
            assert!(environment(&guest(&[pair])).is_err(), "{pair:?}");
        }
        let kept = environment(&guest(&[("A", "1"), ("HYPERFAAS_BOOT", "2")])).unwrap();
        assert_eq!(kept, [("A".into(), "1".into())]);
    }
}
