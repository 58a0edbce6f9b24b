//! Bytes from the first serial port: from its interrupt, by way of a ring, to a thread that hands them to the terminal.
//!
//! 1. The interrupt handler moves what has arrived into `ring` and wakes the thread.
//! 2. When the ring is full it turns the port's interrupts off and leaves the rest in the device, which then holds the
//!    sender up. So nothing is lost, however much is pasted or piped in.
//! 3. The thread takes bytes out, turns interrupts on again if there is room, and waits while the terminal has none.
//!
//! # Lock order
//! `RECEIVER` is a leaf that the interrupt handler takes.

use alloc::sync::Arc;

use heapless::Deque;
use syscalls::Errno;
use uart_16550::spec::registers::IER;

use super::Tty;
use crate::arch::serial::{self, Port};
use crate::arch::spin::IrqSpinLock;
use crate::arch::{ioapic, percpu};
use crate::sched::wait::Wait;
use crate::sched::{self, JoinHandle};

const RING: usize = 1024;
/// Bytes that are handed on at a time.
const CHUNK: usize = 64;

struct Receiver {
    /// `None` until interrupts come.
    port: Option<Port>,
    ring: Deque<u8, RING>,
    /// Interrupts are off because the ring was full.
    paused: bool,
    thread: Option<JoinHandle>,
}

static RECEIVER: IrqSpinLock<Receiver> =
    IrqSpinLock::new(Receiver { port: None, ring: Deque::new(), paused: false, thread: None });

impl Receiver {
    /// Moves what the device has into the ring.
    fn fill(&mut self) {
        let Some(port) = &mut self.port else { return };
        while !self.ring.is_full() {
            let Ok(byte) = port.try_receive_byte() else { return };
            let _ = self.ring.push_back(byte); // There is room.
        }
        port.disable_interrupts(IER::DATA_READY);
        self.paused = true;
    }

    /// Takes bytes out of the ring.
    fn take(&mut self) -> heapless::Vec<u8, CHUNK> {
        let mut taken = heapless::Vec::new();
        while !taken.is_full()
            && let Some(byte) = self.ring.pop_front()
        {
            let _ = taken.push(byte); // There is room.
        }
        if self.paused
            && self.ring.is_empty()
            && let Some(port) = &mut self.port
        {
            self.paused = false;
            port.enable_interrupts(IER::DATA_READY);
        }
        taken
    }
}

/// The port's interrupt.
pub(crate) fn interrupt() {
    let mut receiver = RECEIVER.lock();
    receiver.fill();
    if let Some(thread) = &receiver.thread {
        thread.unpark();
    }
}

/// Starts the thread and the interrupts, for good.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn start(tty: Arc<Tty>) -> Result<(), Errno> {
    let cpu = percpu::this();
    let thread = sched::spawn(cpu, format_args!("ttyS0"), move || run(&tty)).map_err(|_| Errno::ENOMEM)?;
    let mut port = serial::com1();
    port.enable_interrupts(IER::DATA_READY);
    let mut receiver = RECEIVER.lock();
    receiver.thread = Some(thread);
    receiver.port = Some(port);
    ioapic::route_serial(cpu.apic_id);
    // What came before nobody interrupts for again.
    receiver.fill();
    Ok(())
}

fn run(tty: &Tty) {
    loop {
        let taken = RECEIVER.lock().take();
        if taken.is_empty() {
            sched::park();
            continue;
        }
        let mut rest = &taken[..];
        while !rest.is_empty() {
            let count = tty.receive(rest);
            rest = &rest[count..];
            if count == 0 {
                let room = || tty.state.lock().discipline.has_room().then_some(());
                // An error: there was no memory to wait with. The next try may find some.
                if tty.accepting.wait(Wait::UNINTERRUPTIBLE, room).is_err() {
                    sched::yield_now();
                }
            }
        }
    }
}
