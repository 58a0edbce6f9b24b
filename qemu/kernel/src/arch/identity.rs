//! What the CPU says about itself, for `/proc/cpuinfo`.

use core::arch::x86_64::{__cpuid, CpuidResult};

use heapless::String;

/// What it says.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) vendor: String<12>,
    pub(crate) name: String<48>,
    pub(crate) family: u32,
    pub(crate) model: u32,
    pub(crate) stepping: u32,
    /// The highest leaf that tells something.
    pub(crate) level: u32,
    pub(crate) flags: String<512>,
}

#[derive(Clone, Copy)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

use Register::*;

/// Features by leaf, register and bit, in the order in which Linux lists them.
#[rustfmt::skip]
const FLAGS: [(u32, Register, u32, &str); 52] = [
    (1, Edx, 0, "fpu"), (1, Edx, 1, "vme"), (1, Edx, 2, "de"), (1, Edx, 3, "pse"), (1, Edx, 4, "tsc"),
    (1, Edx, 5, "msr"), (1, Edx, 6, "pae"), (1, Edx, 7, "mce"), (1, Edx, 8, "cx8"), (1, Edx, 9, "apic"),
    (1, Edx, 11, "sep"), (1, Edx, 12, "mtrr"), (1, Edx, 13, "pge"), (1, Edx, 14, "mca"), (1, Edx, 15, "cmov"),
    (1, Edx, 16, "pat"), (1, Edx, 17, "pse36"), (1, Edx, 19, "clflush"), (1, Edx, 23, "mmx"), (1, Edx, 24, "fxsr"),
    (1, Edx, 25, "sse"), (1, Edx, 26, "sse2"), (1, Edx, 28, "ht"),
    (0x8000_0001, Edx, 11, "syscall"), (0x8000_0001, Edx, 20, "nx"), (0x8000_0001, Edx, 26, "pdpe1gb"),
    (0x8000_0001, Edx, 27, "rdtscp"), (0x8000_0001, Edx, 29, "lm"),
    (1, Ecx, 0, "pni"), (1, Ecx, 1, "pclmulqdq"), (1, Ecx, 9, "ssse3"), (1, Ecx, 12, "fma"), (1, Ecx, 13, "cx16"),
    (1, Ecx, 19, "sse4_1"), (1, Ecx, 20, "sse4_2"), (1, Ecx, 22, "movbe"), (1, Ecx, 23, "popcnt"), (1, Ecx, 25, "aes"),
    (1, Ecx, 26, "xsave"), (1, Ecx, 28, "avx"), (1, Ecx, 29, "f16c"), (1, Ecx, 30, "rdrand"),
    (1, Ecx, 31, "hypervisor"), (0x8000_0001, Ecx, 0, "lahf_lm"), (7, Ebx, 0, "fsgsbase"), (7, Ebx, 3, "bmi1"),
    (7, Ebx, 5, "avx2"), (7, Ebx, 7, "smep"), (7, Ebx, 8, "bmi2"), (7, Ebx, 9, "erms"), (7, Ebx, 18, "rdseed"),
    (7, Ebx, 20, "smap"),
];

/// Where leaves of the second kind begin.
const EXTENDED: u32 = 0x8000_0000;

fn leaf(leaf: u32) -> CpuidResult {
    __cpuid(leaf)
}

/// Appends bytes of registers, up to a zero.
fn text<const N: usize>(out: &mut String<N>, registers: &[u32]) {
    for byte in registers.iter().flat_map(|register| register.to_le_bytes()).take_while(|byte| *byte != 0) {
        let _ = out.push(char::from(byte)); // ASCII, and there is room.
    }
}

/// Asks the CPU that this runs on.
pub(crate) fn read() -> Identity {
    let first = leaf(0);
    let highest = leaf(EXTENDED).eax;
    let has = |number: u32| number <= if number >= EXTENDED { highest } else { first.eax };
    let mut identity = Identity {
        vendor: String::new(),
        name: String::new(),
        family: 0,
        model: 0,
        stepping: 0,
        level: first.eax,
        flags: String::new(),
    };
    text(&mut identity.vendor, &[first.ebx, first.edx, first.ecx]);
    let version = leaf(1).eax;
    let (family, model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    identity.family = if family == 0xf { family + (version >> 20 & 0xff) } else { family };
    identity.model = if matches!(family, 6 | 0xf) { model | version >> 12 & 0xf0 } else { model };
    identity.stepping = version & 0xf;
    for number in EXTENDED + 2..=EXTENDED + 4 {
        if has(number) {
            let part = leaf(number);
            text(&mut identity.name, &[part.eax, part.ebx, part.ecx, part.edx]);
        }
    }
    for (number, register, bit, name) in FLAGS {
        if !has(number) {
            continue;
        }
        let found = leaf(number);
        let value = match register {
            Ebx => found.ebx,
            Ecx => found.ecx,
            Edx => found.edx,
        };
        if value >> bit & 1 != 0 {
            let space = if identity.flags.is_empty() { "" } else { " " };
            let _ = identity.flags.push_str(space).and_then(|()| identity.flags.push_str(name)); // There is room.
        }
    }
    identity
}
