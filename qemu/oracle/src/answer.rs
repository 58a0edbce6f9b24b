//! What a call answered.

use std::fmt;

use linux_raw_sys::errno as abi;

use crate::errno;

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Success, and nothing to tell.
    Ok,
    /// An error number.
    Error(u32),
    /// Success, and what the call told.
    Value(String),
}

impl Answer {
    /// `EAGAIN`
    pub const AGAIN: Answer = Answer::Error(abi::EAGAIN);

    /// `EBUSY`
    pub const BUSY: Answer = Answer::Error(abi::EBUSY);

    /// `EINVAL`
    pub const INVALID: Answer = Answer::Error(abi::EINVAL);

    /// Success or the error `errno`.
    pub fn from_errno(errno: u32) -> Self {
        if errno == 0 { Answer::Ok } else { Answer::Error(errno) }
    }

    /// Whether the call succeeded.
    pub fn is_ok(&self) -> bool {
        !matches!(self, Answer::Error(_))
    }

    /// Reads what stands behind `=>`: the name of an error, or what a call told.
    pub fn parse(text: &str) -> Self {
        errno::number(text).map_or_else(|| Answer::Value(text.to_owned()), Answer::Error)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ok => f.write_str("0"),
            Answer::Error(number) => f.write_str(&errno::name(*number)),
            Answer::Value(text) => f.write_str(text),
        }
    }
}
