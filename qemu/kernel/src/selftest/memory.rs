//! Spaces: against a plain model, from all CPUs, and whether everything comes back.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::*};

use linux_raw_sys::general as lx;
use syscalls::Errno;

use super::{Outcome, join_all, on_all_cpus};
use crate::arch::clock;
use crate::arch::cpu::IrqOff;
use crate::arch::percpu::PreemptOff;
use crate::mm::fault::Access;
use crate::mm::map::{MapRequest, Place};
use crate::mm::space::{AddressSpace, Prot};
use crate::mm::{registry, tables, user};
use crate::sched;

const PAGE: usize = tmpfs::PAGE_SIZE;
/// Where the model's pages are, and how many.
const BASE: usize = 0x7000_0000_0000;
const PAGES: usize = 96;
/// Every so many pages of the model lie in another table of the last level.
const STRIDE: usize = 24;
const ROUNDS: usize = 400;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Memory that programs have: pages, tables, spaces.
fn live() -> (i64, i64, usize) {
    (tmpfs::pages(), tables::live(), registry::live())
}

/// Address of the model's page.
fn address(page: usize) -> usize {
    BASE + page / STRIDE * (4 << 20) + page % STRIDE * PAGE
}

/// What a space should be: per page its rights and its first word, if it is mapped.
type Model = Vec<Option<(Prot, u64)>>;

fn check(space: &AddressSpace, model: &Model) -> Result<(), Errno> {
    for (page, wanted) in model.iter().enumerate() {
        let mut word = [0; 8];
        let got = space.read_other(address(page), &mut word);
        let right = match wanted {
            Some((prot, value)) if !prot.is_empty() => got == 8 && u64::from_le_bytes(word) == *value,
            _ => got == 0,
        };
        if !right {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// One random change of the space and of the model.
fn change(space: &AddressSpace, model: &mut Model, random: &mut Random) -> Result<(), Errno> {
    let group = random.below(PAGES / STRIDE) * STRIDE;
    let first = group + random.below(STRIDE);
    let count = 1 + random.below(group + STRIDE - first);
    let (at, length) = (address(first), count * PAGE);
    let prot = Prot::from_bits_truncate(random.below(8) as u32);
    let pages = first..first + count;
    match random.below(6) {
        0 => {
            space.map(MapRequest::anonymous(Place::Fixed(at), length, prot))?;
            model[pages].fill(Some((prot, 0)));
        }
        1 => {
            space.unmap(at, length)?;
            model[pages].fill(None);
        }
        2 => {
            let mapped = model[pages.clone()].iter().take_while(|page| page.is_some()).count();
            let result = space.protect(at, length, prot, false);
            if result.is_ok() != (mapped == count) {
                return Err(Errno::EINVAL);
            }
            model[pages].iter_mut().take(mapped).flatten().for_each(|page| page.0 = prot);
        }
        3 => {
            let word = random.0;
            for page in pages {
                let written = space.write_other(address(page), &word.to_le_bytes());
                match &mut model[page] {
                    Some((prot, value)) if prot.contains(Prot::WRITE) => *value = word,
                    _ if written == 0 => {}
                    _ => return Err(Errno::EINVAL),
                }
            }
        }
        4 => {
            // To another place, if all of it is one mapping.
            let target = random.below(PAGES / STRIDE) * STRIDE;
            let target = target + random.below(STRIDE - count.min(STRIDE - 1));
            let flags = lx::MREMAP_MAYMOVE | lx::MREMAP_FIXED;
            if target + count <= target / STRIDE * STRIDE + STRIDE
                && space.remap(at, length, length, flags, address(target)).is_ok()
            {
                let moved: Vec<_> = model[pages.clone()].to_vec();
                model[pages].fill(None);
                model[target..target + count].copy_from_slice(&moved);
            }
        }
        _ => {
            let result = space.advise(at, length, lx::MADV_DONTNEED);
            if result.is_ok() != model[pages.clone()].iter().all(Option::is_some) {
                return Err(Errno::EINVAL);
            }
            model[pages].iter_mut().flatten().for_each(|page| page.1 = 0);
        }
    }
    Ok(())
}

fn run_model(seed: u64) -> Result<(), Errno> {
    let mut random = Random(seed);
    let mut family = alloc::vec![(AddressSpace::new()?, alloc::vec![None; PAGES])];
    for round in 0..ROUNDS {
        let which = random.below(family.len());
        let (space, model) = &mut family[which];
        change(space, model, &mut random)?;
        if round % 16 == 0 {
            check(space, model)?;
        }
        match random.below(40) {
            0 if family.len() < 4 => {
                let (space, model) = &family[which];
                let child = (space.fork()?, model.clone());
                family.push(child);
            }
            1 if family.len() > 1 => drop(family.swap_remove(which)),
            _ => {}
        }
    }
    family.iter().try_for_each(|(space, model)| check(space, model))
}

/// Random changes of spaces and their copies leave in every page what a plain model says, and nothing is left in the end.
pub(super) fn spaces_do_as_a_model_does() -> Outcome {
    let before = live();
    let failed = Arc::new(AtomicU64::new(0));
    let handles = on_all_cpus("model", 1, {
        let failed = failed.clone();
        move |cpu, thread| {
            let seed = 0x9e37_79b9 + (cpu * 16 + thread) as u64;
            if let Err(error) = run_model(seed) {
                failed.store(seed << 16 | u64::from(error.raw()), SeqCst);
            }
        }
    })?;
    join_all(handles);
    let failed = failed.load(SeqCst);
    ensure!(failed == 0, "seed {:#x}: errno {}", failed >> 16, failed & 0xffff);
    let after = live();
    ensure!(after == before, "before {before:?}, after {after:?} (pages, tables, spaces)");
    Ok(format!("{ROUNDS} changes per CPU, nothing left"))
}

/// A page that one CPU unmapped is not there on another one as soon as munmap returns, though it knew the translation.
pub(super) fn an_unmapped_page_is_gone_on_all_cpus() -> Outcome {
    const ROUNDS: i64 = 40;
    const WAIT_NS: u64 = 20_000_000;
    let before = live();
    let space = AddressSpace::new().map_err(|error| format!("{error}"))?;
    // The mapped page's word, or what it was, negative, since munmap returned; 0 in between.
    let state = Arc::new(AtomicI64::new(0));
    let (wrong, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let handles = on_all_cpus("unmap", 1, {
        let (space, state, wrong, seen) = (space.clone(), state.clone(), wrong.clone(), seen.clone());
        move |cpu, _| {
            if cpu == 0 {
                let work = || -> Result<(), Errno> {
                    for round in 1..=ROUNDS {
                        state.store(0, SeqCst);
                        space.map(MapRequest::anonymous(
                            Place::Fixed(BASE),
                            PAGE,
                            Prot::READ | Prot::WRITE,
                        ))?;
                        space.write_other(BASE, &(round as u32).to_le_bytes());
                        state.store(round, SeqCst);
                        // Until somebody has read it, but not for ever: there may be no other CPU.
                        let (before, end) = (seen.load(SeqCst), clock::now_ns() + WAIT_NS);
                        while seen.load(SeqCst) == before && clock::now_ns() < end {
                            sched::yield_now();
                        }
                        state.store(0, SeqCst);
                        space.unmap(BASE, PAGE)?;
                        state.store(-round, SeqCst);
                        sched::yield_now();
                    }
                    Ok(())
                };
                if work().is_err() {
                    wrong.store(u64::MAX / 2, SeqCst);
                }
                state.store(i64::MIN, SeqCst);
                return;
            }
            loop {
                // Some reads in the space, without a break: then others may run.
                let off = PreemptOff::new();
                {
                    let _off = IrqOff::new();
                    space.activate();
                }
                let mut last = 0;
                for _ in 0..16 {
                    let first = state.load(SeqCst);
                    let word = user::load_u32(BASE);
                    last = state.load(SeqCst);
                    if first != last {
                        continue;
                    }
                    let right = match word {
                        Ok(word) => last == 0 || i64::from(word) == last,
                        Err(_) => last <= 0,
                    };
                    wrong.fetch_add(u64::from(!right), SeqCst);
                    seen.fetch_add(u64::from(last > 0), SeqCst);
                }
                {
                    let _off = IrqOff::new();
                    AddressSpace::deactivate();
                }
                drop(off);
                if last == i64::MIN {
                    break;
                }
                sched::yield_now();
            }
        }
    })?;
    join_all(handles);
    drop(space);
    let (wrong, seen, after) = (wrong.load(SeqCst), seen.load(SeqCst), live());
    ensure!(wrong == 0, "{wrong} wrong answers");
    ensure!(after == before, "before {before:?}, after {after:?} (pages, tables, spaces)");
    Ok(format!("{ROUNDS} times, {seen} reads while it was mapped"))
}

/// The kernel's copies from and to user memory stop where it ends, whatever the address.
pub(super) fn bad_addresses_are_errors() -> Outcome {
    let space = AddressSpace::new().map_err(|error| format!("{error}"))?;
    let request = MapRequest::anonymous(Place::Fixed(BASE), 2 * PAGE, Prot::READ | Prot::WRITE);
    space.map(request).map_err(|error| format!("{error}"))?;
    let off = PreemptOff::new();
    {
        let _off = IrqOff::new();
        space.activate();
    }
    // With preemption off nothing is faulted in, so both pages are now.
    for page in [BASE, BASE + PAGE] {
        space.fault(page, Access::Write).map_err(|fault| format!("{fault:?}"))?;
    }
    let end = BASE + 2 * PAGE;
    let mut buffer = [1; 64];
    let mut results = Vec::new();
    for address in
        [0, 8, BASE - 4, end - 13, end, 0x7fff_ffff_efff, 0x7fff_ffff_f000, 1 << 47, 1 << 63, usize::MAX - 7]
    {
        let wanted = if (BASE..end).contains(&address) { (end - address).min(64) } else { 0 };
        results.push((address, wanted, user::copy_out(address, &buffer)));
        results.push((address, wanted, user::copy_in(address, &mut buffer)));
        results.push((address, wanted, user::zero(address, 64)));
        let word = usize::from(user::get::<u64>(address).is_ok());
        results.push((address, usize::from(wanted >= 8), word));
    }
    {
        let _off = IrqOff::new();
        AddressSpace::deactivate();
    }
    drop(off);
    for (address, wanted, got) in &results {
        ensure!(wanted == got, "{address:#x}: {got} bytes, {wanted} expected");
    }
    Ok(format!("{} accesses", results.len()))
}
