//! The kernel's log, `/dev/kmsg`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::Check;

pub(super) const ALL: &[Check] =
    &[("what is written to the log is read from it, a record at a time", written)];

const LOG: &str = "/dev/kmsg";

/// The next record; `None`: there is none yet.
fn next(log: &mut File) -> Result<Option<String>> {
    let mut record = vec![0; 8192];
    match log.read(&mut record) {
        Ok(len) => Ok(Some(String::from_utf8(record[..len].to_vec())?)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("cannot read the log"),
    }
}

fn written() -> Result<()> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(LOG)?;
    let mut writer = OpenOptions::new().write(true).open(LOG)?;
    log.seek(SeekFrom::End(0))?;
    let me = std::process::id();
    writer.write_all(format!("<5>first of {me}\n").as_bytes())?;
    writer.write_all(format!("second of {me}\ttab\n").as_bytes())?;
    let mut found = Vec::new();
    while let Some(record) = next(&mut log)? {
        if record.contains(&format!("of {me}")) {
            found.push(record);
        }
    }
    ensure!(found.len() == 2, "{found:?}");
    // Of a program, as a notice and, by default, as a warning.
    for (record, priority, text) in [
        (&found[0], "13,", format!(";first of {me}\n")),
        (&found[1], "12,", format!(";second of {me}\\x09tab\n")),
    ] {
        ensure!(record.starts_with(priority), "priority of {record:?}");
        ensure!(record.ends_with(&text), "text of {record:?}");
    }
    let mut short = [0; 4];
    log.seek(SeekFrom::Start(0))?;
    let read = log.read(&mut short).map_err(|error| Errno::from_io_error(&error));
    ensure!(read == Err(Some(Errno::INVAL)), "a record in four bytes: {read:?}");
    Ok(())
}
