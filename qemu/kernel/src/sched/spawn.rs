//! How threads begin and end.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering::*;

use mnt_table::memory;
use x86_64::instructions::interrupts;

use super::{Entity, Leave, current, least_loaded, leave, park, relax, settle, unpark, with_current};
use crate::arch::context::Context;
use crate::arch::percpu::{self, PerCpu};
use crate::mm::stack::Stack;
use crate::task;

/// Why a thread could not be spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpawnError {
    /// No memory for the thread or its stack.
    NoMemory,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for a thread"),
        }
    }
}

/// A thread that can be waited for; dropping it lets the thread run on alone.
pub(crate) struct JoinHandle(Arc<Entity>);

impl JoinHandle {
    /// Waits until the thread is done and gone; what it wrote is visible then, and nothing of it is left.
    ///
    /// Context: threads, preemption on.
    pub(crate) fn join(self) {
        loop {
            {
                let mut end = self.0.end.lock();
                if end.done {
                    break;
                }
                end.joiner = Some(current());
            }
            park();
        }
        // Its CPU has yet to switch away from it.
        let mut spins = 0;
        while Arc::strong_count(&self.0) > 1 {
            relax(spins);
            spins += 1;
        }
    }

    /// Wakes the thread if it is parked, or makes its next [`park`] return at once. Context: threads.
    pub(crate) fn unpark(&self) {
        unpark(&self.0);
    }
}

/// A thread that has not started.
pub(crate) struct NewThread(Arc<Entity>);

impl NewThread {
    /// Makes a thread that may run on the CPUs `allowed`: of a user program, or of the kernel with something to do.
    ///
    /// Context: threads; allocates.
    ///
    /// # Errors
    /// [`SpawnError`].
    #[expect(unsafe_code, reason = "the new thread's first stack frame")]
    fn new(
        name: fmt::Arguments<'_>,
        user: Option<Arc<task::Thread>>,
        allowed: u64,
        body: Option<Box<dyn FnOnce() + Send>>,
    ) -> Result<Self, SpawnError> {
        let stack = Stack::new().ok_or(SpawnError::NoMemory)?;
        // SAFETY: the stack is fresh or was given back, so only this thread uses it, and its top is page-aligned.
        let context = unsafe { Context::starting(stack.top(), start) };
        let mut entity = Entity::new(name, context);
        (entity.stack, entity.user) = (Some(stack), user);
        entity.allowed.store(allowed, Relaxed); // Relaxed: nobody else knows it yet.
        *entity.body.lock() = body;
        Ok(NewThread(memory::arc(entity).map_err(|_| SpawnError::NoMemory)?))
    }

    /// Makes a thread of a user program that may run on the CPUs `allowed`; it begins in [`task::first_steps`].
    ///
    /// # Errors
    /// [`SpawnError`].
    pub(crate) fn new_user(
        name: fmt::Arguments<'_>,
        user: &Arc<task::Thread>,
        allowed: u64,
    ) -> Result<Self, SpawnError> {
        Self::new(name, Some(Arc::clone(user)), allowed, None)
    }

    /// The thread.
    pub(crate) fn entity(&self) -> &Arc<Entity> {
        &self.0
    }

    /// Lets it run, where the fewest threads are. It may run before this returns.
    pub(crate) fn start(self) -> JoinHandle {
        let allowed = self.0.allowed();
        self.start_on(least_loaded(allowed))
    }

    fn start_on(self, cpu: usize) -> JoinHandle {
        let entity = self.0;
        *entity.keep.lock() = Some(entity.clone());
        entity.cpu.store(cpu, Relaxed); // Relaxed: nobody else knows it yet.
        let handle = JoinHandle(entity.clone());
        let run_queue = &percpu::get(cpu).run_queue;
        let mut queue = run_queue.queue.lock();
        run_queue.enqueue(&mut queue, entity);
        handle
    }
}

/// Starts `body` on CPU `cpu`, where it stays.
///
/// Context: threads; allocates. The new thread may run before this returns.
///
/// # Errors
/// [`SpawnError`]; nothing was started then.
pub(crate) fn spawn(
    cpu: &'static PerCpu,
    name: fmt::Arguments<'_>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle, SpawnError> {
    let body: Box<dyn FnOnce() + Send> = Box::new(body);
    Ok(NewThread::new(name, None, 1 << cpu.index, Some(body))?.start_on(cpu.index))
}

/// Runs `work(index)` for every index below `count` at once, each on a thread of its own, and returns when all are done. The
/// threads are dealt to the CPUs in turn, `per_cpu` neighbours to each.
///
/// Context: threads, preemption on; allocates, blocks.
///
/// # Errors
/// [`SpawnError`]: not all could be started; those that were have been waited for.
#[expect(unsafe_code, reason = "threads that borrow from their starter, which waits for them")]
pub(crate) fn run_all(count: usize, per_cpu: usize, work: &(dyn Fn(usize) + Sync)) -> Result<(), SpawnError> {
    // SAFETY: the borrow is longer only in name: every thread that gets it is joined below, on every way out, and a
    // panic of any thread ends the machine. `join` returns when nothing of the thread is left.
    let work: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(work) };
    let mut running: alloc::vec::Vec<JoinHandle> = alloc::vec::Vec::new();
    let mut result = Ok(());
    for index in 0..count {
        let cpu = percpu::get(index / per_cpu % percpu::count());
        match spawn(cpu, format_args!("worker/{index}"), move || work(index)) {
            Ok(handle) => running.push(handle),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    running.into_iter().for_each(JoinHandle::join);
    result
}

/// Runs a thread of the kernel on each other CPU, and waits for it: whatever ran there has entered the kernel since.
///
/// Context: threads, preemption on; allocates, blocks.
///
/// # Errors
/// [`SpawnError`].
pub(crate) fn run_on_others() -> Result<(), SpawnError> {
    let here = percpu::this().index;
    for cpu in percpu::all().filter(|cpu| cpu.index != here) {
        spawn(cpu, format_args!("barrier/{}", cpu.index), || {})?.join();
    }
    Ok(())
}

/// Where a new thread begins: in `leave` of the one before it, so to speak, with interrupts off.
extern "C" fn start() -> ! {
    settle();
    interrupts::enable();
    let body = with_current(|entity| entity.body.lock().take());
    match body {
        Some(body) => body(),
        None => task::first_steps(),
    }
    exit()
}

/// Ends the running thread. What it still holds on its stack is never dropped.
///
/// Context: threads, preemption on.
pub(crate) fn exit() -> ! {
    let keep = with_current(|entity| {
        let joiner = {
            let mut end = entity.end.lock();
            end.done = true;
            end.joiner.take()
        };
        if let Some(joiner) = joiner {
            unpark(&joiner);
        }
        entity.keep.lock().take()
    });
    // Not the last: the run queue has one.
    drop(keep);
    leave(Leave::Exit);
    unreachable!("an ended thread runs again");
}
