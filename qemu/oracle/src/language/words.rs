//! Lines cut into words, and words into pieces.

use std::collections::VecDeque;

use super::{Arg, Piece, Place, Value, task};
use crate::raw;
use linux_raw_sys::general as abi;

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: Vec<u8>,
    /// Where quotes began in it, if there were any.
    pub(super) quoted: Option<usize>,
}

/// The words of a line.
pub(super) fn words(line: &str) -> Result<VecDeque<Word>, String> {
    let mut words = VecDeque::new();
    let mut bytes = line.bytes().peekable();
    while let Some(first) = bytes.peek().copied() {
        if first == b' ' {
            bytes.next();
            continue;
        }
        let mut word = Word { text: Vec::new(), quoted: None };
        // `<` to `>` is one word.
        let end = if first == b'<' { b'>' } else { b' ' };
        while let Some(byte) = bytes.next_if(|byte| end != b' ' || *byte != b' ') {
            match byte {
                b'"' => {
                    word.quoted.get_or_insert(word.text.len());
                    quoted(&mut bytes, &mut word.text)?;
                }
                _ => word.text.push(byte),
            }
            if end == b'>' && byte == b'>' {
                break;
            }
        }
        words.push_back(word);
    }
    Ok(words)
}

/// What stands between quotes.
fn quoted(bytes: &mut impl Iterator<Item = u8>, text: &mut Vec<u8>) -> Result<(), String> {
    loop {
        match bytes.next().ok_or("a quote is not closed")? {
            b'"' => return Ok(()),
            b'\\' => text.push(match bytes.next().ok_or("nothing behind a backslash")? {
                b'n' => b'\n',
                b't' => b'\t',
                b'x' => {
                    let mut digit = || char::from(bytes.next().unwrap_or(b'?')).to_digit(16);
                    let (high, low) = (digit(), digit());
                    high.zip(low).map(|(high, low)| (high * 16 + low) as u8).ok_or("no number behind \\x")?
                }
                other => other,
            }),
            byte => text.push(byte),
        }
    }
}

impl Word {
    /// The word, if it is one without quotes.
    pub(super) fn plain(&self) -> Option<&str> {
        if self.quoted.is_some() { None } else { std::str::from_utf8(&self.text).ok() }
    }

    fn is(&self, text: &str) -> bool {
        self.plain() == Some(text)
    }

    /// As an error shows it.
    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// A pointer that is no string.
    fn pointer(&self) -> Option<Arg> {
        match self.plain()? {
            "NULL" => Some(Arg::ZERO),
            "BAD" => Some(Arg::int(raw::BAD)),
            _ => None,
        }
    }

    /// A string argument.
    pub(super) fn string(&self) -> Result<Arg, String> {
        self.pointer().map_or_else(|| pieces(&self.text).map(Arg::Text), Ok)
    }

    /// A path argument of a call that takes a directory too.
    pub(super) fn place(&self) -> Result<Place, String> {
        let here = Value::Int(i64::from(abi::AT_FDCWD) as u64);
        if let Some(path) = self.pointer() {
            return Ok(Place { directory: here, path, is_empty: false });
        }
        let colon = self.text.iter().position(|byte| *byte == b':');
        match colon.filter(|at| self.text.starts_with(b"@") && self.quoted.is_none_or(|quote| quote > *at)) {
            Some(at) => {
                let directory = name(&self.text[1..at]).map(Value::Fd)?;
                let rest = &self.text[at + 1..];
                let path = match rest {
                    b"NULL" if self.quoted.is_none() => Arg::ZERO,
                    rest => Arg::Text(pieces(rest)?),
                };
                let is_empty = rest.is_empty() || path == Arg::ZERO;
                Ok(Place { directory, path, is_empty })
            }
            None => Ok(Place { directory: here, path: Arg::Text(pieces(&self.text)?), is_empty: false }),
        }
    }

    /// A descriptor, a named number, a task's pid, or a number as C writes it: names and numbers between bars.
    pub(super) fn value(&self) -> Result<Value, String> {
        let text = self.plain().ok_or_else(|| format!("`{}` is no number", self.lossy()))?;
        if let Some(rest) = text.strip_prefix('@') {
            return name(rest.as_bytes()).map(Value::Fd);
        }
        if let Some(rest) = text.strip_prefix('%') {
            return name(rest.as_bytes()).map(Value::Number);
        }
        if let Ok(task) = task(text) {
            return Ok(Value::Pid(task));
        }
        super::flags::number(text).map(Value::Int)
    }
}

/// The name of a descriptor or number.
fn name(text: &[u8]) -> Result<String, String> {
    let shown = String::from_utf8_lossy(text).into_owned();
    let good = !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if good { Ok(shown) } else { Err(format!("`{shown}` is no name")) }
}

/// A string with `{@t}`, `{%n}` and `{t1}` in it.
fn pieces(text: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.iter().position(|byte| *byte == b'{') {
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > open);
        let close = close.ok_or("a brace is not closed")?;
        let word = Word { text: rest[open + 1..close].to_vec(), quoted: None };
        pieces.push(Piece::Text(rest[..open].to_vec()));
        pieces.push(Piece::Number(word.value()?));
        rest = &rest[close + 1..];
    }
    pieces.push(Piece::Text(rest.to_vec()));
    Ok(pieces)
}

/// The words of an operation behind its verb.
pub(super) struct Words(pub(super) VecDeque<Word>);

impl Words {
    /// Whether the option `name` is there.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|word| word.is(name));
        at.is_some_and(|at| self.0.remove(at).is_some())
    }

    /// The word behind the option `name`.
    pub(super) fn option(&mut self, name: &str) -> Result<Option<Word>, String> {
        let Some(at) = self.0.iter().position(|word| word.is(name)) else { return Ok(None) };
        self.0.remove(at);
        self.0.remove(at).map(Some).ok_or_else(|| format!("nothing behind {name}"))
    }

    /// The bits of all options of `table` that are there.
    pub(super) fn flags(&mut self, table: &[(&str, u64)]) -> u64 {
        table.iter().filter(|(name, _)| self.flag(name)).fold(0, |bits, (_, bit)| bits | bit)
    }

    /// The next word; options do not count.
    pub(super) fn next(&mut self, what: &str) -> Result<Word, String> {
        match self.0.pop_front() {
            Some(word) if word.plain().is_some_and(|text| text.len() > 1 && text.starts_with('-')) => {
                Err(format!("no such option: {}", word.lossy()))
            }
            Some(word) => Ok(word),
            None => Err(format!("{what} is missing")),
        }
    }

    /// Nothing is left.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.0.front() {
            Some(word) => Err(format!("`{}` is too much", word.lossy())),
            None => Ok(()),
        }
    }
}
