//! The machine's own clock, which runs while it is off: read once, for the wall clock.

use x86_64::instructions::port::{Port, PortWriteOnly};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
/// In `STATUS_A`: it is changing.
const CHANGING: u8 = 0x80;
/// In `STATUS_B`: plain binary numbers; 24 hours.
const BINARY: u8 = 4;
const HOURS_24: u8 = 2;
/// In the hours, if there are 12.
const AFTERNOON: u8 = 0x80;
/// It is asked so often for a time that does not change.
const TRIES: usize = 1000;

fn read(register: u8) -> u8 {
    // SAFETY: the two ports of a PC's clock; reading its registers has no side effect that anybody relies on. Bit 7 leaves
    // NMIs on.
    unsafe {
        PortWriteOnly::<u8>::new(INDEX).write(register);
        Port::<u8>::new(DATA).read()
    }
}

fn fields() -> [u8; 6] {
    [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR].map(read)
}

/// Seconds since 1970, UTC. Context: one caller at a time.
pub(crate) fn seconds() -> u64 {
    let mut now = fields();
    for _ in 0..TRIES {
        let before = now;
        now = fields();
        if read(STATUS_A) & CHANGING == 0 && before == now {
            break;
        }
    }
    let status = read(STATUS_B);
    let number =
        |byte: u8| u64::from(if status & BINARY != 0 { byte } else { (byte >> 4) * 10 + (byte & 15) });
    let [seconds, minutes, hours, day, month, year] = now;
    let mut hour = number(hours & !AFTERNOON);
    if status & HOURS_24 == 0 {
        hour = hour % 12 + if hours & AFTERNOON != 0 { 12 } else { 0 };
    }
    let days = days(2000 + number(year), number(month), number(day));
    ((days * 24 + hour) * 60 + number(minutes)) * 60 + number(seconds)
}

/// Days from 1970 to a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that the leap day is their last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let before_1970 = 719_468;
    (365 * year + leap_days + (153 * month + 2) / 5 + day).saturating_sub(1 + before_1970)
}
