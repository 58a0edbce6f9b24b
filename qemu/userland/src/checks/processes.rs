//! kcmp(2).

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use linux_raw_sys::general as abi;
use rustix::io::Errno;
use rustix::process::getpid;

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("what two processes share is told", shared),
    ("whom one may not look into one may not compare", protected),
];

const FILE: usize = 0;
const FILES: usize = 2;

fn kcmp(pid: i32, other: i32, kind: usize, indices: [i32; 2]) -> Result<usize, Errno> {
    let [first, second] = indices.map(|index| index as usize);
    let args = [pid as usize, other as usize, kind, first, second];
    // SAFETY: numbers only, and nothing is changed.
    unsafe { sys::call(abi::__NR_kcmp, args) }
}

/// Runs `look` in a child, which gets its own and its parent's number.
fn in_child(look: impl FnOnce(i32, i32) -> Result<()>) -> Result<()> {
    let parent = getpid().as_raw_nonzero().get();
    let child = sys::fork(|| match look(getpid().as_raw_nonzero().get(), parent) {
        Ok(()) => 0,
        Err(error) => {
            println!("in the child: {error:#}");
            1
        }
    })?;
    let ended = sys::wait(child);
    ensure!(ended == Some((child, 0)), "the child ended with {ended:?}");
    Ok(())
}

fn shared() -> Result<()> {
    let file = File::open("/dev/null")?;
    let (fd, copy, other) = (file.as_raw_fd(), file.try_clone()?, File::open("/dev/null")?);
    in_child(|me, parent| {
        let same = kcmp(me, parent, FILE, [copy.as_raw_fd(), fd]);
        ensure!(same == Ok(0), "a copy of a descriptor: {same:?}");
        let one = kcmp(me, parent, FILE, [other.as_raw_fd(), fd])?;
        let reversed = kcmp(parent, me, FILE, [fd, other.as_raw_fd()])?;
        ensure!(one + reversed == 3 && one != 0 && reversed != 0, "order {one}, reversed {reversed}");
        ensure!(kcmp(me, me, FILES, [0, 0]) == Ok(0), "its own descriptors");
        let tables = kcmp(me, parent, FILES, [0, 0])?;
        ensure!(tables == 1 || tables == 2, "descriptors of two processes: {tables}");
        let bad = kcmp(me, me, FILE, [fd, 999]);
        ensure!(bad == Err(Errno::BADF), "no descriptor: {bad:?}");
        let bad = kcmp(me, me, 99, [0, 0]);
        ensure!(bad == Err(Errno::INVAL), "no kind: {bad:?}");
        Ok(())
    })
}

fn protected() -> Result<()> {
    in_child(|me, parent| {
        // SAFETY: one thread, and nothing rests on who it is.
        sys::done(unsafe { libc::setresuid(1000, 1000, 1000) })?;
        let compared = kcmp(me, parent, FILES, [0, 0]);
        ensure!(compared == Err(Errno::PERM), "{compared:?}");
        Ok(())
    })
}
