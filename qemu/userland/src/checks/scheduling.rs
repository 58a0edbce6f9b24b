//! sched_setattr(2), sched_getattr(2).

use anyhow::{Result, ensure};
use linux_raw_sys::general as abi;
use rustix::io::Errno;

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("a policy and a nice value that are set are told", told),
    ("a larger structure is taken if nothing unknown is in it", larger),
];

/// `struct sched_attr`, in words, and as many more.
type Attributes = [u32; 28];
const SIZE: u32 = 56;

fn set(attributes: &mut Attributes) -> Result<usize, Errno> {
    let args = [0, attributes.as_mut_ptr().addr(), 0];
    // SAFETY: the structure is ours, and as long as it says.
    unsafe { sys::call(abi::__NR_sched_setattr, args) }
}

fn get(size: usize) -> Result<Attributes, Errno> {
    let mut attributes = [0; 28];
    let args = [0, attributes.as_mut_ptr().addr(), size, 0];
    // SAFETY: the structure is ours, and not longer than its size says.
    unsafe { sys::call(abi::__NR_sched_getattr, args) }.map(|_| attributes)
}

/// Batch, and a nice value.
fn wanted(size: u32, nice: u32) -> Attributes {
    let mut attributes = [0; 28];
    (attributes[0], attributes[1], attributes[4]) = (size, abi::SCHED_BATCH, nice);
    attributes
}

fn told() -> Result<()> {
    set(&mut wanted(SIZE, 7))?;
    let now = get(SIZE as usize)?;
    ensure!((now[1], now[4]) == (abi::SCHED_BATCH, 7), "{now:?}");
    let nice = rustix::process::getpriority_process(None)?;
    ensure!(nice == 7, "getpriority says {nice}");
    // Policy of real time, whose priority is not 0.
    let mut attributes = wanted(SIZE, 0);
    attributes[1] = abi::SCHED_FIFO;
    let refused = set(&mut attributes);
    ensure!(refused == Err(Errno::INVAL), "{refused:?}");
    attributes[5] = 1;
    set(&mut attributes)?;
    let now = get(48)?;
    ensure!((now[1], now[4], now[5]) == (abi::SCHED_FIFO, 0, 1), "{now:?}");
    Ok(())
}

fn larger() -> Result<()> {
    set(&mut wanted(64, 3))?;
    let mut attributes = wanted(64, 3);
    attributes[15] = 1;
    let refused = set(&mut attributes);
    ensure!(refused == Err(Errno::TOOBIG), "{refused:?}");
    ensure!(attributes[0] == SIZE, "the size that is known is {}", attributes[0]);
    let refused = get(47).map(drop);
    ensure!(refused == Err(Errno::INVAL), "{refused:?}");
    Ok(())
}
