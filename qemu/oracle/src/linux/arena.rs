//! The memory that a helper's calls point into: one place per argument, with nothing mapped behind it.

use std::ptr;

use crate::raw::{Arg, PLACE};

/// Bytes from one place to the next: a page that cannot be touched lies between.
const STRIDE: usize = PLACE + 4096;

/// Bytes that a call may write though the output is shorter, because its size is fixed or another argument said more.
const UNASKED: usize = 1024;

/// Places for the six arguments of a call. Lives as long as its process.
pub(super) struct Arena {
    base: *mut u8,
    /// How many bytes from the start of each place, and up to its end, may not be zero now.
    used: [(usize, usize); 6],
}

impl Arena {
    /// Maps it.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn new() -> std::io::Result<Self> {
        let map = |at: *mut libc::c_void, len, access, flags| {
            // SAFETY: the first call lets the kernel choose fresh addresses; the others replace parts of that mapping,
            // which nobody refers to yet.
            match unsafe {
                libc::mmap(at, len, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags, -1, 0)
            } {
                libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
                at => Ok(at),
            }
        };
        let base = map(ptr::null_mut(), 6 * STRIDE, libc::PROT_NONE, 0)?;
        for place in 0..6 {
            let at = base.cast::<u8>().wrapping_add(place * STRIDE);
            map(at.cast(), PLACE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED)?;
        }
        Ok(Arena { base: base.cast(), used: [(0, 0); 6] })
    }

    /// The place of argument `at`.
    fn place(&mut self, at: usize) -> &mut [u8] {
        assert!(at < 6);
        // SAFETY: mapped in `new` for as long as the process lives, and borrowed from it through `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at * STRIDE), PLACE) }
    }

    /// Puts an argument into its place; returns the register.
    pub(super) fn put(&mut self, at: usize, arg: &Arg) -> u64 {
        let (front, back) = std::mem::take(&mut self.used[at]);
        let place = self.place(at);
        place[..front].fill(0);
        place[PLACE - back..].fill(0);
        let len = arg.len().min(PLACE);
        let address = match arg {
            Arg::Int(number) => return *number,
            Arg::Bytes(bytes) | Arg::InOut(bytes) => {
                place[..len].copy_from_slice(&bytes[..len]);
                place.as_ptr()
            }
            Arg::Edge(bytes) => {
                place[PLACE - len..].copy_from_slice(&bytes[..len]);
                place[PLACE - len..].as_ptr()
            }
            Arg::Out(_) => place.as_ptr(),
        };
        self.used[at] = match arg {
            Arg::Edge(_) => (0, len),
            Arg::Out(_) | Arg::InOut(_) => (len.max(UNASKED), 0),
            _ => (len, 0),
        };
        address as u64
    }

    /// What stands in the place of an output after the call, without the zeroes at its end.
    pub(super) fn get(&mut self, at: usize, arg: &Arg) -> Vec<u8> {
        let len = arg.len().min(PLACE);
        let bytes = &self.place(at)[..len];
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes[..end].to_vec()
    }
}
