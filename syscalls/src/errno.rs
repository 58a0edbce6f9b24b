//! Error numbers, and what the lower crates' errors are in them.

use linux_raw_sys::errno;
use mnt_table::list::NoMemory;
use mnt_table::user_ns::{NoChild, TooMany};
use mnt_table::walk::WalkError;
use mnt_table::writers::ReadOnly;

/// A Linux error number, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(u32);

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub const $name: Errno = Errno(errno::$name);
            )*
        }

        impl core::fmt::Debug for Errno {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($name)),)*
                    Errno(number) => write!(f, "errno {number}"),
                }
            }
        }
    };
}

names! {
    E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBADFD EBADMSG EBUSY ECANCELED ECHILD
    ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EDESTADDRREQ EDOM EDQUOT EEXIST EFAULT EFBIG EHOSTUNREACH EIDRM EILSEQ
    EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR ELIBBAD ELOOP EMEDIUMTYPE EMFILE EMLINK EMSGSIZE ENAMETOOLONG ENETUNREACH
    ENFILE ENOBUFS ENODATA ENODEV ENOENT ENOEXEC ENOKEY ENOLCK ENOMEM ENOMSG ENOPROTOOPT ENOSPC ENOSYS ENOTBLK ENOTCONN
    ENOTDIR ENOTEMPTY ENOTRECOVERABLE ENOTSOCK ENOTTY ENOTUNIQ ENXIO EOPNOTSUPP EOVERFLOW EOWNERDEAD EPERM EPIPE EPROTO
    EPROTONOSUPPORT EPROTOTYPE ERANGE EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ESTALE ETIME ETIMEDOUT ETOOMANYREFS
    ETXTBSY EUCLEAN EUSERS EXDEV EXFULL
}

impl Errno {
    /// The error with this number: what the kernel around this crate needs beside the names above.
    pub const fn from_raw(number: u32) -> Errno {
        Errno(number)
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl core::error::Error for Errno {}

impl From<WalkError> for Errno {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NotFound => Errno::ENOENT,
            WalkError::NotDirectory => Errno::ENOTDIR,
            WalkError::Loop => Errno::ELOOP,
            WalkError::NameTooLong => Errno::ENAMETOOLONG,
            WalkError::Leaves => Errno::EXDEV,
            WalkError::Again => Errno::EAGAIN,
            WalkError::BadFlags => Errno::EINVAL,
            WalkError::Denied => Errno::EACCES,
            WalkError::NoLastName => Errno::EBUSY,
            WalkError::NoMemory => Errno::ENOMEM,
        }
    }
}

impl From<ReadOnly> for Errno {
    fn from(ReadOnly: ReadOnly) -> Self {
        Errno::EROFS
    }
}

impl From<TooMany> for Errno {
    fn from(TooMany: TooMany) -> Self {
        Errno::ENOSPC
    }
}

impl From<NoChild> for Errno {
    fn from(error: NoChild) -> Self {
        match error {
            NoChild::TooMany => Errno::ENOSPC,
            NoChild::NoMemory => Errno::ENOMEM,
        }
    }
}

impl From<NoMemory> for Errno {
    fn from(NoMemory: NoMemory) -> Self {
        Errno::ENOMEM
    }
}

impl From<propagate::Error> for Errno {
    fn from(error: propagate::Error) -> Self {
        match error {
            propagate::Error::Invalid => Errno::EINVAL,
            propagate::Error::NotFound => Errno::ENOENT,
            propagate::Error::Busy => Errno::EBUSY,
            propagate::Error::Loop => Errno::ELOOP,
            propagate::Error::NotDirectory => Errno::ENOTDIR,
            propagate::Error::Limit => Errno::ENOSPC,
            propagate::Error::Permission => Errno::EPERM,
            propagate::Error::NoMemory => Errno::ENOMEM,
        }
    }
}
