//! The first serial port.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, LSR};
use uart_16550::{BaudRate, Config, Uart16550};

const COM1: u16 = 0x3f8;
/// A reader that takes longer than this loses the last characters.
const DRAIN_TRIES: u32 = 10_000_000;

/// Interrupts at the first byte: people type one at a time.
const CONFIG: Config = Config {
    baud_rate: BaudRate::Baud115200,
    fifo_trigger_level: Some(FifoTriggerLevel::One),
    ..Config::DEFAULT
};

/// A 16550 behind I/O ports.
pub(crate) type Port = Uart16550<PioBackend>;

/// A handle on COM1 as it is.
///
/// Two handles at once can only mix their bytes on the line; the console's lock keeps them whole, and a panic
/// stops the other CPUs first.
pub(crate) fn com1() -> Port {
    // SAFETY: on the PCs that this kernel runs on these ports are COM1's, and nothing else in the kernel uses
    // them.
    unsafe { Uart16550::new_port(COM1) }.expect("a constant, valid port")
}

/// Waits, for a while at most, until the device has passed on all that it was given.
pub(crate) fn drain() {
    let mut port = com1();
    for _ in 0..DRAIN_TRIES {
        if port.lsr().contains(LSR::TRANSMITTER_EMPTY) {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Sets the port up. False if there is none.
pub(crate) fn init(port: &mut Port) -> bool {
    port.init(CONFIG).is_ok()
}
