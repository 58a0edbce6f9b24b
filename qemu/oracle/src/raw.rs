//! A system call as registers and memory, and what came back: all that an executor has to understand.

/// An argument, with nothing symbolic left in it.
///
/// Each argument that needs memory has a place of its own, [`PLACE`] bytes large and zero but for what is said here; the
/// memory behind its end cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The register.
    Int(u64),
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// The address of these bytes; what stands there after the call is given back.
    InOut(Vec<u8>),
    /// The address of these bytes, which are the last that can be read.
    Edge(Vec<u8>),
    /// The address of so many zeroes; what stands there after the call is given back.
    Out(u32),
}

/// Bytes that can be read and written from the address of an argument on.
pub const PLACE: usize = 1 << 14;

/// An address that nothing is mapped at.
pub const BAD: u64 = 0x10;

impl Arg {
    /// Whether memory is given back.
    pub fn is_output(&self) -> bool {
        matches!(self, Arg::InOut(_) | Arg::Out(_))
    }

    /// The bytes of its place that matter.
    pub fn len(&self) -> usize {
        match self {
            Arg::Int(_) => 0,
            Arg::Bytes(bytes) | Arg::InOut(bytes) | Arg::Edge(bytes) => bytes.len(),
            Arg::Out(len) => *len as usize,
        }
    }

    /// Whether it is a register alone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Its number.
    pub nr: u32,
    /// Its arguments.
    pub args: [Arg; 6],
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The register: an error is a negative number.
    pub result: i64,
    /// For each argument that is an output, its memory, without the zeroes at its end.
    pub memory: Vec<Vec<u8>>,
}

impl Reply {
    /// The error number; 0 is success.
    pub fn errno(&self) -> u32 {
        if (-4095..0).contains(&self.result) { (-self.result) as u32 } else { 0 }
    }

    /// A little-endian number in the memory of output `output`; zero beyond its end.
    pub fn number(&self, output: usize, at: usize, size: usize) -> u64 {
        let memory = self.memory.get(output).map_or(&[][..], Vec::as_slice);
        (0..size)
            .fold(0, |sum, byte| sum | u64::from(memory.get(at + byte).copied().unwrap_or(0)) << (8 * byte))
    }

    /// The string in the memory of output `output` from `at` on, up to its NUL.
    pub fn text(&self, output: usize, at: usize) -> &[u8] {
        let memory = self.memory.get(output).and_then(|memory| memory.get(at..)).unwrap_or_default();
        let end = memory.iter().position(|byte| *byte == 0).unwrap_or(memory.len());
        &memory[..end]
    }
}
