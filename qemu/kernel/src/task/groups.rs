//! Process groups and sessions: setpgid(2), setsid(2) and their like.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use syscalls::Errno;

use super::{Process, Session, Thread, tree};

/// The process `nr`, or the caller's.
fn process(thread: &Thread, nr: i32) -> Result<Arc<Process>, Errno> {
    if nr == 0 {
        return Ok(Arc::clone(&thread.process));
    }
    thread.pid_ns().process(nr as u32).ok_or(Errno::ESRCH)
}

/// setpgid(2).
pub(super) fn setpgid(thread: &Thread, pid: i32, group: i32) -> Result<usize, Errno> {
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let own = &thread.process;
    let target = process(thread, pid)?;
    let wanted = if group == 0 { None } else { Some(thread.pid_ns().pid(group as u32)) };
    let wanted = match wanted {
        None => Some(Arc::clone(&target.pid)),
        Some(wanted) => wanted,
    };
    let left = {
        let _tree = tree();
        let session = own.session();
        if target.parent().is_some_and(|parent| Arc::ptr_eq(&parent, own)) {
            if !Arc::ptr_eq(&target.session(), &session) {
                return Err(Errno::EPERM);
            }
            // Relaxed: a number.
            if target.has_executed.load(Relaxed) {
                return Err(Errno::EACCES);
            }
        } else if !Arc::ptr_eq(&target, own) {
            return Err(Errno::ESRCH);
        }
        if target.is_session_leader() {
            return Err(Errno::EPERM);
        }
        let wanted = wanted.ok_or(Errno::EPERM)?;
        if !Arc::ptr_eq(&wanted, &target.pid) && !session.has_group(&wanted) {
            return Err(Errno::EPERM);
        }
        let old = target.group();
        if Arc::ptr_eq(&old, &wanted) {
            return Ok(0);
        }
        wanted.reserve_group()?;
        wanted.join_group(&target);
        target.family.lock().group = wanted;
        old.leave_group(&target);
        old
    };
    drop(left);
    Ok(0)
}

/// getpgid(2).
pub(super) fn getpgid(thread: &Thread, pid: i32) -> Result<usize, Errno> {
    let target = process(thread, pid)?;
    Ok(target.group().number_in(thread.pid_ns()).unwrap_or(0) as usize)
}

/// getsid(2).
pub(super) fn getsid(thread: &Thread, pid: i32) -> Result<usize, Errno> {
    let target = process(thread, pid)?;
    Ok(target.session().id.number_in(thread.pid_ns()).unwrap_or(0) as usize)
}

/// setsid(2).
pub(super) fn setsid(thread: &Thread) -> Result<usize, Errno> {
    let own = &thread.process;
    let session = Session::new(&own.pid)?;
    let left = {
        let _tree = tree();
        if own.is_session_leader() || own.pid.is_group() {
            return Err(Errno::EPERM);
        }
        own.pid.reserve_group()?;
        own.pid.join_group(own);
        own.pid.attach();
        let old = {
            let mut family = own.family.lock();
            let group = core::mem::replace(&mut family.group, Arc::clone(&own.pid));
            (group, core::mem::replace(&mut family.session, session))
        };
        old.0.leave_group(own);
        old.1.id.detach();
        old
    };
    drop(left);
    Ok(own.pid.number_in(thread.pid_ns()).unwrap_or(0) as usize)
}
