//! What the runner and the kernel say to each other.
//!
//! The runner speaks once, before the boot: the job on the kernel's [`command_line`] and the forest as its image. The
//! kernel speaks in lines on the serial console. A line that begins with `@` is a [`Message`]; any other is for
//! people.
//!
//! ```text
//! @progress {json}             once a second
//! @mountinfo NAMESPACE LINE    the kernel's own mountinfo, one line of it
//! @result {json}               the last message
//! ```

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use syscalls::mountinfo::MountInfo;

/// The kernel's command line for the main job.
pub fn command_line(seconds: u32, seed: u64) -> String {
    format!("job=stress seconds={seconds} seed={seed}")
}

/// The kernel's command line for a boot that only tries the machine, for a second or so.
pub const SMOKE_COMMAND_LINE: &str = "job=smoke seconds=1";

/// How far the job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Time since the stress began, in milliseconds.
    pub elapsed_ms: u64,
    /// Path lookups so far, all CPUs.
    pub lookups: u64,
    /// Operations of the writers so far, all CPUs.
    pub operations: u64,
    /// Mounts that exist now.
    pub mounts: u64,
    /// Bytes retired and not yet freed.
    pub deferred_bytes: u64,
    /// Violations so far.
    pub violations: u64,
}

/// What the job counted, in the names of the final object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the documentation; the runner prints them as they are")]
pub struct Outcome {
    pub lookups: u64,
    pub lookups_per_second: u64,
    pub walk_retries: u64,
    pub locked_walks: u64,
    pub mounts: u64,
    pub umounts: u64,
    pub binds: u64,
    pub moves: u64,
    pub pivots: u64,
    pub propagated_mounts: u64,
    pub namespace_clones: u64,
    pub checks: u64,
    pub violations: u64,
    pub peak_deferred_bytes: u64,
    pub leaked_mounts: u64,
    pub leaked_dentries: u64,
    pub leaked_bytes: u64,
    /// Further counters, printed behind these.
    #[serde(flatten)]
    pub more: BTreeMap<String, u64>,
}

impl Outcome {
    /// Whether nothing was violated and nothing is left.
    pub fn is_clean(&self) -> bool {
        [self.violations, self.leaked_mounts, self.leaked_dentries, self.leaked_bytes] == [0; 4]
    }
}

/// One line of the kernel for the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `@progress`
    Progress(Progress),
    /// `@mountinfo`
    Mountinfo {
        /// Name of the namespace in the forest.
        namespace: String,
        /// The line as mountinfo has it.
        line: Vec<u8>,
    },
    /// `@result`
    Result(Outcome),
}

impl Message {
    /// A `@mountinfo` message.
    pub fn mountinfo(namespace: &str, mount: &MountInfo) -> Self {
        Self::Mountinfo { namespace: namespace.to_string(), line: mount.to_line() }
    }

    /// The whole line, newline included. Write it in one go: CPUs share the console.
    pub fn to_line(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Progress(progress) => write_json(&mut out, "@progress ", progress),
            Self::Mountinfo { namespace, line } => {
                out.extend_from_slice(b"@mountinfo ");
                out.extend_from_slice(namespace.as_bytes());
                out.push(b' ');
                out.extend_from_slice(line);
            }
            Self::Result(outcome) => write_json(&mut out, "@result ", outcome),
        }
        out.push(b'\n');
        out
    }

    /// Reads a line without its newline: `None` if it is for people.
    ///
    /// # Errors
    /// What is wrong with a line that begins with `@`.
    pub fn parse(line: &[u8]) -> Option<Result<Self, String>> {
        let rest = line.strip_prefix(b"@")?;
        let space = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, rest) = (&rest[..space], rest.get(space + 1..).unwrap_or_default());
        Some(match word {
            b"progress" => {
                serde_json::from_slice(rest).map(Self::Progress).map_err(|error| error.to_string())
            }
            b"result" => serde_json::from_slice(rest).map(Self::Result).map_err(|error| error.to_string()),
            b"mountinfo" => match rest.iter().position(|&byte| byte == b' ') {
                Some(space) => {
                    let namespace = String::from_utf8_lossy(&rest[..space]).into_owned();
                    Ok(Self::Mountinfo { namespace, line: rest[space + 1..].to_vec() })
                }
                None => Err("no line after the namespace".to_string()),
            },
            _ => Err("unknown message".to_string()),
        })
    }
}

fn write_json(out: &mut Vec<u8>, word: &str, value: &impl Serialize) {
    out.extend_from_slice(word.as_bytes());
    // Plain structs of numbers with string keys: nothing in them can fail to serialise.
    out.extend(serde_json::to_vec(value).expect("counters are JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let mut outcome = Outcome { lookups: 7, leaked_bytes: u64::MAX, ..Outcome::default() };
        outcome.more.insert("lazy_umounts".to_string(), 3);
        let mount = MountInfo::parse(b"1 0 0:1 / /a\\040b rw - tmpfs  rw").unwrap();
        for message in [
            Message::Progress(Progress { elapsed_ms: 1000, operations: 5, ..Progress::default() }),
            Message::mountinfo("host", &mount),
            Message::Result(outcome),
        ] {
            let line = message.to_line();
            let line = line.strip_suffix(b"\n").unwrap();
            assert_eq!(Message::parse(line), Some(Ok(message)));
        }
    }

    #[test]
    fn lines_for_people_are_no_messages() {
        assert_eq!(Message::parse(b"4 CPUs"), None);
        assert_eq!(Message::parse(b""), None);
    }

    #[test]
    fn broken_messages_are_errors() {
        for line in ["@", "@resul {}", "@result", "@result {}", "@result {\"lookups\":-1}", "@mountinfo host"]
        {
            assert!(matches!(Message::parse(line.as_bytes()), Some(Err(_))), "{line}");
        }
    }

    #[test]
    fn a_result_without_one_counter_is_an_error() {
        let line = Message::Result(Outcome::default()).to_line();
        let text = String::from_utf8(line).unwrap().replace("\"leaked_bytes\":0", "\"leaked\":0");
        assert!(matches!(Message::parse(text.as_bytes()), Some(Err(_))));
    }
}
