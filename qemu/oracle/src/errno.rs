//! What a call answered: nothing, or an error number with a name.

use std::fmt;

use linux_raw_sys::errno as abi;

/// What a call answered; 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer(pub u32);

/// The names that scripts use.
const NAMES: [(&str, u32); 16] = [
    ("EPERM", abi::EPERM),
    ("ENOENT", abi::ENOENT),
    ("ESRCH", abi::ESRCH),
    ("EAGAIN", abi::EAGAIN),
    ("ENOMEM", abi::ENOMEM),
    ("EACCES", abi::EACCES),
    ("EBUSY", abi::EBUSY),
    ("EEXIST", abi::EEXIST),
    ("ENODEV", abi::ENODEV),
    ("ENOTDIR", abi::ENOTDIR),
    ("EINVAL", abi::EINVAL),
    ("ENOSPC", abi::ENOSPC),
    ("EROFS", abi::EROFS),
    ("ENAMETOOLONG", abi::ENAMETOOLONG),
    ("ENOTEMPTY", abi::ENOTEMPTY),
    ("ELOOP", abi::ELOOP),
];

impl Answer {
    /// Success.
    pub const OK: Answer = Answer(0);
    /// `EBUSY`
    pub const BUSY: Answer = Answer(abi::EBUSY);
    /// The task does not exist (any more).
    pub const NO_TASK: Answer = Answer(abi::ESRCH);
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None if self.0 == 0 => f.write_str("0"),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, number)| Answer(*number)).ok_or_else(|| format!("no such error: {text}"))
    }
}
