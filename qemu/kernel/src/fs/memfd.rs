//! memfd_create(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::memory;
use syscalls::{Errno, File};
use tmpfs::{New, What};

use super::file::OpenFile;
use super::kernel::Call;
use super::regular::RegularOps;
use super::{anon, error};

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 0x10;
const SEAL_SEAL: u32 = 1;
const SEAL_EXEC: u32 = 0x20;
const PREFIX: &[u8] = b"memfd:";
/// The longest name, its end mark included.
const NAME_MAX: usize = tmpfs::NAME_MAX - PREFIX.len() + 1;

pub(crate) fn memfd_create(call: &Call<'_>, addr: usize, flags: u32) -> Result<usize, Errno> {
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & !known != 0 || flags & MFD_EXEC != 0 && flags & MFD_NOEXEC_SEAL != 0 {
        return Err(Errno::EINVAL);
    }
    let mut name: Vec<u8> = PREFIX.to_vec();
    name.extend_from_slice(&syscalls::user_memory::name(call, addr, NAME_MAX)?);
    let mount = anon::memory_mount();
    let who = call.credentials();
    let no_exec = flags & MFD_NOEXEC_SEAL != 0;
    let mode = if no_exec { 0o666 } else { 0o777 };
    let new = New { what: What::File, mode, uid: who.fsuid, gid: who.fsgid };
    let dentry = mount.root().nameless_as(&name, new).map_err(error)?;
    let contents = dentry.contents().map_err(error)?;
    contents.set_seals(match flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) {
        0 => SEAL_SEAL,
        _ if no_exec => SEAL_EXEC,
        _ => 0,
    });
    let file = memory::arc(File::at(mount.path(dentry))).map_err(|_| Errno::ENOMEM)?;
    let ops = memory::arc(RegularOps).map_err(|_| Errno::ENOMEM)?;
    let open: Arc<OpenFile> = OpenFile::new(ops, file, abi::O_RDWR | abi::O_LARGEFILE, who, None)?;
    call.install_file(open, flags & MFD_CLOEXEC != 0)
}
