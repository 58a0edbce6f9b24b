//! The PVH start information, as QEMU's `-kernel` passes it.
//!
//! Layout after Xen's `hvm_start_info`, version 1; see <https://xenbits.xen.org/docs/unstable/misc/pvh.html>.

use core::ffi::{CStr, c_char};

use super::{BootError, BootInfo};
use crate::mm::phys_to_virt;

/// First word of the start information; `entry.s` passes it on for the PVH entry.
pub(super) const MAGIC: u32 = 0x336e_c578;
const E820_RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_count: u32,
    reserved: u32,
}

#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// Copies the start information at physical address `address`.
///
/// # Errors
/// [`BootError::Malformed`] for a wrong magic number, for version 0 (it has no memory map), or for a missing
/// or oversized part.
pub(super) fn read(address: u64) -> Result<BootInfo, BootError> {
    let mut info = BootInfo::new("PVH");
    // SAFETY: the protocol's register holds the address of a `StartInfo`; readable by [Low].
    let start = unsafe { &*(phys_to_virt(address) as *const StartInfo) };
    if start.magic != MAGIC || start.version < 1 {
        return Err(BootError::Malformed("PVH start information of version 1 expected"));
    }
    info.rsdp = start.rsdp;
    if start.command_line != 0 {
        // SAFETY: by the protocol a non-zero address is that of a string that ends in 0; readable by [Low].
        let text = unsafe { CStr::from_ptr(phys_to_virt(start.command_line) as *const c_char) };
        info.set_command_line(text.to_str().map_err(|_| BootError::Malformed("command line is not UTF-8"))?)?;
    }
    if start.module_count > 0 {
        // SAFETY: by the protocol `modules` points at `module_count` entries, here at least one; readable by
        // [Low].
        let module = unsafe { &*(phys_to_virt(start.modules) as *const Module) };
        let end = module.address.checked_add(module.size).ok_or(BootError::Malformed("module wraps"))?;
        info.initrd = module.address..end;
        info.reserve(info.initrd.clone())?;
    }
    // SAFETY: by the protocol `memory_map` points at so many entries; readable by [Low].
    let map = unsafe {
        core::slice::from_raw_parts(
            phys_to_virt(start.memory_map) as *const MemoryMapEntry,
            start.memory_map_count as usize,
        )
    };
    for entry in map.iter().filter(|entry| entry.kind == E820_RAM) {
        info.add_ram(entry.address, entry.size)?;
    }
    info.finish()
}
