//! How the virtual machine is accelerated.
//!
//! `auto` takes KVM only where it is KVM: the CPU shows vmx or svm, the module for that CPU is loaded, the device
//! opens for reading and writing, and our own kernel boots under it within five seconds. Anything less, such as a
//! device without the hardware behind it, gets TCG, one host thread per CPU.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use stress::protocol;

use crate::qemu::{Ending, Limits, Machine};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// KVM where it works, else TCG
    Auto,
    /// Emulation, multi-threaded
    Tcg,
    /// The machine's own virtualisation, unquestioned
    Kvm,
}

/// What the machine runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    Tcg,
    Kvm,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

impl Accel {
    /// The value of QEMU's `-accel`.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Tcg => "tcg,thread=multi",
            Self::Kvm => "kvm",
        }
    }
}

/// How long the trial boot may take.
const SMOKE_LIMIT: Duration = Duration::from_secs(5);

/// Settles the choice, and says what was chosen and why.
pub(crate) fn choose(choice: Choice, kernel: &Path) -> Result<Accel> {
    let (accel, why) = match choice {
        Choice::Tcg => (Accel::Tcg, "as asked".to_owned()),
        Choice::Kvm => (Accel::Kvm, "as asked".to_owned()),
        Choice::Auto => match why_not_kvm(kernel)? {
            None => (Accel::Kvm, "a trial boot worked".to_owned()),
            Some(reason) => (Accel::Tcg, format!("no KVM: {reason}")),
        },
    };
    eprintln!("accelerator: {accel} ({why})");
    Ok(accel)
}

fn why_not_kvm(kernel: &Path) -> Result<Option<String>> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    // A module that is built in has no line there, but a folder.
    let is_loaded = |name: &str| {
        modules.lines().any(|line| line.split(' ').next() == Some(name))
            || Path::new("/sys/module").join(name).is_dir()
    };
    if let Some(reason) = without_hardware(&cpuinfo, is_loaded) {
        return Ok(Some(reason));
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Some(format!("/dev/kvm: {error}")));
    }
    let limits = Limits { silence: SMOKE_LIMIT, total: SMOKE_LIMIT };
    let machine = Machine {
        kernel,
        image: None,
        command_line: protocol::SMOKE_COMMAND_LINE,
        cpus: 1,
        memory_mib: 512,
        accel: Accel::Kvm,
        icount: false,
    };
    Ok(match machine.boot(limits, &mut |_| ())? {
        Ending::Success => None,
        ending => Some(format!("a trial boot failed: {ending}")),
    })
}

/// Why there is no hardware support, from the text of /proc/cpuinfo and the loaded modules.
fn without_hardware(cpuinfo: &str, is_loaded: impl Fn(&str) -> bool) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    match (has("vmx"), has("svm")) {
        (false, false) => Some("the CPU shows neither vmx nor svm".to_owned()),
        (true, _) if is_loaded("kvm_intel") => None,
        (_, true) if is_loaded("kvm_amd") => None,
        _ => Some("neither kvm_intel nor kvm_amd is loaded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_needs_the_flag_and_its_module() {
        let check = |flags: &str, module: &str, wanted: bool| {
            let cpuinfo = format!("processor\t: 0\nflags\t\t: fpu {flags} sse\n");
            assert_eq!(
                without_hardware(&cpuinfo, |name| name == module).is_none(),
                wanted,
                "{flags} {module}"
            );
        };
        check("vmx", "kvm_intel", true);
        check("svm", "kvm_amd", true);
        check("vmx", "kvm_amd", false);
        check("vmxs", "kvm_intel", false);
        check("", "kvm_intel", false);
        check("vmx", "kvm_pvm", false);
    }
}
