//! Which user, groups and home a worker gets, told from the image's `USER` and its `/etc/passwd` and `/etc/group`.
//!
//! In: Docker's user syntax and the texts of both files. Out: a [`User`], or one line that names what is missing.
//! Source: the rules of Docker (`docker run --user`): numbers need no entry, names do; a group given by hand replaces the
//! user's supplementary groups; malformed lines are skipped.
//! Touches: [`load`] reads the two files, the rest is pure.

use std::io::Read;

use rustix::process::{Gid, Uid};

/// Longest part of `/etc/passwd` and `/etc/group` that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Highest id Docker accepts.
const ID_MAX: u32 = i32::MAX as u32;

/// The identity of a worker's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// All groups of the process, the primary one first.
    pub(crate) groups: Vec<Gid>,
    /// From `/etc/passwd`, else `/`.
    pub(crate) home: String,
}

/// Why the image's user could not be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("user or group id {0} is out of range")]
    Range(String),
}

/// Looks `spec` up in the image's own files; missing files count as empty.
///
/// # Errors
/// [`UserError`] as [`resolve`].
pub(crate) fn load(spec: &str) -> Result<User, UserError> {
    let read = |path: &str| {
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(path) {
            let _ = file.take(FILE_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    resolve(spec, &read("/etc/passwd"), &read("/etc/group"))
}

/// The user that `spec` (`""`, `app`, `1000`, `app:staff`, `1000:1000`) means.
///
/// # Errors
/// [`UserError`] for a name without entry, or an id above 2^31 − 1.
pub(crate) fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let number = if user.is_empty() { Some(0) } else { id(user)? };
    let entry =
        passwd.lines().filter_map(Account::parse).find(|a| a.name == user || number == Some(a.uid));
    let (uid, gid, home) = match (&entry, number) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(number)) => (number, 0, ""),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let (gid, others) = if wanted_group.is_empty() {
        let name = entry.as_ref().map_or("", |account| account.name);
        (gid, memberships(name, group))
    } else {
        (group_id(wanted_group, group)?, Vec::new())
    };
    let mut groups = vec![Gid::from_raw(gid)];
    groups.extend(others.into_iter().filter(|other| *other != gid).map(Gid::from_raw));
    let home = if home.is_empty() { "/" } else { home };
    Ok(User { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups, home: home.to_owned() })
}

/// The number a specification is, `None` when it is a name.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number <= ID_MAX => Ok(Some(number)),
        _ => Err(UserError::Range(text.to_owned())),
    }
}

fn group_id(wanted: &str, group: &str) -> Result<u32, UserError> {
    let number = id(wanted)?;
    let named =
        group.lines().filter_map(Group::parse).find(|g| g.name == wanted || number == Some(g.gid));
    named.map(|g| g.gid).or(number).ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
}

fn memberships(name: &str, group: &str) -> Vec<u32> {
    let is_member = |g: &Group<'_>| {
        !name.is_empty() && g.members.split(',').any(|member| member.trim() == name)
    };
    group.lines().filter_map(Group::parse).filter(is_member).map(|g| g.gid).collect()
}

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (name, _password, uid, gid) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or("");
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    }
}

/// A line of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { name, gid: gid.parse().ok()?, members: fields.next().unwrap_or("") })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:100:101:App:/home/app:/bin/false\n\
                          1234:x:55:55::/odd:\nnohome:x:7:7\n";
    const GROUP: &str =
        "root:x:0:root\nbin:x:1:root,app\napp:x:101:app\nstaff:x:50:other\naudio:x:29:app,other\n";

    fn ids(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(spec, PASSWD, GROUP).unwrap();
        let groups = user.groups.iter().map(|g| g.as_raw()).collect();
        (user.uid.as_raw(), user.gid.as_raw(), groups, user.home)
    }

    #[test]
    fn users_resolve_as_docker_resolves_them() {
        assert_eq!(ids(""), (0, 0, vec![0, 1], "/root".into()));
        assert_eq!(ids("app"), (100, 101, vec![101, 1, 29], "/home/app".into()));
        assert_eq!(ids("100"), (100, 101, vec![101, 1, 29], "/home/app".into()));
        assert_eq!(ids("app:staff"), (100, 50, vec![50], "/home/app".into()));
        assert_eq!(ids("app:77"), (100, 77, vec![77], "/home/app".into()));
        assert_eq!(ids("12000"), (12000, 0, vec![0], "/".into()));
        assert_eq!(ids("12000:12000"), (12000, 12000, vec![12000], "/".into()));
        assert_eq!(
            ids("1234"),
            (55, 55, vec![55], "/odd".into()),
            "a numeric name wins over the number"
        );
        assert_eq!(ids("nohome").3, "/");
        assert_eq!(ids(":staff"), (0, 50, vec![50], "/root".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(resolve("ghost", PASSWD, GROUP), Err(UserError::NoUser("ghost".into())));
        assert_eq!(resolve("app:ghosts", PASSWD, GROUP), Err(UserError::NoGroup("ghosts".into())));
        assert_eq!(
            resolve("4294967295", PASSWD, GROUP),
            Err(UserError::Range("4294967295".into()))
        );
        assert_eq!(resolve("app", "", ""), Err(UserError::NoUser("app".into())));
        assert!(
            resolve("1000", "", "").is_ok(),
            "an image without passwd file can run as a number"
        );
    }

    proptest! {
        #[test]
        fn never_panics(spec in "[a-z0-9:]{0,12}", passwd in "[a-z0-9:\n]{0,80}", group in "[a-z0-9:,\n]{0,80}") {
            let _ = resolve(&spec, &passwd, &group);
        }
    }
}
