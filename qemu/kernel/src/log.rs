//! The kernel's log: the last lines that it has said, and those that programs gave it. `/dev/kmsg` shows it.
//!
//! Records lie one behind the other, and the oldest make room for new ones. Each has a number that no other ever has, so
//! that a reader sees whether it missed some.
//!
//! # Lock order
//! `LOG` is a leaf. Readers are woken after it. Context of all: threads.

use core::fmt::{self, Write};
use core::ops::Range;

use heapless::Deque;

use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::sched::wait::WaitList;

/// Bytes of text that it keeps.
const SIZE: usize = 32768;
const RECORDS_MAX: usize = 1024;
/// The longest text of a record; what is more is cut off.
pub(crate) const TEXT_MAX: usize = 992;

/// How urgent what the kernel says is: its facility is 0, and this is `KERN_INFO`.
pub(crate) const INFO: u32 = 6;

/// What is known of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Facility and level, as syslog(3) has them.
    pub(crate) priority: u32,
    /// By the kernel's clock.
    pub(crate) ns: u64,
    pub(crate) len: usize,
}

struct Log {
    text: Deque<u8, SIZE>,
    records: Deque<Record, RECORDS_MAX>,
    /// The number of the oldest record that is there.
    first: u64,
}

static LOG: SpinLock<Log> = SpinLock::new(Log { text: Deque::new(), records: Deque::new(), first: 0 });

/// Woken when a record comes.
pub(crate) static ADDED: WaitList = WaitList::new();

/// Adds a line.
pub(crate) fn add(priority: u32, line: fmt::Arguments<'_>) {
    append(priority, |adder| adder.write_fmt(line));
}

/// Adds a line of any bytes.
pub(crate) fn add_bytes(priority: u32, line: &[u8]) {
    append(priority, |adder| adder.push(line));
}

fn append(priority: u32, fill: impl FnOnce(&mut Adder<'_>) -> fmt::Result) {
    {
        let mut log = LOG.lock();
        if log.records.is_full() {
            log.forget_first();
        }
        let mut adder = Adder { log: &mut log, len: 0 };
        let _ = fill(&mut adder); // What does not fit is cut off.
        let len = adder.len;
        let _ = log.records.push_back(Record { priority, ns: clock::now_ns(), len }); // There is room.
    }
    ADDED.wake();
}

/// Puts text behind what is there.
struct Adder<'a> {
    log: &'a mut Log,
    len: usize,
}

impl Adder<'_> {
    fn push(&mut self, text: &[u8]) -> fmt::Result {
        for byte in text {
            if self.len == TEXT_MAX {
                return Err(fmt::Error);
            }
            while self.log.text.is_full() {
                self.log.forget_first();
            }
            let _ = self.log.text.push_back(*byte); // There is room.
            self.len += 1;
        }
        Ok(())
    }
}

impl Write for Adder<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

impl Log {
    fn forget_first(&mut self) {
        let Some(record) = self.records.pop_front() else { return };
        self.first += 1;
        for _ in 0..record.len {
            self.text.pop_front();
        }
    }
}

/// The numbers of the records that are there.
pub(crate) fn numbers() -> Range<u64> {
    let log = LOG.lock();
    log.first..log.first + log.records.len() as u64
}

/// The record with the number `number`, if it is there; its text goes to `text`.
pub(crate) fn get(number: u64, text: &mut [u8; TEXT_MAX]) -> Option<Record> {
    let log = LOG.lock();
    let index = usize::try_from(number.checked_sub(log.first)?).ok()?;
    let record = *log.records.iter().nth(index)?;
    let start = log.records.iter().take(index).map(|record| record.len).sum();
    let bytes = log.text.iter().skip(start).take(record.len);
    text.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    Some(record)
}
