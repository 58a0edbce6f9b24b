//! How processes talk: sockets, and descriptors to wait for.
//!
//! | file | what |
//! |---|---|
//! | [`socket`], [`control`] | system calls on sockets, and what goes with messages |
//! | [`unix`] | sockets of the family `AF_UNIX` |
//! | [`poll`], [`epoll`] | waiting for many files |
//! | [`eventfd`], [`signalfd`], [`timerfd`] | counters, signals and times as files |
//!
//! Each has its lock order in its own header; none calls another under a lock, but that epoll asks files, and that files
//! wake whatever waits for them.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::task::Thread;

mod control;
mod epoll;
mod eventfd;
mod poll;
mod signalfd;
mod socket;
mod timerfd;
mod unix;
mod wait;

pub(crate) use unix::flight::collect as collect_lost_sockets;

/// The call `nr`, if it is one of these; all of them act for the running thread.
pub(crate) fn call(_thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Option<Result<usize, Errno>> {
    let [a, b, c, d, e, f] = args;
    let (fd, word) = (a as i32, |value: usize| value as u32);
    Some(match nr {
        abi::__NR_socket => socket::socket(word(a), word(b), word(c)),
        abi::__NR_socketpair => socket::socketpair(word(a), word(b), word(c), d),
        abi::__NR_bind => socket::bind(fd, b, c),
        abi::__NR_listen => socket::listen(fd, b as i32),
        abi::__NR_connect => socket::connect(fd, b, c),
        abi::__NR_accept => socket::accept(fd, b, c, 0),
        abi::__NR_accept4 => socket::accept(fd, b, c, word(d)),
        abi::__NR_shutdown => socket::shutdown(fd, word(b)),
        abi::__NR_getsockname => socket::getsockname(fd, b, c),
        abi::__NR_getpeername => socket::getpeername(fd, b, c),
        abi::__NR_setsockopt => socket::setsockopt(fd, word(b), word(c), d, e as i32),
        abi::__NR_getsockopt => socket::getsockopt(fd, word(b), word(c), d, e),
        abi::__NR_sendto => socket::sendto(fd, (b, c), word(d), (e, f)),
        abi::__NR_recvfrom => socket::recvfrom(fd, (b, c), word(d), (e, f)),
        abi::__NR_sendmsg => socket::sendmsg(fd, b, word(c)),
        abi::__NR_recvmsg => socket::recvmsg(fd, b, word(c)),
        abi::__NR_sendmmsg => socket::sendmmsg(fd, b, c, word(d)),
        abi::__NR_recvmmsg => socket::recvmmsg(fd, b, c, word(d), e),
        abi::__NR_poll => poll::poll(a, b, c as i32),
        abi::__NR_ppoll => poll::ppoll(a, b, c, (d, e)),
        abi::__NR_select => poll::select(a as i32, [b, c, d], e),
        abi::__NR_pselect6 => poll::pselect6(a as i32, [b, c, d], e, f),
        abi::__NR_epoll_create if (a as i32) <= 0 => Err(Errno::EINVAL),
        abi::__NR_epoll_create => epoll::create(0),
        abi::__NR_epoll_create1 => epoll::create(word(a)),
        abi::__NR_epoll_ctl => epoll::control(fd, word(b), c as i32, d),
        abi::__NR_epoll_wait => epoll::wait(fd, b, c as i32, d as i32),
        abi::__NR_epoll_pwait => epoll::pwait(fd, (b, c as i32), d as i32, (e, f)),
        abi::__NR_epoll_pwait2 => epoll::pwait2(fd, (b, c as i32), d, (e, f)),
        abi::__NR_eventfd => eventfd::eventfd2(word(a), 0),
        abi::__NR_eventfd2 => eventfd::eventfd2(word(a), word(b)),
        abi::__NR_signalfd => signalfd::signalfd4(fd, (b, c), 0),
        abi::__NR_signalfd4 => signalfd::signalfd4(fd, (b, c), word(d)),
        abi::__NR_timerfd_create => timerfd::create(word(a), word(b)),
        abi::__NR_timerfd_settime => timerfd::set(fd, word(b), c, d),
        abi::__NR_timerfd_gettime => timerfd::get(fd, b),
        _ => return None,
    })
}
