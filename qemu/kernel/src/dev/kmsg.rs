//! `/dev/kmsg`: what programs write to the kernel's log, which is the console. Nothing of it is kept to be read.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::console::println;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile};

/// The longest record.
const RECORD_MAX: usize = 976;

struct Log;

/// Opens it.
///
/// # Errors
/// `ENOMEM`
pub(super) fn open() -> Result<Arc<dyn FileOps>, Errno> {
    Ok(mnt_table::memory::arc(Log).map_err(|_| Errno::ENOMEM)?)
}

impl FileOps for Log {
    fn read(&self, file: &OpenFile, _to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        if file.is_nonblocking() { Err(Errno::EAGAIN) } else { Ok(0) }
    }

    fn write(&self, _file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let all = from.left();
        if all > RECORD_MAX {
            return Err(Errno::EINVAL);
        }
        let mut record = [0; RECORD_MAX];
        let count = from.take(&mut record)?;
        let text = record[..count].trim_ascii_end();
        // A priority in angle brackets is for the log, which has none.
        let text = match text {
            [b'<', rest @ ..] => match rest.iter().position(|byte| *byte == b'>') {
                Some(end) if rest[..end].iter().all(u8::is_ascii_digit) => &rest[end + 1..],
                _ => text,
            },
            text => text,
        };
        println!("{}", text.escape_ascii());
        Ok((count, at))
    }

    fn poll(&self, _file: &OpenFile, _waker: Option<&core::task::Waker>) -> Result<u32, Errno> {
        Ok(abi::POLLOUT | abi::POLLWRNORM)
    }
}
