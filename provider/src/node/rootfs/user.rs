//! Who the image's user is, told from the image's own files.
//!
//! In: Docker's user syntax, the texts of `/etc/passwd` and `/etc/group`. Out: numbers and a home, or what is missing.
//! Always: the same answer as the watchdog gives inside a container of that image.
//! Source: the rules of Docker (`docker run --user`): numbers need no entry, names do; malformed lines are skipped.
//! Touches: nothing.

use serde::{Deserialize, Serialize};

/// The identity an image's processes have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUser {
    /// The user's number.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
    /// From `/etc/passwd`, else `/`.
    pub home: String,
}

/// Finds `user` (`""`, `app`, `1000`, `app:staff`, `1000:1000`); `None` for a name without entry, or an id out of range.
pub(super) fn resolve(user: &str, passwd: &str, group: &str) -> Option<ImageUser> {
    let (name, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let number = if name.is_empty() { Some(0) } else { number(name) };
    let entry = passwd
        .lines()
        .filter_map(account)
        .find(|(known, uid, ..)| *known == name || number == Some(*uid));
    let (uid, own_group, home) = match (entry, number) {
        (Some((_, uid, gid, home)), _) => (uid, gid, home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) => return None,
    };
    let gid = if wanted_group.is_empty() { own_group } else { group_id(wanted_group, group)? };
    let is_valid = |id: u32| i32::try_from(id).is_ok();
    let home = if home.is_empty() { "/" } else { home };
    (is_valid(uid) && is_valid(gid)).then(|| ImageUser { uid, gid, home: home.to_owned() })
}

/// `name:password:uid:gid:comment:home:shell`.
fn account(line: &str) -> Option<(&str, u32, u32, &str)> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
    Some((name, uid.parse().ok()?, gid.parse().ok()?, rest.get(1).copied().unwrap_or("")))
}

fn group_id(wanted: &str, group: &str) -> Option<u32> {
    let number = number(wanted);
    let entry = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [name, _, gid, ..] = fields.as_slice() else { return None };
        let gid: u32 = gid.parse().ok()?;
        (*name == wanted || number == Some(gid)).then_some(gid)
    };
    group.lines().find_map(entry).or(number)
}

fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:100:101:Linux User,,,:/home/app:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\napp:x:101:\nstaff:x:50:app\n";

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let found = |user: &str| resolve(user, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.home));
        let is = |uid, gid, home: &str| Some((uid, gid, home.to_owned()));
        assert_eq!(found(""), is(0, 0, "/root"));
        assert_eq!(found("app"), is(100, 101, "/home/app"));
        assert_eq!(found("100"), is(100, 101, "/home/app"));
        assert_eq!(found("1000"), is(1000, 0, "/"));
        assert_eq!(found("1000:1000"), is(1000, 1000, "/"));
        assert_eq!(found("app:staff"), is(100, 50, "/home/app"));
        assert_eq!(found("nobody"), None);
        assert_eq!(found("app:nobody"), None);
        assert_eq!(found("4294967295"), None);
        assert_eq!(resolve("", "", ""), Some(ImageUser { uid: 0, gid: 0, home: "/".into() }));
    }
}
