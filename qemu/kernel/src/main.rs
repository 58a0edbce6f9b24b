//! An SMP x86-64 kernel that runs the mount table.
//!
//! It boots by its PVH note or by Multiboot2, brings all CPUs up, runs one job on kernel threads and leaves
//! the machine with a status that says how that went.
//!
//! # Code map
//! | Module | What |
//! |---|---|
//! | `boot` | entry, and the loader's information as one `BootInfo` |
//! | `mm` | page tables, frames, stacks with guards, the heap with per-CPU magazines; address spaces, page faults, programs |
//! | `arch` | interrupts, system calls, per-CPU blocks and the preempt count, locks, clock, context switch, ACPI, power |
//! | `smp`, `sched`, `epoch` | the other CPUs; threads and what they wait for; epoch pins as "preemption off on this CPU" |
//! | `task`, `syscall`, `init` | processes, signals, credentials, namespaces; system calls; the first process |
//! | `console`, `log`, `panic`, `symbols` | lines on the serial port; those of late; the last words; names for addresses |
//! | `fs`, `dev`, `tty`, `ipc` | files; devices; terminals; sockets and descriptors to wait for |
//! | `random` | random bytes |
//! | `command_line`, `selftest`, `stress_job` | words; the job that tries the kernel itself; the main job |
//!
//! A thread changes its CPU on the border to user mode only, so nothing in the kernel has to expect it.
//!
//! Deliberately absent: disks and networks, swapping, freeing the kernel's own page tables.
//!
//! # How to run it
//! ```text
//! cargo build --release --package kernel --target x86_64-unknown-none
//! qemu-system-x86_64 -machine q35 -cpu max -accel tcg,thread=multi -smp 4 -m 512M \
//!     -kernel target/x86_64-unknown-none/release/kernel -initrd MODULE -append "job=smoke" \
//!     -serial stdio -monitor none -display none -nodefaults -no-reboot \
//!     -device isa-debug-exit,iobase=0xf4,iosize=4 </dev/null
//! ```
//! Build it in a cargo invocation of its own (see its `Cargo.toml`). `-initrd` may be left out. Up to 64 CPUs
//! are used, the rest is left alone.
//!
//! | QEMU's status | Means |
//! |---|---|
//! | 33 | the job succeeded |
//! | 35 | panic or exception: the last lines tell |
//! | 37 | unusable command line or module, one line tells; nothing was run |
//! | 39 | the job found something wrong |
//! | other | it did not get to the end: a triple fault is 0 (with `-no-reboot`), QEMU's own failure 1 |
//!
//! Without the exit device the kernel powers off through ACPI, so QEMU's status is 0 then. On a hang,
//! `inject-nmi` makes the kernel print every CPU's backtrace and leave with 35.
//!
//! GRUB: `multiboot2 /boot/kernel job=smoke`, `module2 /boot/MODULE`, `boot`.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

use arch::power::{self, ExitCode};
use arch::{acpi, clock, ioapic, lapic, percpu};
use boot::BootInfo;
use command_line::{CommandLine, CommandLineError};
use console::println;

#[expect(unsafe_code, reason = "the machine itself; argued at each block")]
mod arch;
#[expect(unsafe_code, reason = "reads what the loader left in memory")]
mod boot;
mod command_line;
mod console;
mod debug_call;
mod dev;
mod epoch;
mod fs;
mod init;
mod ipc;
mod log;
#[expect(unsafe_code, reason = "page tables and the allocator")]
mod mm;
mod panic;
mod random;
mod sched;
mod selftest;
mod smp;
mod stress_job;
mod symbols;
mod syscall;
mod task;
mod tty;

/// The boot CPU's way from the entry to its idle loop; `job` runs on a thread.
fn start(info: BootInfo) -> ! {
    mm::init(&info);
    command_line::keep(&info.command_line);
    let platform = acpi::read(info.rsdp);
    power::init(platform.sleep);
    clock::init(platform.pm_timer);
    lapic::init();
    smp::init(&platform);
    lapic::enable();
    ioapic::init(platform.serial);
    lapic::calibrate();
    sched::adopt_idle();
    smp::start_others();
    println!(
        "kernel: {}, {} CPUs ({} left out), {} MiB RAM, module {} bytes, up after {} ms",
        info.protocol,
        percpu::count(),
        platform.cpus_left_out,
        info.ram.iter().map(|range| range.end - range.start).sum::<u64>() >> 20,
        info.initrd.end - info.initrd.start,
        clock::now_ns() / 1_000_000,
    );
    let info: &BootInfo = Box::leak(Box::new(info));
    let main = move || power::exit(run(info));
    sched::spawn(percpu::this(), format_args!("main"), main).expect("the first thread");
    sched::idle()
}

/// Runs the programs of the image, or the job of the command line.
fn run(info: &BootInfo) -> ExitCode {
    let has_job = info.command_line.split_ascii_whitespace().any(|word| word.starts_with("job="));
    if !has_job && fs::initramfs::is_image(mm::initrd(info)) {
        match init::start(info) {
            // The first process ends the machine.
            Ok(()) => loop {
                sched::park();
            },
            Err(error) => {
                println!("kernel: {error}");
                return ExitCode::BadInput;
            }
        }
    }
    match job(info) {
        Ok(code) => code,
        Err(error) => {
            println!("kernel: {error}");
            ExitCode::BadInput
        }
    }
}

fn job(info: &BootInfo) -> Result<ExitCode, CommandLineError<'_>> {
    let mut words = CommandLine::parse(&info.command_line)?;
    match words.take("job").unwrap_or("smoke") {
        "smoke" => {
            let seconds = words.take_or("seconds", "a number of seconds", 1)?;
            words.finish()?;
            Ok(selftest::smoke(seconds, mm::initrd(info)))
        }
        "stress" => {
            let seconds = words.take_or("seconds", "a number of seconds", 20)?;
            let seed = words.take_or("seed", "a number", 0)?;
            words.finish()?;
            Ok(stress_job::run(seconds, seed, mm::initrd(info)))
        }
        "panic" => {
            words.finish()?;
            selftest::panic_elsewhere()
        }
        "overflow" => {
            words.finish()?;
            selftest::overflow()
        }
        value => {
            Err(CommandLineError::Value { key: "job", value, wanted: "smoke, stress, panic or overflow" })
        }
    }
}
