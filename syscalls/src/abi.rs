//! System calls from raw registers: what number, what arguments.
//!
//! Registers are taken apart here and nowhere else; each call checks its arguments in Linux's order, which decides what a
//! caller sees that made more than one mistake.

use linux_raw_sys::general as abi;
use mnt_table::Dentry;

use crate::fsopen::Config;
use crate::move_mount::End;
use crate::user_memory::{Text, mount_data, optional_name};
use crate::{Errno, Kernel, fsopen, listmount, move_mount, namespaces, open_tree, setattr, statmount};

/// Makes the system call `nr` with the arguments `args`. The result is what the call returns; an error is returned to the
/// task as its negative number.
///
/// Context: not pinned; no lock of the mount table held; may block.
///
/// # Errors
/// Those of the call. `ENOSYS`: not a call of this crate.
pub fn dispatch<D: Dentry, K: Kernel<D>>(kernel: &K, nr: usize, args: [usize; 6]) -> Result<usize, Errno> {
    let Ok(nr) = u32::try_from(nr) else { return Err(Errno::ENOSYS) };
    let task = kernel.task();
    let [a, b, c, d, e, _] = args;
    let text = |addr| Text::User(kernel, addr);
    match nr {
        abi::__NR_mount => {
            let fs_type = optional_name(kernel, c)?;
            let source = optional_name(kernel, a)?;
            let data = mount_data(kernel, e)?;
            let (source, fs_type) = (source.as_deref(), fs_type.as_deref());
            let done = crate::mount::mount(task, kernel, source, text(b), fs_type, d as u64, &data)?;
            kernel.propagated(done.propagated);
        }
        abi::__NR_umount2 => {
            crate::umount::umount2(task, text(a), b as u32)?;
        }
        abi::__NR_pivot_root => crate::pivot_root::pivot_root(task, text(a), text(b))?,
        abi::__NR_chroot => task.chroot(text(a))?,
        abi::__NR_chdir => task.chdir(text(a))?,
        abi::__NR_fchdir => {
            let file = kernel.file(a as i32)?;
            task.fchdir(&file)?;
        }
        abi::__NR_unshare => namespaces::unshare(kernel, a as u64)?,
        abi::__NR_setns => namespaces::setns(kernel, a as i32, b as u32)?,
        abi::__NR_statmount => statmount::statmount(kernel, a, b, c, d as u32)?,
        abi::__NR_listmount => return listmount::listmount(kernel, a, b, c, d as u32),
        abi::__NR_fsopen => return descriptor(fsopen::fsopen(kernel, a, b as u32)),
        abi::__NR_fspick => return descriptor(fsopen::fspick(kernel, a as i32, b, c as u32)),
        abi::__NR_fsmount => {
            return descriptor(fsopen::fsmount(kernel, a as i32, b as u32, c as u32));
        }
        abi::__NR_fsconfig => {
            let config = Config { command: b as u32, key: c, value: d, aux: e as i32 };
            fsopen::fsconfig(kernel, a as i32, config)?;
        }
        abi::__NR_open_tree => {
            return descriptor(open_tree::open_tree(kernel, a as i32, b, c as u32));
        }
        abi::__NR_open_tree_attr => {
            return descriptor(open_tree::open_tree_attr(kernel, a as i32, b, c as u32, (d, e)));
        }
        abi::__NR_move_mount => {
            let (from, to) = (End { dfd: a as i32, path: b }, End { dfd: c as i32, path: d });
            move_mount::move_mount(kernel, from, to, e as u32)?;
        }
        abi::__NR_mount_setattr => {
            setattr::mount_setattr(kernel, a as i32, b, c as u32, (d, e))?;
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn descriptor(result: Result<i32, Errno>) -> Result<usize, Errno> {
    result.map(|fd| fd as usize)
}
