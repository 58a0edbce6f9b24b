//! Names: what is a good one, its hash, and its bytes inside an entry.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::FsError;

/// Bytes of a name.
pub const NAME_MAX: usize = 255;

/// Bytes of a symbolic link's target.
pub const TARGET_MAX: usize = 4095;

/// A name's bytes, up to 24 of them inside the entry.
pub(crate) type Name = SmallVec<[u8; 24]>;

/// A copy of `name`, which [`check`] accepted.
pub(crate) fn copy(name: &[u8]) -> Result<Name, FsError> {
    let mut copy = Name::new();
    copy.try_reserve_exact(name.len()).map_err(|_| FsError::NoMemory)?;
    copy.extend_from_slice(name);
    Ok(copy)
}

/// Refuses what cannot be the name of an entry.
pub(crate) fn check(name: &[u8]) -> Result<(), FsError> {
    match name {
        b"" => Err(FsError::NotFound),
        b"." | b".." => Err(FsError::BadName),
        _ if name.len() > NAME_MAX => Err(FsError::NameTooLong),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(FsError::BadName),
        _ => Ok(()),
    }
}

/// A name's hash, the same in every directory, so that an entry's hash is known before its directory is locked.
#[inline]
pub(crate) fn hash(name: &[u8]) -> u64 {
    const STATE: FixedState = FixedState::with_seed(0x746d_7066);
    let mut hasher = STATE.build_hasher();
    hasher.write(name);
    hasher.finish()
}

/// Whether two names are the same, which they are nearly always when their hashes are.
#[inline]
pub(crate) fn same(one: &[u8], two: &[u8]) -> bool {
    // Names are short: a loop is faster than a call of what is made for long texts.
    one.len() == two.len() && core::iter::zip(one, two).all(|(one, two)| one == two)
}

/// A copy of a symbolic link's target.
pub(crate) fn boxed(target: &[u8]) -> Result<Box<[u8]>, FsError> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(target.len()).map_err(|_| FsError::NoMemory)?;
    copy.extend_from_slice(target);
    Ok(copy.into_boxed_slice())
}

/// What a file without a name is called (`O_TMPFILE`): `#` and a number.
pub(crate) fn numbered(number: u64) -> Result<Name, FsError> {
    let mut digits = [0; 21];
    let mut first = digits.len();
    let mut rest = number;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    first -= 1;
    digits[first] = b'#';
    copy(&digits[first..])
}
