//! What `/proc/<pid>/mountinfo` says of a container and of the slots in it.
//!
//! In: the text. Out: whether it is the container it should be, and its slots. Touches nothing.
//! Source: proc_pid_mountinfo(5): `id parent major:minor root mount-point options [optional …] - type source super-options`,
//! with blanks and backslashes as octal escapes, which names of ours never have.

use super::{FoundSlot, SlotName};
use crate::engine::ContainerId;
use crate::node::rootfs::RootId;

/// Before the image's id in the source of a slot's root.
pub(super) const SOURCE_PREFIX: &str = "hyperfaas:";

/// Whether this is the mount table of `container`: the engine mounts the container's own host name file into it.
pub(super) fn is_of(text: &str, container: &ContainerId) -> bool {
    let ContainerId(id) = container;
    let has_id = |root: &str| root.split('/').any(|part| part == id);
    id.len() >= 12 && text.lines().filter_map(Line::parse).any(|line| has_id(line.root))
}

/// The slots mounted below `directory`, in the order of their mounts.
pub(super) fn slots(text: &str, directory: &str) -> Vec<FoundSlot> {
    let slot = |line: Line<'_>| {
        let name = line.point.strip_prefix(directory)?.strip_prefix('/')?;
        let name = SlotName::parse(name).ok()?;
        let root = line.source.strip_prefix(SOURCE_PREFIX).and_then(RootId::parse);
        Some(FoundSlot { name, root })
    };
    text.lines().filter_map(Line::parse).filter_map(slot).collect()
}

/// Where everything is mounted, in the order of the table.
pub(super) fn points(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(Line::parse).map(|line| unescape(line.point))
}

/// Undoes the escapes of a path: `\040` is a blank.
fn unescape(point: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(point.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// How many mounts are at `path` or below it.
pub(super) fn mounts_below(text: &str, path: &str) -> usize {
    let is_below = |point: &str| {
        point.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    text.lines().filter_map(Line::parse).filter(|line| is_below(line.point)).count()
}

struct Line<'a> {
    root: &'a str,
    point: &'a str,
    source: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let source = file_system.split(' ').nth(1)?;
        Some(Self { root, point, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bb950a5b6b4d341e86c83484dca6bb0dcdba08e102a2100d30bd5cdb3ba5792";

    fn table() -> String {
        format!(
            "20 1 0:30 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n\
             21 20 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n\
             22 20 0:41 / /.hyperfaas/slots rw - tmpfs tmpfs rw,size=4k\n\
             23 22 0:42 / /.hyperfaas/slots/1-7 rw,nosuid - overlay hyperfaas:{ID} rw\n\
             24 23 0:43 / /.hyperfaas/slots/1-7/proc rw - proc proc rw,hidepid=invisible\n\
             25 22 0:44 / /.hyperfaas/slots/1-70 rw shared:3 - overlay other rw\n\
             nonsense\n"
        )
    }

    #[test]
    fn a_container_is_told_from_others() {
        let id = |text: &str| ContainerId(text.to_owned());
        assert!(is_of(&table(), &id(ID)));
        assert!(!is_of(&table(), &id(&ID.replace('4', "5"))));
        assert!(!is_of(&table(), &id(&ID[..20])), "not by its first digits");
        assert!(!is_of("", &id(ID)));
        assert!(!is_of(&table(), &id("var")), "no id is that short");
    }

    #[test]
    fn slots_are_found_with_their_images() {
        let found = slots(&table(), "/.hyperfaas/slots");
        let names: Vec<_> = found.iter().map(|slot| slot.name.as_str()).collect();
        assert_eq!(names, ["1-7", "1-70"]);
        assert_eq!(found[0].root, RootId::parse(ID));
        assert_eq!(found[1].root, None, "somebody else's");
        assert_eq!(slots(&table(), "/elsewhere"), []);
    }

    #[test]
    fn mount_points_may_have_blanks() {
        let table =
            "20 1 8:1 / /a\\040b\\134c rw - ext4 /dev/sda rw\n21 1 8:1 / /d rw - ext4 x rw\n";
        assert_eq!(points(table).collect::<Vec<_>>(), ["/a b\\c", "/d"]);
    }

    #[test]
    fn a_slot_is_not_counted_for_one_whose_name_it_begins_with() {
        assert_eq!(mounts_below(&table(), "/.hyperfaas/slots/1-7"), 2);
        assert_eq!(mounts_below(&table(), "/.hyperfaas/slots/1-70"), 1);
        assert_eq!(mounts_below(&table(), "/.hyperfaas/slots/9"), 0);
    }
}
