//! The job that tries the kernel itself: `job=smoke`, and two that must end in a panic.
//!
//! Each test says what holds in its name, and returns what it measured or what is wrong. All start from
//! threads with preemption on.

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => { if !$holds { return Err(format!($($message)+)); } };
}

mod memory;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

use mnt_table::reclaim;

use crate::arch::percpu::{self, PerCpu, PreemptOff};
use crate::arch::power::ExitCode;
use crate::arch::spin::SpinLock;
use crate::arch::{clock, cpu};
use crate::console::println;
use crate::mm::{heap, paging};
use crate::sched::{self, JoinHandle};
use crate::{epoch, symbols};

type Outcome = Result<String, String>;
type Test = Box<dyn Fn() -> Outcome>;

/// Threads per CPU in the tests that load all of them.
const PER_CPU: usize = 2;

/// Runs all tests; the load tests take `seconds` together.
pub(crate) fn smoke(seconds: u64, module: &'static [u8]) -> ExitCode {
    let load_ns = seconds.saturating_mul(1_000_000_000) / 2;
    let tests: [(&str, Test); 12] = [
        ("an_address_has_a_name", Box::new(an_address_has_a_name)),
        ("no_page_is_writable_and_executable", Box::new(no_page_is_writable_and_executable)),
        ("the_module_is_readable", Box::new(move || the_module_is_readable(module))),
        ("the_clock_is_one_for_all_cpus", Box::new(the_clock_is_one_for_all_cpus)),
        ("a_sleeper_wakes_in_time", Box::new(a_sleeper_wakes_in_time)),
        ("a_parked_thread_wakes_on_every_cpu", Box::new(a_parked_thread_wakes_on_every_cpu)),
        ("a_busy_thread_is_preempted", Box::new(a_busy_thread_is_preempted)),
        ("bad_addresses_are_errors", Box::new(memory::bad_addresses_are_errors)),
        ("spaces_do_as_a_model_does", Box::new(memory::spaces_do_as_a_model_does)),
        ("an_unmapped_page_is_gone_on_all_cpus", Box::new(memory::an_unmapped_page_is_gone_on_all_cpus)),
        ("the_heap_comes_back", Box::new(move || the_heap_comes_back(load_ns))),
        ("everything_retired_is_freed", Box::new(move || everything_retired_is_freed(load_ns))),
    ];
    let mut failed = 0;
    for (name, test) in &tests {
        let start = clock::now_ns();
        let outcome = test();
        let ms = (clock::now_ns() - start) / 1_000_000;
        match outcome {
            Ok(measured) => println!("selftest: ok   {name}: {measured} ({ms} ms)"),
            Err(wrong) => {
                failed += 1;
                println!("selftest: FAIL {name}: {wrong} ({ms} ms)");
            }
        }
    }
    println!("selftest: {} of {} passed on {} CPUs", tests.len() - failed, tests.len(), percpu::count());
    if failed == 0 { ExitCode::Success } else { ExitCode::JobFailed }
}

/// Starts `body(cpu, thread)` on each CPU, `per_cpu` times.
fn on_all_cpus(
    name: &str,
    per_cpu: usize,
    body: impl Fn(usize, usize) + Clone + Send + 'static,
) -> Result<Vec<JoinHandle>, String> {
    on_cpus(&percpu::all().collect::<Vec<_>>(), name, per_cpu, body)
}

/// Starts `body(cpu, thread)` on each of `cpus`, `per_cpu` times.
fn on_cpus(
    cpus: &[&'static PerCpu],
    name: &str,
    per_cpu: usize,
    body: impl Fn(usize, usize) + Clone + Send + 'static,
) -> Result<Vec<JoinHandle>, String> {
    let mut handles = Vec::new();
    for &cpu in cpus {
        for thread in 0..per_cpu {
            let (body, index) = (body.clone(), cpu.index);
            let handle =
                sched::spawn(cpu, format_args!("{name}/{index}.{thread}"), move || body(index, thread));
            handles.push(handle.map_err(|error| format!("{error}"))?);
        }
    }
    Ok(handles)
}

fn join_all(handles: Vec<JoinHandle>) {
    handles.into_iter().for_each(JoinHandle::join);
}

fn an_address_has_a_name() -> Outcome {
    let address = an_address_has_a_name as fn() -> Outcome as usize as u64;
    let symbol = symbols::lookup(address).ok_or_else(|| format!("{address:#x} has no symbol"))?;
    let name = format!("{symbol}");
    ensure!(name == "kernel::selftest::an_address_has_a_name+0x0", "{address:#x} is called {name}");
    Ok(name)
}

fn no_page_is_writable_and_executable() -> Outcome {
    let audit = paging::audit();
    ensure!(audit.writable_and_executable == 0, "{audit:?}");
    ensure!(audit.executable > 0, "{audit:?}");
    Ok(format!("{} pages, {} of them executable", audit.pages, audit.executable))
}

fn the_module_is_readable(module: &'static [u8]) -> Outcome {
    let sum = module.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(byte.into()));
    Ok(format!("{} bytes, sum {sum}", module.len()))
}

fn the_clock_is_one_for_all_cpus() -> Outcome {
    let latest = Arc::new(AtomicU64::new(0));
    let back = Arc::new(AtomicU64::new(0));
    let handles = on_all_cpus("clock", 1, {
        let (latest, back) = (latest.clone(), back.clone());
        move |_, _| {
            for _ in 0..1_000 {
                let seen = latest.load(SeqCst);
                let now = clock::now_ns();
                // What another CPU read before us must not lie in our future.
                back.fetch_max(seen.saturating_sub(now), SeqCst);
                latest.fetch_max(now, SeqCst);
            }
        }
    })?;
    join_all(handles);
    let back = back.load(SeqCst);
    ensure!(back < 1_000_000, "a CPU's clock is {back} ns behind another's");
    Ok(format!("at most {back} ns apart"))
}

fn a_sleeper_wakes_in_time() -> Outcome {
    let start = clock::now_ns();
    sched::sleep_ns(20_000_000);
    let slept = clock::now_ns() - start;
    ensure!(slept >= 20_000_000, "20 ms took {slept} ns");
    Ok(format!("20 ms took {} us", slept / 1_000))
}

fn a_parked_thread_wakes_on_every_cpu() -> Outcome {
    let times = (64 / percpu::count()).max(2);
    let mut slowest = 0;
    for cpu in percpu::all() {
        let (asked, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let handle = sched::spawn(cpu, format_args!("park/{}", cpu.index), {
            let (asked, answered) = (asked.clone(), answered.clone());
            move || {
                for round in 1..=times {
                    while asked.load(SeqCst) < round {
                        sched::park();
                    }
                    answered.store(round, SeqCst);
                }
            }
        })
        .map_err(|error| format!("{error}"))?;
        for round in 1..=times {
            let start = clock::now_ns();
            asked.store(round, SeqCst);
            handle.unpark();
            let mut spins = 0;
            while answered.load(SeqCst) < round {
                sched::relax(spins);
                spins += 1;
                ensure!(clock::now_ns() - start < 20_000_000_000, "CPU {} does not answer", cpu.index);
            }
            slowest = slowest.max(clock::now_ns() - start);
        }
        handle.join();
    }
    Ok(format!("{times} times per CPU, at most {} us", slowest / 1_000))
}

fn a_busy_thread_is_preempted() -> Outcome {
    // Two threads per CPU that never give it away. The first to leave has seen the other run twice in
    // between, so both were switched out against their will.
    const DONE: u64 = u64::MAX;
    // A few CPUs at a time: the host may have fewer.
    const AT_ONCE: usize = 4;
    let counters: Arc<[[AtomicU64; 2]]> = (0..percpu::count()).map(|_| Default::default()).collect();
    let gave_up = Arc::new(AtomicBool::new(false));
    let start = clock::now_ns();
    let busy = {
        let (counters, gave_up) = (counters.clone(), gave_up.clone());
        move |cpu: usize, thread: usize| {
            let [mine, other] = [&counters[cpu][thread], &counters[cpu][1 - thread]];
            let (mut seen, mut changes, mut steps) = (0, 0, 0);
            while changes < 2 && seen != DONE && !gave_up.load(SeqCst) {
                steps += 1;
                mine.store(steps, SeqCst);
                let now = other.load(SeqCst);
                changes += u64::from(now != seen);
                seen = now;
                if clock::now_ns() - start > 60_000_000_000 {
                    gave_up.store(true, SeqCst);
                }
            }
            mine.store(DONE, SeqCst);
        }
    };
    let cpus: Vec<_> = percpu::all().collect();
    for group in cpus.chunks(AT_ONCE) {
        join_all(on_cpus(group, "busy", 2, busy.clone())?);
    }
    let ms = (clock::now_ns() - start) / 1_000_000;
    ensure!(!gave_up.load(SeqCst), "a thread was not preempted in {ms} ms");
    Ok(format!("{} threads shared their CPUs", 2 * percpu::count()))
}

fn the_heap_comes_back(load_ns: u64) -> Outcome {
    let before = heap::live();
    let operations = Arc::new(AtomicU64::new(0));
    // What one CPU allocates the next one frees.
    let shelves: Arc<[SpinLock<Vec<Vec<usize>>>]> =
        (0..percpu::count()).map(|_| SpinLock::default()).collect();
    let end = clock::now_ns() + load_ns;
    let handles = on_all_cpus("heap", PER_CPU, {
        let (shelves, operations) = (shelves.clone(), operations.clone());
        move |cpu, thread| {
            let mut state = (cpu * PER_CPU + thread + 1) as u64;
            let mut count = 0;
            while clock::now_ns() < end {
                for _ in 0..64 {
                    // xorshift: sizes from 1 to 320, now and then a large one.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let size = if state.is_multiple_of(64) {
                        4_000 + state as usize % 20_000
                    } else {
                        1 + state as usize % 320
                    };
                    let mut object = Vec::<usize>::with_capacity(size.div_ceil(8));
                    let own = object.as_ptr() as usize;
                    object.extend([own, cpu].iter().take(object.capacity()));
                    let next = &shelves[(cpu + 1) % shelves.len()];
                    next.lock().push(object);
                    let got = shelves[cpu].lock().pop();
                    if let Some(object) = got {
                        assert_eq!(object[0], object.as_ptr() as usize, "a heap object was overwritten");
                    }
                    count += 1;
                }
                let old = core::mem::take(&mut *shelves[cpu].lock());
                drop(old);
            }
            // Relaxed: read after the threads were joined.
            operations.fetch_add(count, Relaxed);
        }
    })?;
    join_all(handles);
    drop(shelves);
    let operations = Arc::into_inner(operations).map_or(0, AtomicU64::into_inner);
    let after = heap::live();
    ensure!(after == before, "before {before:?}, after {after:?}");
    let per_second = operations * 1_000_000_000 / load_ns.max(1);
    Ok(format!("{operations} objects, {per_second} per second, {} bytes live", after.bytes))
}

/// Counts those that are not freed.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, SeqCst);
        Self(alive.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn everything_retired_is_freed(load_ns: u64) -> Outcome {
    let alive = Arc::new(AtomicUsize::new(0));
    let (pins, peak) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let end = clock::now_ns() + load_ns;
    let handles = on_all_cpus("epoch", PER_CPU, {
        let (alive, pins, peak) = (alive.clone(), pins.clone(), peak.clone());
        move |cpu, thread| {
            let mut count = 0;
            while clock::now_ns() < end {
                for _ in 0..32 {
                    let guard = mnt_table::pin();
                    assert!(!percpu::this().is_preemptible(), "preemption is on while pinned");
                    assert_eq!(percpu::this().index, cpu, "a thread moved");
                    if thread == 0 {
                        guard.retire(Box::new(Counted::new(&alive)));
                    }
                    drop(guard);
                    count += 1;
                }
                peak.fetch_max(alive.load(SeqCst), SeqCst);
                reclaim::relieve();
                sched::yield_now();
            }
            pins.fetch_add(count, Relaxed);
        }
    })?;
    join_all(handles);

    let bytes = epoch::flush_epochs().map_err(|error| format!("{error}"))?;
    let (left, pins, peak) = (alive.load(SeqCst), pins.load(Relaxed), peak.load(SeqCst));
    ensure!(left == 0 && bytes == 0, "{left} of the retired objects are left, {bytes} bytes");
    ensure!(pins > 0, "nobody pinned");
    Ok(format!("{pins} pins, at most {peak} objects alive, 0 after a flush on all CPUs"))
}

/// Panics on the last CPU, in a function whose name a backtrace can show.
pub(crate) fn panic_elsewhere() -> ! {
    let last = percpu::get(percpu::count() - 1);
    let thread = sched::spawn(last, format_args!("panics"), || outer_of_panic(7));
    thread.expect("a thread that panics").join();
    cpu::halt_forever()
}

#[inline(never)]
fn outer_of_panic(value: u64) {
    inner_of_panic(black_box(value));
    black_box(());
}

#[inline(never)]
fn inner_of_panic(value: u64) {
    let off = PreemptOff::new();
    assert!(black_box(value) != 7, "deliberate panic on CPU {}", percpu::this().index);
    drop(off);
}

/// Runs over the end of a stack on the last CPU.
pub(crate) fn overflow() -> ! {
    let last = percpu::get(percpu::count() - 1);
    let thread = sched::spawn(last, format_args!("overflows"), || {
        black_box(deeper(black_box(1)));
    });
    thread.expect("a thread that overflows").join();
    cpu::halt_forever()
}

#[inline(never)]
fn deeper(level: u64) -> u64 {
    let ballast = black_box([level; 32]);
    // Not the last thing it does, so that no frame is left out.
    if level == 0 { 0 } else { deeper(black_box(level + 1)) + ballast[level as usize % 32] }
}
