//! What a function needs to be served in a container that is not its own, made from what it would get in one of its own.
//!
//! In: the order for its own container, its image's root, a place and a user. Out: a [`Visit`]: the slot to be made and the
//! work for the watchdog, or why it cannot be a guest.
//! Always: same variables, command, working directory, secrets and read-only root as in its own container; the user alone
//! is another, and everything of the image's user is that user's.
//! Touches: nothing. Source: the defaults Docker adds to an image's variables.

use std::sync::atomic::{AtomicU32, Ordering};

use hyperfaas_protocol::control::Guest;

use super::rootfs::Root;
use super::slot::{DEFAULT_FILES_MAX, DEFAULT_SIZE_BYTES, Exchange, Identity, SlotName, SlotOrder};
use crate::engine::StartOrder;

/// Most processes and threads of a guest: what a large runtime has, and a fork bomb ends at.
pub const PROCESSES_MAX: u32 = 1024;
/// Most open descriptors of one process of a guest.
pub const DESCRIPTORS_MAX: u32 = 16_384;
/// Docker's `PATH` for images that have none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Users of guests: above those of images and of mapped containers, below what Docker takes for none.
const USERS: std::ops::Range<u32> = 0x4000_0000..0x7fff_0000;

/// A guest's slot and work, which belong together.
#[derive(Debug, Clone)]
pub struct Visit {
    /// What the slot is to be.
    pub slot: SlotOrder,
    /// What its worker is to run, once the slot is there.
    pub guest: Guest,
}

/// Why a function is served in containers of its own only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVisit {
    /// A guest is never root, and what runs as root counts on what root may do.
    #[error("its image runs as root")]
    Root,
    /// The image's user is not in the image.
    #[error("its image has no user \"{0}\"")]
    User(String),
}

/// Hands out users that no other guest of this host has.
#[derive(Debug)]
pub struct Users(AtomicU32);

impl Users {
    /// Begins anywhere: `random` keeps users of an earlier run apart from those of this one.
    pub const fn begin(random: u32) -> Self {
        Self(AtomicU32::new(random % (USERS.end - USERS.start)))
    }

    /// The next one; comes again after a thousand million others. The kernel counts processes by user over the whole host.
    pub fn next(&self) -> Identity {
        let number = self.0.fetch_add(1, Ordering::Relaxed) % (USERS.end - USERS.start);
        let id = USERS.start + number;
        Identity { uid: id, gid: id }
    }
}

/// The visit of the function that `order` would start, as `user` in a worker's epoch.
///
/// # Errors
/// [`NoVisit`].
pub fn visit(
    order: &StartOrder,
    root: Root,
    (worker, epoch): (u8, u64),
    user: Identity,
) -> Result<Visit, NoVisit> {
    let image_user =
        root.facts().user.clone().ok_or_else(|| NoVisit::User(order.image.user.clone()))?;
    if image_user.uid == 0 {
        return Err(NoVisit::Root);
    }
    let name = SlotName::of(worker, epoch);
    let directory =
        if order.image.directory.is_empty() { "/" } else { order.image.directory.as_str() };
    let guest = Guest {
        function: format!("{}.{}", order.function.name, order.function.namespace),
        kind: order.kind,
        entrypoint: order.boot.entrypoint.clone(),
        command: order.boot.command.clone(),
        environment: environment(order, &image_user.home),
        root: name.path(),
        directory: directory.to_owned(),
        uid: user.uid,
        gid: user.gid,
        in_flight_max: order.boot.in_flight_max,
        processes_max: PROCESSES_MAX,
        descriptors_max: DESCRIPTORS_MAX,
        is_held: false,
    };
    let from = Identity { uid: image_user.uid, gid: image_user.gid };
    let slot = SlotOrder {
        name,
        root,
        exchange: Exchange { from, to: user },
        directory: directory.to_owned(),
        read_only: order.read_only_root,
        size_bytes: DEFAULT_SIZE_BYTES,
        files_max: DEFAULT_FILES_MAX,
        secrets: order.secrets.clone(),
    };
    Ok(Visit { slot, guest })
}

/// The image's variables and the deployment's, each name once, the last one counting; and what Docker adds.
fn environment(order: &StartOrder, home: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        vec![("PATH".into(), PATH.into()), ("HOME".into(), home.into())];
    for (name, value) in order.image.env.iter().chain(&order.env) {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => all.push((name.clone(), value.clone())),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use hyperfaas_protocol::control::Boot;
    use hyperfaas_protocol::image::FunctionKind;
    use hyperfaas_protocol::names::Namespace;
    use hyperfaas_protocol::{FunctionKey, FunctionName};

    use super::super::rootfs::ImageUser;
    use super::*;
    use crate::engine::{Bounds, Image, ReplicaId};

    fn order() -> StartOrder {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        StartOrder {
            replica: ReplicaId("ns.f.1".into()),
            function: FunctionKey {
                namespace: Namespace::parse("ns").unwrap(),
                name: FunctionName::parse("f").unwrap(),
            },
            revision: 1,
            image: Image {
                reference: "f:1".into(),
                id: String::new(),
                digest: None,
                env: vec![pair("A", "image"), pair("B", "image")],
                entrypoint: Vec::new(),
                command: Vec::new(),
                user: "app".into(),
                directory: String::new(),
            },
            kind: FunctionKind::Watchdog,
            env: vec![pair("B", "deployment"), pair("fprocess", "x")],
            boot: Boot {
                version: 1,
                key: "k".into(),
                control_port: 1,
                http_port: 2,
                kind: FunctionKind::Watchdog,
                entrypoint: vec!["/entry".into()],
                command: vec!["fwatchdog".into()],
                user: "app".into(),
                has_home: false,
                is_standby: false,
                in_flight_max: Some(3),
            },
            limits: Bounds::default(),
            requests: Bounds::default(),
            read_only_root: true,
            secrets: Vec::new(),
        }
    }

    fn root(user: Option<(u32, u32)>) -> Root {
        let user = user.map(|(uid, gid)| ImageUser { uid, gid, home: "/home/app".into() });
        Root::for_tests(user)
    }

    const GUEST: Identity = Identity { uid: 7_000_000, gid: 7_000_001 };

    #[test]
    fn a_guest_has_what_it_has_in_its_own_container() {
        let visit = visit(&order(), root(Some((100, 101))), (1, 9), GUEST).unwrap();
        let guest = &visit.guest;
        let value = |name: &str| {
            let found: Vec<_> = guest.environment.iter().filter(|(n, _)| n == name).collect();
            assert!(found.len() <= 1, "{name} once");
            found.first().map(|(_, value)| value.as_str())
        };
        assert_eq!(value("A"), Some("image"));
        assert_eq!(value("B"), Some("deployment"));
        assert_eq!((value("HOME"), value("PATH")), (Some("/home/app"), Some(PATH)));
        assert_eq!((guest.function.as_str(), guest.directory.as_str()), ("f.ns", "/"));
        assert_eq!(
            (guest.root.as_str(), guest.uid, guest.gid),
            ("/.hyperfaas/slots/1-9", 7_000_000, 7_000_001)
        );
        assert_eq!(
            (guest.entrypoint.as_slice(), guest.in_flight_max),
            (&["/entry".to_owned()][..], Some(3))
        );
        let slot = &visit.slot;
        assert_eq!(slot.name.path(), guest.root);
        assert_eq!(slot.exchange, Exchange { from: Identity { uid: 100, gid: 101 }, to: GUEST });
        assert!(slot.read_only);
    }

    #[test]
    fn what_a_deployment_sets_wins_over_what_is_added() {
        let mut order = order();
        order.env.push(("HOME".into(), "/elsewhere".into()));
        order.image.env.push(("PATH".into(), "/only".into()));
        order.image.directory = "/home/app".into();
        let visit = visit(&order, root(Some((100, 101))), (0, 1), GUEST).unwrap();
        let has = |name: &str, value: &str| {
            visit.guest.environment.contains(&(name.to_owned(), value.to_owned()))
        };
        assert!(has("HOME", "/elsewhere") && has("PATH", "/only"));
        assert_eq!(
            (visit.guest.directory.as_str(), visit.slot.directory.as_str()),
            ("/home/app", "/home/app")
        );
    }

    #[test]
    fn root_and_nobody_are_no_guests() {
        let refused = |user| visit(&order(), root(user), (1, 1), GUEST).unwrap_err();
        assert_eq!(refused(Some((0, 5))), NoVisit::Root);
        assert_eq!(refused(None), NoVisit::User("app".into()));
    }

    #[test]
    fn users_are_never_roots_nor_the_same() {
        for random in [0, 1, u32::MAX, USERS.end - USERS.start - 2] {
            let users = Users::begin(random);
            let some: std::collections::HashSet<_> = (0..1000).map(|_| users.next()).collect();
            assert_eq!(some.len(), 1000);
            assert!(some.iter().all(|user| USERS.contains(&user.uid) && user.uid == user.gid));
        }
    }
}
