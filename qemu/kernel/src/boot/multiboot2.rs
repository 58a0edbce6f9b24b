//! The Multiboot2 information, as GRUB passes it.

use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};

use super::{BootError, BootInfo};
use crate::mm::{phys_to_virt, virt_to_phys};

/// Copies the information at physical address `address`.
///
/// # Errors
/// [`BootError::Malformed`] if a tag that the kernel needs is missing, broken or too long.
pub(super) fn read(address: u64) -> Result<BootInfo, BootError> {
    let mut info = BootInfo::new("Multiboot2");
    // SAFETY: the protocol's register holds the address of the information, 8-aligned and in one piece;
    // readable by [Low], and nothing writes there: the range is reserved below.
    let tags = unsafe { BootInformation::load(phys_to_virt(address) as *const BootInformationHeader) }
        .map_err(|_| BootError::Malformed("broken Multiboot2 information"))?;

    let start = virt_to_phys(tags.start_address() as u64);
    // The copy of ACPI's root pointer lies inside, so the range stays reserved for good.
    info.reserve(start..start + tags.end_address() as u64 - tags.start_address() as u64)?;
    // GRUB hands over a copy of the root pointer, behind the tag's own header of 8 bytes.
    let rsdp = match (tags.rsdp_v2_tag(), tags.rsdp_v1_tag()) {
        (Some(tag), _) => core::ptr::from_ref(tag) as u64 + 8,
        (None, Some(tag)) => core::ptr::from_ref(tag) as u64 + 8,
        (None, None) => return Err(BootError::Malformed("no ACPI root pointer")),
    };
    info.rsdp = virt_to_phys(rsdp);

    if let Some(tag) = tags.command_line_tag() {
        info.set_command_line(tag.cmdline().map_err(|_| BootError::Malformed("command line is not UTF-8"))?)?;
    }
    if let Some(module) = tags.module_tags().next() {
        info.initrd = module.start_address().into()..module.end_address().into();
        info.reserve(info.initrd.clone())?;
    }
    let map = tags.memory_map_tag().ok_or(BootError::Malformed("no memory map"))?;
    for area in map.memory_areas().iter().filter(|area| area.typ() == MemoryAreaType::Available) {
        info.add_ram(area.start_address(), area.size())?;
    }
    info.finish()
}
