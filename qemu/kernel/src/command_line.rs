//! The kernel's command line: words of the form `key=value`.
//!
//! Whoever wants a word takes it; what is left when all have taken theirs is an error, so that a misspelt
//! word does not silently mean its default.

use alloc::boxed::Box;
use core::fmt;
use core::str::FromStr;

use heapless::Vec;

use crate::arch::spin::SpinLock;

const WORDS_MAX: usize = 32;

/// The whole text.
static WHOLE: SpinLock<&str> = SpinLock::new("");

/// Keeps the text for those that come later. Context: once, with the heap.
pub(crate) fn keep(text: &str) {
    *WHOLE.lock() = Box::leak(Box::from(text));
}

/// The command line as the loader gave it.
pub(crate) fn whole() -> &'static str {
    *WHOLE.lock()
}

/// The words that nobody took yet.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine<'a> {
    words: Vec<(&'a str, &'a str), WORDS_MAX>,
}

/// What is wrong with the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandLineError<'a> {
    /// A word without `=`, or without a key.
    NotKeyValue(&'a str),
    /// A key that comes twice.
    Twice(&'a str),
    /// More than [`WORDS_MAX`] words.
    TooMany,
    /// A value that is not what its key takes.
    Value { key: &'a str, value: &'a str, wanted: &'static str },
    /// A key that nobody knows.
    Unknown(&'a str),
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("command line: ")?;
        match self {
            Self::NotKeyValue(word) => write!(f, "`{word}` is not of the form key=value"),
            Self::Twice(key) => write!(f, "`{key}` is given twice"),
            Self::TooMany => write!(f, "more than {WORDS_MAX} words"),
            Self::Value { key, value, wanted } => write!(f, "`{key}={value}`: {wanted} expected"),
            Self::Unknown(key) => write!(f, "unknown word `{key}`"),
        }
    }
}

impl<'a> CommandLine<'a> {
    /// Splits `text`.
    ///
    /// # Errors
    /// [`CommandLineError::NotKeyValue`], [`CommandLineError::Twice`] or [`CommandLineError::TooMany`], for
    /// the first word that deserves it.
    pub(crate) fn parse(text: &'a str) -> Result<Self, CommandLineError<'a>> {
        let mut words: Vec<(&str, &str), WORDS_MAX> = Vec::new();
        for word in text.split_ascii_whitespace() {
            let (key, value) = word
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or(CommandLineError::NotKeyValue(word))?;
            if words.iter().any(|&(other, _)| other == key) {
                return Err(CommandLineError::Twice(key));
            }
            words.push((key, value)).map_err(|_| CommandLineError::TooMany)?;
        }
        Ok(Self { words })
    }

    /// Takes the value of `key`, if it is given.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'a str> {
        let index = self.words.iter().position(|&(other, _)| other == key)?;
        Some(self.words.swap_remove(index).1)
    }

    /// Takes and parses the value of `key`, `default` if it is not given.
    ///
    /// # Errors
    /// [`CommandLineError::Value`], with `wanted` in words.
    pub(crate) fn take_or<T: FromStr>(
        &mut self,
        key: &'static str,
        wanted: &'static str,
        default: T,
    ) -> Result<T, CommandLineError<'a>> {
        match self.take(key) {
            Some(value) => value.parse().map_err(|_| CommandLineError::Value { key, value, wanted }),
            None => Ok(default),
        }
    }

    /// Says that all words were taken that anybody wants.
    ///
    /// # Errors
    /// [`CommandLineError::Unknown`] for one that is left.
    pub(crate) fn finish(self) -> Result<(), CommandLineError<'a>> {
        match self.words.first() {
            Some((key, _)) => Err(CommandLineError::Unknown(key)),
            None => Ok(()),
        }
    }
}
