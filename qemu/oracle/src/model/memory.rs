//! User memory for the time of one call: a place for each argument, as a helper on Linux lays them out.

use std::sync::Mutex;

use crate::raw::{Arg, PLACE};

/// From the address of one place to the next; behind each nothing can be read.
const STRIDE: usize = 1 << 20;

/// The places of the arguments of one call: each the beginning of [`PLACE`] bytes, of which the rest are zero. An empty one
/// cannot be read.
pub(super) struct Memory(Mutex<[Vec<u8>; 6]>);

impl Memory {
    /// Lays `args` out; returns the registers too.
    pub(super) fn new(args: &[Arg; 6]) -> (Self, [usize; 6]) {
        let mut registers = [0; 6];
        let mut places = [const { Vec::new() }; 6];
        for (at, arg) in args.iter().enumerate() {
            let base = (at + 1) * STRIDE;
            let len = arg.len().min(PLACE);
            registers[at] = match arg {
                Arg::Int(number) => *number as usize,
                Arg::Bytes(bytes) | Arg::InOut(bytes) => {
                    places[at] = bytes[..len].to_vec();
                    base
                }
                Arg::Edge(bytes) => {
                    places[at] = vec![0; PLACE - len];
                    places[at].extend_from_slice(&bytes[..len]);
                    base + PLACE - len
                }
                Arg::Out(_) => base,
            };
            if !matches!(arg, Arg::Int(_)) && places[at].is_empty() {
                places[at].push(0);
            }
        }
        (Memory(Mutex::new(places)), registers)
    }

    /// What stands in the outputs, without the zeroes at their ends.
    pub(super) fn outputs(&self, args: &[Arg; 6]) -> Vec<Vec<u8>> {
        let places = self.0.lock().expect("nobody panics with it");
        let outputs = args.iter().zip(places.iter()).filter(|(arg, _)| arg.is_output());
        let trimmed = outputs.map(|(arg, place)| {
            let bytes = &place[..arg.len().min(place.len())];
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes[..end].to_vec()
        });
        trimmed.collect()
    }

    /// The place of `addr`, and where in it that is.
    fn with<R>(&self, addr: usize, then: impl FnOnce(&mut Vec<u8>, usize) -> R) -> Option<R> {
        let (place, at) = (addr / STRIDE, addr % STRIDE);
        let mut places = self.0.lock().expect("nobody panics with it");
        let place = places.get_mut(place.checked_sub(1)?)?;
        (!place.is_empty() && at < PLACE).then(|| then(place, at))
    }

    /// Copies out as much as there is.
    pub(super) fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        let copy = |place: &mut Vec<u8>, at: usize| {
            let count = to.len().min(PLACE - at);
            to[..count].fill(0);
            let there = place.get(at..).unwrap_or_default();
            let there = &there[..there.len().min(count)];
            to[..there.len()].copy_from_slice(there);
            count
        };
        self.with(addr, copy).unwrap_or(0)
    }

    /// Copies in as much as fits.
    pub(super) fn write(&self, addr: usize, from: &[u8]) -> usize {
        let copy = |place: &mut Vec<u8>, at: usize| {
            let count = from.len().min(PLACE - at);
            place.resize(place.len().max(at + count), 0);
            place[at..at + count].copy_from_slice(&from[..count]);
            count
        };
        self.with(addr, copy).unwrap_or(0)
    }
}
