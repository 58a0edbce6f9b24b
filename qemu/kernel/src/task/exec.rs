//! execve(2), execveat(2).
//!
//! 1. Everything that can fail comes first, with the old program untouched: arguments, the file and its interpreters, the new
//!    space with the program and its stack in it, the new credentials.
//! 2. Then the other threads end, and the thread becomes the first of its process if it is not.
//! 3. From there on nothing fails: space, descriptors, signal actions, credentials are changed.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use linux_raw_sys::general as abi;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Grow};
use syscalls::credentials::Capabilities;
use syscalls::{Credentials, Errno, access, ids};
use x86_64::instructions::interrupts;

use super::signal::{AltStack, ERESTARTNOINTR, send};
use super::{Thread, caps, clone, stats, tree};
use crate::arch::trap::TrapFrame;
use crate::fs;
use crate::fs::file::OpenFile;
use crate::mm::backing::Backing;
use crate::mm::image;
use crate::mm::space::AddressSpace;
use crate::mm::user;
use crate::sched::wait::Wait;

/// The longest argument, its end mark included.
const STRING_MAX: usize = 128 << 10;
/// All arguments together are never longer than this,
const TOTAL_MAX: usize = 6 << 20;
/// and may always be as long as this.
const TOTAL_MIN: usize = 128 << 10;
/// What of a file decides what it is.
const HEAD: usize = 256;
/// A script's interpreter may be a script, so often.
const SCRIPTS_MAX: usize = 5;

/// Strings of a program: its arguments, or its environment.
pub(crate) type Strings = Vec<Vec<u8>>;

/// A program that is ready to take a thread over.
pub(super) struct Program {
    space: Arc<AddressSpace>,
    frame: TrapFrame,
    file: Arc<OpenFile>,
    credentials: Option<Credentials>,
    secure: bool,
    name: Vec<u8>,
}

/// Reads an array of strings of user memory.
fn strings(addr: usize, budget: &mut usize) -> Result<Strings, Errno> {
    let mut strings = Strings::new();
    if addr == 0 {
        return Ok(strings);
    }
    loop {
        let at: usize = user::get(addr.wrapping_add(8 * strings.len()))?;
        if at == 0 {
            return Ok(strings);
        }
        let text = user::get_string(at, STRING_MAX.min(*budget)).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            error => error,
        })?;
        *budget = budget.checked_sub(text.len() + 1 + size_of::<usize>()).ok_or(Errno::E2BIG)?;
        strings.try_push(text).map_err(|_| Errno::ENOMEM)?;
    }
}

/// execve(2) and execveat(2). On success the thread's registers of user mode are the new program's.
pub(super) fn execveat(
    thread: &Arc<Thread>,
    frame: &mut TrapFrame,
    dfd: i32,
    [path, arguments, environment]: [usize; 3],
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !(abi::AT_EMPTY_PATH | abi::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::get_string(path, abi::PATH_MAX as usize)?;
    let stack = thread.process.limit(abi::RLIMIT_STACK).soft / 4;
    let mut budget = usize::try_from(stack).unwrap_or(usize::MAX).clamp(TOTAL_MIN, TOTAL_MAX);
    let mut arguments = strings(arguments, &mut budget)?;
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
    let environment = strings(environment, &mut budget)?;
    let uses_descriptor = dfd != abi::AT_FDCWD && !path.starts_with(b"/");
    let name = if !uses_descriptor {
        path.clone()
    } else if path.is_empty() {
        alloc::format!("/dev/fd/{dfd}").into_bytes()
    } else {
        [alloc::format!("/dev/fd/{dfd}/").as_bytes(), &path].concat()
    };
    let file = fs::exec::open(thread, dfd, &path, flags)?;
    if super::users::is_over_limit(thread, &thread.credentials(), 0) && thread.checks_nproc() {
        return Err(Errno::EAGAIN);
    }
    let hidden = uses_descriptor && thread.files().close_on_exec(dfd).unwrap_or(false);
    let program = prepare(thread, file, name, hidden, arguments, &environment)?;
    alone(thread)?;
    *frame = commit(thread, program);
    stats::count_exec();
    Ok(0)
}

/// Loads a program into a fresh space, as `thread` would run it. `hidden`: scripts cannot be run, because their
/// interpreter could not open them.
pub(super) fn prepare(
    thread: &Arc<Thread>,
    file: Arc<OpenFile>,
    name: Vec<u8>,
    hidden: bool,
    mut arguments: Strings,
    environment: &[Vec<u8>],
) -> Result<Program, Errno> {
    let mut file = file;
    let mut path = name.clone();
    for scripts in 0.. {
        let mut head = [0; HEAD];
        let len = file.read_at(0, &mut head)?;
        if image::is_elf(&head[..len]) {
            break;
        }
        let (interpreter, argument) = parse_script(&head[..len])?;
        if scripts == SCRIPTS_MAX {
            return Err(Errno::ELOOP);
        }
        if hidden {
            return Err(Errno::ENOENT);
        }
        arguments[0] = path;
        if let Some(argument) = argument {
            arguments.insert(0, argument.to_vec());
        }
        arguments.insert(0, interpreter.to_vec());
        path = interpreter.to_vec();
        file = fs::exec::open(thread, abi::AT_FDCWD, interpreter, 0)?;
    }
    let space = AddressSpace::new()?;
    thread.process.limits().tell(&space);
    let backing = fs::exec::backing(&file)?;
    let mut open = |path: &[u8]| -> Result<Arc<dyn Backing>, Errno> {
        fs::exec::backing(&fs::exec::open(thread, abi::AT_FDCWD, path, 0)?)
    };
    let loaded = image::load(&space, &backing, &mut open)?;
    let (credentials, secure) = new_credentials(thread, &file);
    let shown = |kind: ids::Kind, id: u32| kind.seen_by(&credentials.user_ns, id).unwrap_or(caps::NOBODY);
    let mut random = [0; 16];
    crate::random::fill(&mut random);
    let stack = image::build_stack(
        &space,
        &image::Start {
            loaded,
            arguments: &arguments,
            environment,
            name: &path,
            uid: shown(ids::Kind::Users, credentials.uid),
            euid: shown(ids::Kind::Users, credentials.euid),
            gid: shown(ids::Kind::Groups, credentials.gid),
            egid: shown(ids::Kind::Groups, credentials.egid),
            secure,
            random,
            stack_limit: thread.process.limit(abi::RLIMIT_STACK).soft,
        },
    )?;
    let frame = TrapFrame::user(loaded.start, stack);
    Ok(Program { space, frame, file, credentials: Some(credentials), secure, name })
}

/// The interpreter of a script, and its argument.
///
/// # Errors
/// `ENOEXEC`: it is none.
fn parse_script(head: &[u8]) -> Result<(&[u8], Option<&[u8]>), Errno> {
    let text = head.strip_prefix(b"#!").ok_or(Errno::ENOEXEC)?;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => &text[..end],
        // Cut off; that is fine if it is the argument that is.
        None if head.len() < HEAD => text,
        None => {
            let from = text.iter().position(|byte| !is_space(byte)).ok_or(Errno::ENOEXEC)?;
            text[from..].iter().position(is_space).ok_or(Errno::ENOEXEC)?;
            text
        }
    };
    let line = line.trim_ascii_end();
    let line = &line[line.iter().position(|byte| !is_space(byte)).ok_or(Errno::ENOEXEC)?..];
    let end = line.iter().position(|byte| is_space(byte) || *byte == 0).unwrap_or(line.len());
    let rest = line[end..].trim_ascii();
    let rest = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((&line[..end], if rest.is_empty() { None } else { Some(rest) }))
}

/// Who the thread is with the program of `file`, and whether that is more than it was (`AT_SECURE`).
fn new_credentials(thread: &Thread, file: &OpenFile) -> (Credentials, bool) {
    let old = thread.credentials();
    let mut new = (*old).clone();
    let honoured = file.file().path().is_some_and(|path| access::honours_set_id(&thread.mounts, &path.mount));
    if honoured && !old.no_new_privs {
        let (mode, uid, gid) = fs::exec::set_id(file);
        let known = ids::Kind::Users.seen_by(&old.user_ns, uid).is_some()
            && ids::Kind::Groups.seen_by(&old.user_ns, gid).is_some();
        if known && mode & abi::S_ISUID != 0 {
            new.euid = uid;
        }
        if known && mode & (abi::S_ISGID | 0o010) == abi::S_ISGID | 0o010 {
            new.egid = gid;
        }
    }
    let is_set_id = new.euid != old.uid || new.egid != old.gid;
    if is_set_id {
        new.ambient = Capabilities::empty();
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    let root = ids::Kind::Users.absolute(&old.user_ns, 0);
    let is_root = |uid: u32| Some(uid) == root;
    let mut effective = false;
    new.permitted = Capabilities::empty();
    if new.securebits & caps::NOROOT == 0 {
        if is_root(new.euid) || is_root(new.uid) {
            new.permitted = old.bounding | old.inheritable;
        }
        effective = is_root(new.euid);
    }
    new.permitted |= new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !caps::KEEP_CAPS;
    let grew = !new.ambient.contains(new.permitted);
    let secure = is_set_id || !is_root(new.uid) && (effective || grew);
    (new, secure)
}

/// Ends all other threads, makes the thread the first of its process, and gives it descriptors of its own.
fn alone(thread: &Arc<Thread>) -> Result<(), Errno> {
    let process = &thread.process;
    let files = thread.files();
    let files = if Arc::strong_count(&files) > 2 { Some(files.fork()?) } else { None };
    let namespaces = thread.namespaces().for_child()?;
    let actions = process.actions();
    let actions = if Arc::strong_count(&actions) > 2 { Some(actions.fork()?) } else { None };
    {
        let mut signals = process.signals.lock();
        if signals.group_exit.is_some() || signals.exec.is_some() {
            return Err(ERESTARTNOINTR);
        }
        signals.exec = Some(Arc::clone(thread));
        send::look_all(process, &signals);
    }
    let waited = process.exec_wait.wait(Wait::KILLABLE, || (process.threads_len() == 1).then_some(()));
    let ended = {
        let mut signals = process.signals.lock();
        let exec = signals.exec.take();
        if let Some(actions) = actions {
            signals.actions = actions;
        }
        exec
    };
    drop(ended);
    waited?;
    {
        let _tree = tree();
        let old = thread.pid();
        if !Arc::ptr_eq(&old, &process.pid) {
            old.set_thread(None);
            old.detach();
            *thread.pid.lock() = Arc::clone(&process.pid);
            process.pid.set_thread(Some(thread));
            process.family.lock().leader = Arc::downgrade(thread);
        }
    }
    if let Some(files) = files {
        thread.set_files(files);
    }
    thread.set_namespaces(namespaces);
    Ok(())
}

/// Makes `thread` run the program: its registers of user mode are returned. Context: the thread itself, or one that has not
/// started.
pub(super) fn commit(thread: &Arc<Thread>, program: Program) -> TrapFrame {
    let process = &thread.process;
    let Program { space, frame, file, credentials, secure, name } = program;
    let runs = super::with_current(|current| core::ptr::eq(current, &**thread)) == Some(true);
    if runs {
        super::futex::exit_robust_list(thread);
        let old = thread.space.lock().replace(Arc::clone(&space));
        if let Some(old) = &old {
            process.leaves(old);
        }
        interrupts::without_interrupts(|| space.activate());
        drop(old);
        clone::end_vfork(thread);
    } else {
        *thread.space.lock() = Some(space);
    }
    thread.clear_child_tid.store(0, Relaxed); // Relaxed: own thread.
    thread.set_comm(name.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    let old = process.exe.lock().replace(file);
    drop(old);
    if let Some(credentials) = credentials {
        if secure {
            thread.death_signal.store(0, Relaxed); // Relaxed: a number.
        }
        process.dumpable.store(u32::from(!secure), Relaxed); // Relaxed: a number.
        // Nobody could be told of an error any more.
        memory::until(|| super::creds::set(thread, credentials.clone()).map_err(|_| NoMemory));
    }
    process.has_executed.store(true, Relaxed); // Relaxed: a number.
    process.actions().reset(false);
    super::posix_timers::clear(process);
    process.membarrier.store(0, Relaxed); // Relaxed: a number.
    {
        let mut signals = thread.signals.lock();
        signals.alt_stack = AltStack::NONE;
        signals.restart = None;
    }
    process.exit_signal.store(abi::SIGCHLD, Relaxed); // Relaxed: a number.
    thread.settings.lock().keep_caps = false;
    {
        let mut state = thread.user.lock();
        state.reset();
        if runs {
            super::reload(thread, &state);
        }
    }
    thread.files().exec();
    frame
}
