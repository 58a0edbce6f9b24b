//! Ids that were given out twice while one file was being read.
//!
//! mountinfo is read in pieces, and a mount id is free for reuse at once after an umount. So a late line of one file
//! can carry the id of an earlier one, and name a parent by an id that meant another mount before. Such a line is a
//! mount of another moment: it gets ids of its own, and loads beside the others under an unlisted parent.

use alloc::collections::BTreeSet;
use alloc::format;

use super::{Namespace, below};

/// Renumbers each record that repeats an id and that cannot be a child of the mount it names as its parent.
///
/// A repeated id whose parent does fit is left alone: that is a mistake in the file, and `check` reports it.
pub(super) fn separate_reused_ids(namespace: &mut Namespace) {
    let mut seen = BTreeSet::new();
    for index in 0..namespace.mounts.len() {
        let record = &namespace.mounts[index];
        if seen.insert(record.id) {
            continue;
        }
        let parent = namespace.mounts[..index].iter().find(|other| other.id == record.parent);
        let fits = parent.is_none_or(|parent| below(&record.mountpoint, &parent.mountpoint).is_some());
        if fits {
            continue;
        }
        let unused =
            namespace.mounts.iter().flat_map(|other| [other.id, other.parent]).max().unwrap_or(0) + 1;
        let record = &mut namespace.mounts[index];
        namespace.notices.push(format!(
            "{}:{}: id {} was reused while the file was read; loaded with a parent outside the list",
            namespace.file,
            namespace.first_line + index,
            record.id,
        ));
        (record.id, record.parent) = (unused, unused.saturating_add(1));
        seen.insert(unused);
    }
}
