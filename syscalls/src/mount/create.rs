//! A new mount (3.3): of a new instance, or of one that is there.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::{Dentry, LockPlan, MountSpec, Source};
use propagate::attach::{Place, What, attach};
use propagate::copy_tree::NewTree;
use propagate::{Error, with_locks};

use super::{Call, Done, lock_own_target, mount_flags, revealing, rules};
use crate::context::Context;
use crate::file_system::{SuperFlags, TypeFlags, Value, find_type};
use crate::{Errno, FileSystems};

/// Mounts a file system of the type `fs_type`.
///
/// # Errors
/// As mount(2) says.
pub(super) fn create<D: Dentry>(
    call: &Call<'_, D>,
    kernel: &impl FileSystems<D>,
    fs_type: Option<&[u8]>,
    source: Option<&[u8]>,
    data: &[u8],
) -> Result<Done, Errno> {
    let context = instance(call, kernel, fs_type.ok_or(Errno::EINVAL)?, source, data)?;
    let root = Arc::clone(context.instance().ok_or(Errno::EINVAL)?.root());
    let flags = mount_flags(call.flags);
    let flags = revealing::check(kernel, &call.ns, context.fs_type(), flags)?;
    let source = Source::new(context.source().unwrap_or(b"none"))?;
    let internal = context.fs_type().flags().contains(TypeFlags::INTERNAL);
    let ns = &call.ns;
    let done = with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = lock_own_target(locks, ns, &call.target.now(locks)?)?; // 8, 9
        let same = Arc::ptr_eq(parent.super_block(), root.super_block()) && Arc::ptr_eq(parent.root(), &on);
        if same {
            return Err(Error::Busy.into()); // 10
        }
        if root.symlink().is_some() || internal {
            return Err(Error::Invalid.into()); // 11, 12
        }
        if root.is_dir() != on.is_dir() {
            return Err(Error::NotDirectory.into()); // 13
        }
        if root.is_removed() {
            return Err(Error::NotFound.into()); // 14
        }
        let mount = locks.new_mount(ns, MountSpec::new(Arc::clone(&root), flags, source.clone()))?;
        let what = What::New(NewTree::single(mount), Vec::new());
        Ok(Done { propagated: attach(locks, what, Place::top(&parent, &on), &rules(ns))? })
    });
    done.map_err(Errno::from)
}

/// An instance of `fs_type`, which may have a subtype behind a dot (rows 2 to 6).
fn instance<D: Dentry>(
    call: &Call<'_, D>,
    kernel: &impl FileSystems<D>,
    fs_type: &[u8],
    source: Option<&[u8]>,
    data: &[u8],
) -> Result<Context<D>, Errno> {
    let (found, subtype) = find_type(kernel, fs_type)?;
    if subtype.is_some_and(<[u8]>::is_empty) {
        return Err(Errno::EINVAL);
    }
    let credentials = call.task.credentials();
    let mut context = Context::for_mount(found, &credentials, SuperFlags::from_bits_truncate(call.flags))?;
    if let Some(subtype) = subtype {
        context.set_subtype(subtype)?;
    }
    if let Some(source) = source {
        context.set_parameter(b"source", &Value::String(source))?;
    }
    context.set_options(data)?;
    context.create(&credentials, false)?;
    Ok(context)
}
