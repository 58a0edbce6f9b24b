//! Names for addresses: the symbol table that `link.sh` puts behind the image, and the chain of frames.
//!
//! The table is text, "address size name" per line, searched from the start: it is read in panics only.
//! Nothing here takes a lock or allocates.

use core::fmt;

use rustc_demangle::demangle;

use crate::arch::cpu::peek;
use crate::mm::symbol_table;

/// A backtrace ends here at the latest.
const FRAMES_MAX: usize = 512;

/// The function that contains an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Its mangled name.
    pub(crate) name: &'static str,
    /// The address's distance from its start.
    pub(crate) offset: u64,
}

/// Finds the function that contains `address`.
pub(crate) fn lookup(address: u64) -> Option<Symbol> {
    symbol_table().lines().find_map(|line| {
        let mut words = line.split(' ');
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        let size = u64::from_str_radix(words.next()?, 16).ok()?;
        let offset = address.checked_sub(start).filter(|&offset| offset < size)?;
        Some(Symbol { name: words.next()?, offset })
    })
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}+{:#x}", demangle(self.name), self.offset) // The alternate form leaves the hash out.
    }
}

/// An address with its function, if it is one of ours.
pub(crate) struct Location(pub(crate) u64);

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match lookup(self.0) {
            Some(symbol) => write!(f, "{:#018x} {symbol}", self.0),
            None => write!(f, "{:#018x} ?", self.0),
        }
    }
}

/// A backtrace, innermost function first, one line each.
pub(crate) struct Backtrace {
    /// Where the innermost function stands; 0 if the chain says all.
    pub(crate) rip: u64,
    /// Its frame pointer.
    pub(crate) rbp: u64,
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rip != 0 {
            writeln!(f, "  {}", Location(self.rip))?;
        }
        let mut frame = self.rbp;
        let (mut last, mut repeated) = (0, 0);
        for _ in 0..FRAMES_MAX {
            // A frame is the caller's frame pointer, then the address to return to. Whatever the register
            // holds, only what is mapped is read.
            let (Some(next), Some(back)) = (peek(frame), peek(frame.wrapping_add(8))) else { break };
            if back == 0 {
                break;
            }
            if back == last {
                repeated += 1; // Recursion; one line says it all.
            } else {
                if repeated > 0 {
                    writeln!(f, "  ... {repeated} more times")?;
                }
                (last, repeated) = (back, 0);
                writeln!(f, "  {}", Location(back - 1))?; // The call before it, not what comes after.
            }
            if next <= frame {
                break; // Stacks grow down, so callers lie higher.
            }
            frame = next;
        }
        if repeated > 0 {
            writeln!(f, "  ... {repeated} more times")?;
        }
        Ok(())
    }
}
