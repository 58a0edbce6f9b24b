//! The command line as Linux reads it: what is not for the kernel is for the first process.
//!
//! - `init=PATH` or `rdinit=PATH` names the program; without either it is `/init`.
//! - A word with `=` goes to the program's environment, one without to its arguments, unless the kernel knows it; one with
//!   a dot before any `=` is for a module that the kernel does not have, and is dropped.
//! - Everything behind `--` goes to its arguments.
//! - Double quotes keep blanks in a word.

use alloc::vec::Vec;

/// Words for Linux that mean nothing here.
const IGNORED: [&[u8]; 12] = [
    b"console",
    b"earlyprintk",
    b"root",
    b"rootfstype",
    b"rootflags",
    b"ro",
    b"rw",
    b"quiet",
    b"panic",
    b"loglevel",
    b"nokaslr",
    b"noapic",
];

/// What the first process is, and what the kernel is told.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The program.
    pub(super) program: Vec<u8>,
    /// Its arguments, its name the first.
    pub(super) arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub(super) environment: Vec<Vec<u8>>,
    /// Whether calls that nobody knows are told on the console.
    pub(super) debug: bool,
    /// Whether there is a call for tests.
    pub(super) debug_call: bool,
}

impl Line {
    /// Reads `text`.
    pub(super) fn parse(text: &str) -> Self {
        let mut line = Line { program: b"/init".to_vec(), ..Line::default() };
        line.environment.extend([b"HOME=/".to_vec(), b"TERM=linux".to_vec()]);
        let mut arguments = Vec::new();
        let mut rest = false;
        for word in Words(text.as_bytes()) {
            if rest {
                arguments.push(word);
                continue;
            }
            let equals = word.iter().position(|byte| *byte == b'=');
            let key = &word[..equals.unwrap_or(word.len())];
            let value = equals.map(|equals| &word[equals + 1..]);
            match (key, value) {
                (b"--", None) => rest = true,
                (b"init" | b"rdinit", Some(path)) => line.program = path.to_vec(),
                (b"debug", None) => line.debug = true,
                (b"debug_call", None) => line.debug_call = true,
                (key, _) if IGNORED.contains(&key) || key.contains(&b'.') => {}
                (key, Some(_)) => {
                    // A later word replaces an earlier one, and the defaults.
                    let same =
                        |other: &Vec<u8>| other.starts_with(key) && other.get(key.len()) == Some(&b'=');
                    line.environment.retain(|other| !same(other));
                    line.environment.push(word);
                }
                (_, None) => arguments.push(word),
            }
        }
        line.arguments.push(line.program.clone());
        line.arguments.append(&mut arguments);
        line
    }
}

/// The words of a text, without the quotes.
struct Words<'a>(&'a [u8]);

impl Iterator for Words<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.0 = self.0.trim_ascii_start();
        if self.0.is_empty() {
            return None;
        }
        let mut word = Vec::new();
        let mut quoted = false;
        let mut length = 0;
        for byte in self.0 {
            match byte {
                b'"' => quoted = !quoted,
                byte if byte.is_ascii_whitespace() && !quoted => break,
                byte => word.push(*byte),
            }
            length += 1;
        }
        self.0 = &self.0[length..];
        Some(word)
    }
}
