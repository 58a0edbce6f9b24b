//! Where reads put bytes and writes take them from: pieces of user memory, or a buffer of the kernel's.
//!
//! User memory can fault, which may block: never under a spin lock, nor pinned.

use syscalls::Errno;

use crate::mm::user;
use tmpfs::Page;

/// A piece of user memory, as `struct iovec` has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Where it begins.
    pub(crate) addr: usize,
    /// Its bytes.
    pub(crate) len: usize,
}

enum Memory<'a, K> {
    User(&'a [Piece]),
    Kernel(K),
}

/// Takes what is read.
pub(crate) struct Sink<'a> {
    memory: Memory<'a, &'a mut [u8]>,
    /// The piece at hand, and how much of it is used.
    at: (usize, usize),
    done: usize,
    left: usize,
}

/// Gives what is written.
pub(crate) struct Source<'a> {
    memory: Memory<'a, &'a [u8]>,
    at: (usize, usize),
    done: usize,
    left: usize,
}

/// Goes through pieces; `copy` moves up to that many bytes at an address and returns how many it could.
fn pieces(
    pieces: &[Piece],
    at: &mut (usize, usize),
    mut wanted: usize,
    mut copy: impl FnMut(usize, core::ops::Range<usize>) -> usize,
) -> usize {
    let mut done = 0;
    while wanted != 0 {
        let Some(piece) = pieces.get(at.0) else { break };
        let count = wanted.min(piece.len - at.1);
        if count == 0 {
            *at = (at.0 + 1, 0);
            continue;
        }
        let copied = copy(piece.addr.wrapping_add(at.1), done..done + count);
        at.1 += copied;
        done += copied;
        wanted -= copied;
        if copied < count {
            break;
        }
    }
    done
}

impl<'a> Sink<'a> {
    /// User memory; `pieces` hold no more than `isize::MAX` bytes together.
    pub(crate) fn user(pieces: &'a [Piece]) -> Self {
        let left = pieces.iter().map(|piece| piece.len).sum();
        Sink { memory: Memory::User(pieces), at: (0, 0), done: 0, left }
    }

    /// A buffer.
    pub(crate) fn kernel(buffer: &'a mut [u8]) -> Self {
        Sink { left: buffer.len(), memory: Memory::Kernel(buffer), at: (0, 0), done: 0 }
    }

    /// How many bytes it still takes.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// How many it has.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Puts as much of `bytes` as there is room for; returns how much that was. Less, with room left: the rest cannot be
    /// written.
    ///
    /// # Errors
    /// `EFAULT`: none of it.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let wanted = bytes.len().min(self.left);
        let put = match &mut self.memory {
            Memory::User(list) => {
                pieces(list, &mut self.at, wanted, |addr, range| user::copy_out(addr, &bytes[range]))
            }
            Memory::Kernel(buffer) => {
                buffer[self.done..self.done + wanted].copy_from_slice(&bytes[..wanted]);
                wanted
            }
        };
        self.moved(put, wanted)
    }

    /// As [`Sink::put`], of `count` bytes of a page from `offset` on.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn put_page(&mut self, page: &Page, offset: usize, count: usize) -> Result<usize, Errno> {
        let wanted = count.min(self.left);
        let put = match &mut self.memory {
            Memory::User(list) => pieces(list, &mut self.at, wanted, |addr, range| {
                user::copy_out_page(addr, page, offset + range.start, range.len())
            }),
            Memory::Kernel(buffer) => {
                page.read(offset, &mut buffer[self.done..self.done + wanted]);
                wanted
            }
        };
        self.moved(put, wanted)
    }

    fn moved(&mut self, count: usize, wanted: usize) -> Result<usize, Errno> {
        self.done += count;
        self.left -= count;
        if count == 0 && wanted != 0 { Err(Errno::EFAULT) } else { Ok(count) }
    }
}

impl<'a> Source<'a> {
    /// User memory; as [`Sink::user`].
    pub(crate) fn user(pieces: &'a [Piece]) -> Self {
        let left = pieces.iter().map(|piece| piece.len).sum();
        Source { memory: Memory::User(pieces), at: (0, 0), done: 0, left }
    }

    /// A buffer.
    pub(crate) fn kernel(buffer: &'a [u8]) -> Self {
        Source { left: buffer.len(), memory: Memory::Kernel(buffer), at: (0, 0), done: 0 }
    }

    /// How many bytes it still has.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Gives at most so many more.
    pub(crate) fn limit(&mut self, left: usize) {
        self.left = self.left.min(left);
    }

    /// Fills `bytes` as far as there is something left; returns how far. Less, with something left: the rest cannot be
    /// read.
    ///
    /// # Errors
    /// `EFAULT`: none of it.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let wanted = bytes.len().min(self.left);
        let taken = match &self.memory {
            Memory::User(list) => {
                pieces(list, &mut self.at, wanted, |addr, range| user::copy_in(addr, &mut bytes[range]))
            }
            Memory::Kernel(buffer) => {
                bytes[..wanted].copy_from_slice(&buffer[self.done..self.done + wanted]);
                wanted
            }
        };
        self.moved(taken, wanted)
    }

    /// As [`Source::take`], into a page from `offset` on.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn take_page(&mut self, page: &Page, offset: usize, count: usize) -> Result<usize, Errno> {
        let wanted = count.min(self.left);
        let taken = match &self.memory {
            Memory::User(list) => pieces(list, &mut self.at, wanted, |addr, range| {
                user::copy_in_page(addr, page, offset + range.start, range.len())
            }),
            Memory::Kernel(buffer) => {
                page.write(offset, &buffer[self.done..self.done + wanted]);
                wanted
            }
        };
        self.moved(taken, wanted)
    }

    fn moved(&mut self, count: usize, wanted: usize) -> Result<usize, Errno> {
        self.done += count;
        self.left -= count;
        if count == 0 && wanted != 0 { Err(Errno::EFAULT) } else { Ok(count) }
    }
}
