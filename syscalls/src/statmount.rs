//! statmount(2): what is known of one mount (8.10).
//!
//! Numbers in comments are rows of the ordered checks.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;

use linux_raw_sys::general as abi;
use linux_raw_sys::general::statmount as Fields;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, MntNamespace, Mount, WriteSet, pin};
use propagate::pivot_root::Position;

use crate::attributes::to_attr;
use crate::file_system::SuperFlags;
use crate::ids::Kind;
use crate::kernel::shown;
use crate::listing::{dominating, root_name, source};
use crate::mount_query::{Query, requested_namespace, requested_root};
use crate::mountinfo::{SuperOptions, put};
use crate::user_memory::{copy, write_all};
use crate::ways::Ways;
use crate::{Errno, Kernel};

/// Bytes of the structure; strings stand behind it.
const SIZE: usize = size_of::<Fields>();

/// Bytes that a range of ids is printed in, at most: three numbers, with what is behind each.
const RANGE_MAX: usize = 3 * 11;

/// What is known here.
const SUPPORTED: u32 = STRINGS
    | abi::STATMOUNT_SB_BASIC
    | abi::STATMOUNT_MNT_BASIC
    | abi::STATMOUNT_PROPAGATE_FROM
    | abi::STATMOUNT_MNT_NS_ID
    | abi::STATMOUNT_SUPPORTED_MASK;

/// What is a string.
const STRINGS: u32 = abi::STATMOUNT_MNT_ROOT
    | abi::STATMOUNT_MNT_POINT
    | abi::STATMOUNT_FS_TYPE
    | abi::STATMOUNT_MNT_OPTS
    | abi::STATMOUNT_FS_SUBTYPE
    | abi::STATMOUNT_SB_SOURCE
    | abi::STATMOUNT_OPT_ARRAY
    | abi::STATMOUNT_OPT_SEC_ARRAY
    | abi::STATMOUNT_MNT_UIDMAP
    | abi::STATMOUNT_MNT_GIDMAP;

/// statmount(2): answers the request at `request` in the `size` bytes at `buffer`.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `EFAULT`, `ENOENT`, `EBADF`, `EPERM`; `EOVERFLOW`: the strings do not fit; `ENOMEM`.
pub fn statmount<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    request: usize,
    buffer: usize,
    size: usize,
    flags: u32,
) -> Result<(), Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL); // 1
    }
    let query = Query::read(kernel, request)?; // 2 to 4
    let (task, ns) = (kernel.task(), requested_namespace(kernel, &query)?); // 5, 6
    let own = ns.id() == task.namespace().id();
    let is_admin = task.credentials().is_admin(ns.owner());
    if query.names_namespace() && !own && !is_admin {
        return Err(Errno::EPERM); // 7
    }
    let wanted = query.param as u32;
    if wanted & STRINGS != 0 && size == SIZE {
        return Err(Errno::EOVERFLOW); // 8
    }
    let fs = task.fs();
    let record = {
        let mut locks = WriteSet::one(&ns);
        locks.make_index(&ns);
        let caller = fs.root();
        let mount = locks.mount_by_id(&ns, query.id).ok_or(Errno::ENOENT)?; // 9
        let root = requested_root(&locks, &ns, own, &caller)?;
        if !Ways::new(&locks, &root, &pin()).is_visible(mount)? && !is_admin {
            return Err(Errno::EPERM); // 10
        }
        let mut record = Record { bytes: [0; SIZE], mask: 0, text: Vec::new(), room: size };
        let answer = Answer { kernel, locks: &locks, ns: &ns, mount, root: &root, caller: &caller };
        answer.fill(&mut record, wanted)?; // 11
        record
    };
    record.write(kernel, buffer)
}

/// The answer under construction.
struct Record {
    bytes: [u8; SIZE],
    mask: u32,
    /// Strings, each with its NUL; the first byte is one, so that no string is at offset 0.
    text: Vec<u8>,
    /// Bytes of the caller's buffer.
    room: usize,
}

impl Record {
    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn has(&mut self, what: u32) {
        self.mask |= what;
    }

    /// Puts `text` behind the others and its offset at `at`. An empty one is none.
    fn string(&mut self, what: u32, at: usize, text: &[u8]) -> Result<(), Errno> {
        if self.text.is_empty() {
            self.text.try_push(0)?;
        }
        if text.is_empty() {
            return Ok(());
        }
        let start = self.text.len();
        if SIZE + start + text.len() >= self.room {
            return Err(Errno::EOVERFLOW);
        }
        self.text.make_room(text.len() + 1)?;
        self.text.extend_from_slice(text);
        self.text.push(0);
        self.put32(at, start as u32);
        self.has(what);
        Ok(())
    }

    fn write<D: Dentry>(mut self, kernel: &impl Kernel<D>, buffer: usize) -> Result<(), Errno> {
        let fixed = self.room.min(SIZE);
        self.put32(offset_of!(Fields, size), (fixed + self.text.len()) as u32);
        let mask = self.mask;
        self.put64(offset_of!(Fields, mask), mask.into());
        write_all(kernel, buffer.wrapping_add(SIZE), &self.text)?;
        write_all(kernel, buffer, &self.bytes[..fixed])
    }
}

/// What is asked about, and by whom.
struct Answer<'a, D: Dentry, K> {
    kernel: &'a K,
    locks: &'a WriteSet<D>,
    ns: &'a MntNamespace<D>,
    mount: &'a Arc<Mount<D>>,
    /// Where mountpoints are counted from.
    root: &'a Position<D>,
    /// The caller's root.
    caller: &'a Position<D>,
}

impl<D: Dentry, K: Kernel<D>> Answer<'_, D, K> {
    /// Fills what is `wanted` and known.
    fn fill(&self, record: &mut Record, wanted: u32) -> Result<(), Errno> {
        let wants = |what| wanted & what != 0;
        if wants(abi::STATMOUNT_MNT_NS_ID) {
            record.has(abi::STATMOUNT_MNT_NS_ID);
            record.put64(offset_of!(Fields, mnt_ns_id), self.ns.id().0);
        }
        if wants(abi::STATMOUNT_SB_BASIC) {
            self.super_block(record);
        }
        if wants(abi::STATMOUNT_MNT_BASIC) {
            self.basic(record);
        }
        if wants(abi::STATMOUNT_PROPAGATE_FROM) {
            self.propagate_from(record)?;
        }
        self.names(record, wanted)?;
        self.options(record, wanted)?;
        self.types(record, wanted)?;
        self.id_maps(record, wanted)?;
        if wants(abi::STATMOUNT_SUPPORTED_MASK) {
            record.has(abi::STATMOUNT_SUPPORTED_MASK);
            record.put64(offset_of!(Fields, supported_mask), SUPPORTED.into());
        }
        Ok(())
    }

    fn super_block(&self, record: &mut Record) {
        let shown = SuperFlags::RDONLY | SuperFlags::SYNCHRONOUS | SuperFlags::DIRSYNC | SuperFlags::LAZYTIME;
        let root = self.mount.root();
        let (major, minor) = self.kernel.device(root);
        record.has(abi::STATMOUNT_SB_BASIC);
        record.put32(offset_of!(Fields, sb_dev_major), major);
        record.put32(offset_of!(Fields, sb_dev_minor), minor);
        record.put64(offset_of!(Fields, sb_magic), self.kernel.magic(root));
        let flags = self.kernel.super_flags(root).intersection(shown);
        record.put32(offset_of!(Fields, sb_flags), flags.bits());
    }

    fn basic(&self, record: &mut Record) {
        let mount = self.mount;
        let parent = self.locks.parent(mount).unwrap_or(mount);
        let here = mount.propagation();
        let group = here.peers.map(|(group, _)| group.id());
        let master = here.master.map(|link| link.group.id());
        let idmapped = if mount.idmap().is_some() { abi::MOUNT_ATTR_IDMAP } else { 0 };
        let states = [
            (group.is_some(), abi::MS_SHARED),
            (master.is_some(), abi::MS_SLAVE),
            (self.locks.is_unbindable(mount), abi::MS_UNBINDABLE),
        ];
        let state = states.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag);
        let state = if state == 0 { abi::MS_PRIVATE } else { state };
        record.has(abi::STATMOUNT_MNT_BASIC);
        record.put64(offset_of!(Fields, mnt_id), mount.unique_id());
        record.put64(offset_of!(Fields, mnt_parent_id), parent.unique_id());
        record.put32(offset_of!(Fields, mnt_id_old), mount.id());
        record.put32(offset_of!(Fields, mnt_parent_id_old), parent.id());
        record.put64(offset_of!(Fields, mnt_attr), to_attr(mount.flags()) | u64::from(idmapped));
        record.put64(offset_of!(Fields, mnt_propagation), state.into());
        record.put64(offset_of!(Fields, mnt_peer_group), group.unwrap_or(0).into());
        record.put64(offset_of!(Fields, mnt_master), master.unwrap_or(0).into());
    }

    fn propagate_from(&self, record: &mut Record) -> Result<(), Errno> {
        record.has(abi::STATMOUNT_PROPAGATE_FROM);
        if let Some(master) = self.mount.propagation().master {
            let guard = pin();
            let mut ways = Ways::new(self.locks, self.caller, &guard);
            let from = dominating(self.locks, self.ns, &mut ways)?.nearest(&master.group)?.unwrap_or(0);
            record.put64(offset_of!(Fields, propagate_from), from.into());
        }
        Ok(())
    }

    fn names(&self, record: &mut Record, wanted: u32) -> Result<(), Errno> {
        let (mount, guard) = (self.mount, pin());
        let fs_type = shown(|| self.kernel.fs_type(mount.root()))?;
        if wanted & abi::STATMOUNT_FS_TYPE != 0 {
            let name = fs_type.split(|byte| *byte == b'.').next().unwrap_or(&fs_type);
            record.string(abi::STATMOUNT_FS_TYPE, offset_of!(Fields, fs_type), name)?;
        }
        if wanted & abi::STATMOUNT_MNT_ROOT != 0 {
            let path = root_name(mount, self.kernel, &guard)?;
            record.string(abi::STATMOUNT_MNT_ROOT, offset_of!(Fields, mnt_root), &path)?;
        }
        if wanted & abi::STATMOUNT_MNT_POINT != 0 {
            let mut ways = Ways::new(self.locks, self.root, &guard);
            let path = ways.path(mount)?.unwrap_or_default();
            record.string(abi::STATMOUNT_MNT_POINT, offset_of!(Fields, mnt_point), path)?;
        }
        Ok(())
    }

    fn options(&self, record: &mut Record, wanted: u32) -> Result<(), Errno> {
        let text = shown(|| self.kernel.options(self.mount.root()))?;
        let options = SuperOptions::new(&text);
        if wanted & abi::STATMOUNT_MNT_OPTS != 0 {
            record.string(abi::STATMOUNT_MNT_OPTS, offset_of!(Fields, mnt_opts), options.rest_text())?;
        }
        if wanted & abi::STATMOUNT_OPT_ARRAY != 0 {
            let mut text = copy(options.rest_text())?;
            text.iter_mut().filter(|byte| **byte == b',').for_each(|byte| *byte = 0);
            record.string(abi::STATMOUNT_OPT_ARRAY, offset_of!(Fields, opt_array), &text)?;
            record.put32(offset_of!(Fields, opt_num), options.rest().count() as u32);
        }
        if wanted & abi::STATMOUNT_OPT_SEC_ARRAY != 0 {
            // No security module, no options of one.
            record.string(abi::STATMOUNT_OPT_SEC_ARRAY, offset_of!(Fields, opt_sec_array), b"")?;
        }
        Ok(())
    }

    fn types(&self, record: &mut Record, wanted: u32) -> Result<(), Errno> {
        if wanted & abi::STATMOUNT_FS_SUBTYPE != 0 {
            let fs_type = shown(|| self.kernel.fs_type(self.mount.root()))?;
            let subtype = fs_type.splitn(2, |byte| *byte == b'.').nth(1).unwrap_or(b"");
            record.string(abi::STATMOUNT_FS_SUBTYPE, offset_of!(Fields, fs_subtype), subtype)?;
        }
        if wanted & abi::STATMOUNT_SB_SOURCE != 0 {
            let source = source(self.mount, self.kernel)?;
            record.string(abi::STATMOUNT_SB_SOURCE, offset_of!(Fields, sb_source), &source)?;
        }
        Ok(())
    }

    /// The ranges of the mount's id map, as far as they are ids to the caller. A map without any is one still.
    fn id_maps(&self, record: &mut Record, wanted: u32) -> Result<(), Errno> {
        let Some(maps) = self.mount.idmap().and_then(|ns| Some((ns.maps()?, ns))) else {
            if wanted & (abi::STATMOUNT_MNT_UIDMAP | abi::STATMOUNT_MNT_GIDMAP) != 0 {
                record.string(0, 0, b"")?;
            }
            return Ok(());
        };
        let (maps, ns) = maps;
        let viewer = &self.kernel.task().credentials().user_ns;
        let kinds = [
            (
                abi::STATMOUNT_MNT_UIDMAP,
                maps.uids,
                offset_of!(Fields, mnt_uidmap),
                offset_of!(Fields, mnt_uidmap_num),
                Kind::Users,
            ),
            (
                abi::STATMOUNT_MNT_GIDMAP,
                maps.gids,
                offset_of!(Fields, mnt_gidmap),
                offset_of!(Fields, mnt_gidmap_num),
                Kind::Groups,
            ),
        ];
        for (what, ranges, at, count_at, kind) in kinds {
            if wanted & what == 0 {
                continue;
            }
            let above = ns.parent().unwrap_or(&ns);
            let seen = ranges.iter().filter_map(|range| {
                let outside = kind.seen_by(viewer, kind.absolute(above, range.outside)?)?;
                Some((range.inside, outside, range.count))
            });
            let (mut text, mut count) = (Vec::new(), 0);
            for (inside, outside, length) in seen {
                text.make_room(RANGE_MAX)?;
                put(&mut text, format_args!("{inside} {outside} {length}\0"));
                count += 1;
            }
            record.string(what, at, &text)?;
            record.put32(count_at, count);
            record.has(what);
        }
        Ok(())
    }
}
