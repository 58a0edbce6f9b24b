//! `/dev/kmsg`: the kernel's log. Each read gives one record, each write makes one, which the console shows.

use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::task::Waker;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::console;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile, Whence};
use crate::log::{self, Record, TEXT_MAX};
use crate::sched::wait::Wait;

/// The longest record that can be written.
const RECORD_MAX: usize = 976;
/// A record as it is read: numbers, and text of which each byte may take four.
const SHOWN_MAX: usize = 64 + 4 * TEXT_MAX;
/// Facility and level of what a program writes without saying so: `LOG_USER`, and a warning.
const FACILITY_USER: u32 = 1 << 3;
const LEVEL: u32 = 4;

/// An open file.
struct Reader {
    /// The number of the record that is read next. Relaxed, everywhere: a number; reads at once may give one twice.
    next: AtomicU64,
}

/// Opens it.
///
/// # Errors
/// `ENOMEM`
pub(super) fn open() -> Result<Arc<dyn FileOps>, Errno> {
    let reader = Reader { next: AtomicU64::new(log::numbers().start) };
    Ok(mnt_table::memory::arc(reader).map_err(|_| Errno::ENOMEM)?)
}

/// The line that stands for a record: priority, number, microseconds, flags, and what was said.
fn show(number: u64, record: Record, text: &[u8]) -> heapless::String<SHOWN_MAX> {
    let mut line = heapless::String::new();
    // There is room for all of it.
    let _ = write!(line, "{},{number},{},-;", record.priority, record.ns / 1000);
    for byte in text {
        let _ = match byte {
            b' '..=b'~' if *byte != b'\\' => line.push(char::from(*byte)).map_err(|_| core::fmt::Error),
            _ => write!(line, "\\x{byte:02x}"),
        };
    }
    let _ = line.push('\n');
    line
}

/// What a program wrote, without the priority in angle brackets that it may begin with.
fn priority(text: &[u8]) -> (u32, &[u8]) {
    let end = text.iter().position(|byte| *byte == b'>');
    let number = end
        .filter(|_| text.starts_with(b"<"))
        .and_then(|end| core::str::from_utf8(&text[1..end]).ok()?.parse::<u32>().ok());
    match (number, end) {
        (Some(number), Some(end)) => {
            let facility = if number >> 3 == 0 { FACILITY_USER } else { number & !7 };
            (facility | number & 7, &text[end + 1..])
        }
        _ => (FACILITY_USER | LEVEL, text),
    }
}

impl FileOps for Reader {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let next = self.next.load(Relaxed);
        let ready = || (log::numbers().end > next).then_some(());
        if ready().is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            log::ADDED.wait(Wait::INTERRUPTIBLE, ready)?;
        }
        let mut text = [0; TEXT_MAX];
        let Some(record) = log::get(next, &mut text) else {
            // It is gone: the oldest that is there comes next.
            self.next.store(log::numbers().start, Relaxed);
            return Err(Errno::EPIPE);
        };
        let line = show(next, record, &text[..record.len]);
        if to.left() < line.len() {
            return Err(Errno::EINVAL);
        }
        self.next.store(next + 1, Relaxed);
        to.put(line.as_bytes())
    }

    fn write(&self, _file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let all = from.left();
        if all > RECORD_MAX {
            return Err(Errno::EINVAL);
        }
        let mut record = [0; RECORD_MAX];
        let count = from.take(&mut record)?;
        let (priority, text) = priority(record[..count].trim_ascii_end());
        log::add_bytes(priority, text);
        console::show_line(format_args!("{}", text.escape_ascii()));
        Ok((count, at))
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let numbers = log::numbers();
        match whence {
            Whence::Set => self.next.store(numbers.start, Relaxed),
            Whence::End => self.next.store(numbers.end, Relaxed),
            _ => return Err(Errno::EINVAL),
        }
        Ok(now)
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            log::ADDED.watch(waker)?;
        }
        let (next, numbers) = (self.next.load(Relaxed), log::numbers());
        Ok(match next {
            next if next < numbers.start => abi::POLLIN | abi::POLLRDNORM | abi::POLLERR | abi::POLLPRI,
            next if next < numbers.end => abi::POLLIN | abi::POLLRDNORM,
            _ => 0,
        })
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        log::ADDED.unwatch(waker);
    }
}
