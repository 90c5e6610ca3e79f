//! Which of the things beyond the engine's API this provider may do here; found out once, at start, by doing them.
//!
//! In: this process's capabilities, the kernel, the roots' directory. Out: the slots, or why there are none.
//! Always: each missing right is named with what it is for; nothing is left behind by trying.

use std::fmt;

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::rootfs::Roots;
use super::slot::{SlotError, Slots};

/// The initial pid namespace's number, the same on every Linux (`PROC_PID_INIT_INO`).
const HOST_PIDS: &str = "pid:[4026531836]";
/// What slots need, and for what.
const NEEDED: [(CapabilitySet, &str, &str); 11] = [
    (CapabilitySet::SYS_ADMIN, "SYS_ADMIN", "mounts and namespaces"),
    (CapabilitySet::SYS_PTRACE, "SYS_PTRACE", "entering containers"),
    (CapabilitySet::SYS_CHROOT, "SYS_CHROOT", "entering containers"),
    (CapabilitySet::MKNOD, "MKNOD", "devices in slots"),
    (CapabilitySet::SETUID, "SETUID", "mapping users"),
    (CapabilitySet::SETGID, "SETGID", "mapping users"),
    (CapabilitySet::CHOWN, "CHOWN", "unpacking images"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE", "unpacking images"),
    (CapabilitySet::FOWNER, "FOWNER", "unpacking images"),
    (CapabilitySet::FSETID, "FSETID", "unpacking images"),
    (CapabilitySet::SETFCAP, "SETFCAP", "unpacking images"),
];

/// Whether this provider can do a thing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// Whether it can.
    pub on: bool,
    /// Why not; empty when it can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Ability {
    /// It can.
    pub const ON: Self = Self { on: true, missing: Vec::new() };

    /// It cannot, for these reasons.
    pub const fn off(missing: Vec<String>) -> Self {
        Self { on: false, missing }
    }

    /// It can if nothing is missing.
    pub const fn unless(missing: Vec<String>) -> Self {
        Self { on: missing.is_empty(), missing }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.on { f.write_str("on") } else { write!(f, "off: {}", self.missing.join("; ")) }
    }
}

/// Tries whether slots can be made here; they are handed out if so.
pub async fn slots(roots: &Roots) -> (Option<Slots>, Ability) {
    let missing = missing(effective(), pid_namespace().as_deref());
    if !missing.is_empty() {
        return (None, Ability::off(missing));
    }
    match rehearse(roots).await {
        Ok(slots) => (Some(slots), Ability::ON),
        Err(error) => (None, Ability::off(vec![explain(&error)])),
    }
}

async fn rehearse(roots: &Roots) -> Result<Slots, SlotError> {
    let slots = Slots::start(roots)?;
    slots.rehearse(roots).await?;
    Ok(slots)
}

/// What is missing by `capabilities` and the number of our pid namespace.
fn missing(capabilities: CapabilitySet, pids: Option<&str>) -> Vec<String> {
    let absent = NEEDED.iter().filter(|(needed, ..)| !capabilities.contains(*needed));
    let mut missing: Vec<String> =
        absent.map(|(_, name, what)| format!("capability {name} ({what})")).collect();
    if pids != Some(HOST_PIDS) {
        missing.push("the host's pid namespace (finding containers' processes)".to_owned());
    }
    missing
}

fn effective() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

fn pid_namespace() -> Option<String> {
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str().map(str::to_owned)
}

/// The failed step, with what commonly is behind it.
fn explain(error: &SlotError) -> String {
    let hint = match error {
        SlotError::Failed(failed) => match failed.step {
            "map the image's user" => {
                " (needs Linux 5.19 and roots on a file system with id-mapped mounts: ext4, xfs, btrfs)"
            }
            "mount an overlay" => " (needs the overlay file system)",
            "make a user namespace" => " (user.max_user_namespaces may be 0)",
            "make a mount namespace"
            | "keep its mounts private"
            | "mount a tmpfs"
            | "attach a mount"
            | "close a mount" => " (a seccomp or AppArmor profile may forbid mounts)",
            _ => "",
        },
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_right_is_named_with_its_purpose() {
        let all = NEEDED.iter().fold(CapabilitySet::empty(), |all, (needed, ..)| all | *needed);
        assert_eq!(missing(all, Some(HOST_PIDS)), Vec::<String>::new());
        let without = missing(all - CapabilitySet::SYS_ADMIN - CapabilitySet::SYS_PTRACE, None);
        assert_eq!(
            without,
            [
                "capability SYS_ADMIN (mounts and namespaces)",
                "capability SYS_PTRACE (entering containers)",
                "the host's pid namespace (finding containers' processes)",
            ]
        );
        let text = Ability::off(without).to_string();
        assert!(text.starts_with("off: capability SYS_ADMIN") && text.lines().count() == 1);
        assert_eq!(missing(all, Some("pid:[4026532177]")).len(), 1);
    }

    #[test]
    fn an_ability_says_why_it_is_off_and_nothing_else() {
        let json = |ability| serde_json::to_string(&ability).unwrap();
        assert_eq!(json(Ability::ON), r#"{"on":true}"#);
        assert_eq!(json(Ability::off(vec!["x".into()])), r#"{"on":false,"missing":["x"]}"#);
    }
}
