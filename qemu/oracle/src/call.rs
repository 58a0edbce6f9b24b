//! One operation of one task, and how it is written down: as one would type it at a prompt.
//!
//! ```text
//! t0$ mount -t tmpfs none /a
//! t0$ mount --make-rshared /a
//! t1$ umount -l /a
//! ```

use std::fmt;

use linux_raw_sys::general as abi;

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A fresh tmpfs with the fixed directories ([`crate::DIRECTORIES`]).
    Mount {
        /// Where.
        target: String,
    },
    /// `mount --bind`, `mount --rbind`.
    Bind {
        /// What.
        source: String,
        /// Where.
        target: String,
        /// With all below it.
        recursive: bool,
    },
    /// `mount --move`.
    Move {
        /// What.
        source: String,
        /// Where to.
        target: String,
    },
    /// `mount --make-shared` and its like.
    Make {
        /// Which mount.
        target: String,
        /// Its new type.
        to: Type,
        /// And all below it.
        recursive: bool,
    },
    /// `mount -o remount,bind,...`
    Remount {
        /// Which mount.
        target: String,
        /// `MS_*` flags beside REMOUNT and BIND.
        flags: u32,
    },
    /// `umount`
    Umount {
        /// Which mount.
        target: String,
        /// `umount -l`
        lazy: bool,
    },
    /// `pivot_root`
    PivotRoot {
        /// The new root.
        new_root: String,
        /// Where the old one goes.
        put_old: String,
    },
    /// `cd`
    Cd {
        /// The new working directory.
        path: String,
    },
    /// `chroot`
    Chroot {
        /// The new root.
        path: String,
    },
    /// A mount namespace of its own: a copy of the one it is in.
    Unshare,
    /// Another task in the same place.
    Fork {
        /// Its number.
        child: usize,
    },
    /// The task ends.
    Exit,
}

/// A propagation type, as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the documentation
pub enum Type {
    Shared,
    Slave,
    Private,
    Unbindable,
}

impl Type {
    /// All of them.
    pub const ALL: [Type; 4] = [Type::Shared, Type::Slave, Type::Private, Type::Unbindable];

    fn word(self) -> &'static str {
        match self {
            Type::Shared => "shared",
            Type::Slave => "slave",
            Type::Private => "private",
            Type::Unbindable => "unbindable",
        }
    }

    /// The flag of mount(2).
    pub fn flag(self) -> u32 {
        match self {
            Type::Shared => abi::MS_SHARED,
            Type::Slave => abi::MS_SLAVE,
            Type::Private => abi::MS_PRIVATE,
            Type::Unbindable => abi::MS_UNBINDABLE,
        }
    }
}

/// Options of a remount, with their flags.
pub const OPTIONS: [(&str, u32); 9] = [
    ("ro", abi::MS_RDONLY),
    ("nosuid", abi::MS_NOSUID),
    ("nodev", abi::MS_NODEV),
    ("noexec", abi::MS_NOEXEC),
    ("noatime", abi::MS_NOATIME),
    ("nodiratime", abi::MS_NODIRATIME),
    ("relatime", abi::MS_RELATIME),
    ("strictatime", abi::MS_STRICTATIME),
    ("nosymfollow", abi::MS_NOSYMFOLLOW),
];

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Mount { target } => write!(f, "mount -t tmpfs none {target}"),
            Call::Bind { source, target, recursive } => {
                let word = if *recursive { "rbind" } else { "bind" };
                write!(f, "mount --{word} {source} {target}")
            }
            Call::Move { source, target } => write!(f, "mount --move {source} {target}"),
            Call::Make { target, to, recursive } => {
                let all = if *recursive { "r" } else { "" };
                write!(f, "mount --make-{all}{} {target}", to.word())
            }
            Call::Remount { target, flags } => {
                f.write_str("mount -o remount,bind")?;
                let given = OPTIONS.iter().filter(|(_, flag)| flags & flag != 0);
                given.into_iter().try_for_each(|(word, _)| write!(f, ",{word}"))?;
                write!(f, " {target}")
            }
            Call::Umount { target, lazy: false } => write!(f, "umount {target}"),
            Call::Umount { target, lazy: true } => write!(f, "umount -l {target}"),
            Call::PivotRoot { new_root, put_old } => write!(f, "pivot_root {new_root} {put_old}"),
            Call::Cd { path } => write!(f, "cd {path}"),
            Call::Chroot { path } => write!(f, "chroot {path}"),
            Call::Unshare => f.write_str("unshare --mount"),
            Call::Fork { child } => write!(f, "fork t{child}"),
            Call::Exit => f.write_str("exit"),
        }
    }
}

impl std::str::FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let own = |word: &str| word.to_owned();
        Ok(match words[..] {
            ["mount", "-t", "tmpfs", "none", target] => Call::Mount { target: own(target) },
            ["mount", "-o", options, target] => {
                let flags = options.strip_prefix("remount,bind").ok_or("only remount,bind is known here")?;
                let mut bits = 0;
                for word in flags.split(',').filter(|word| !word.is_empty()) {
                    let known = OPTIONS.iter().find(|(name, _)| *name == word);
                    bits |= known.ok_or_else(|| format!("no such option: {word}"))?.1;
                }
                Call::Remount { target: own(target), flags: bits }
            }
            ["mount", "--bind", source, target] => {
                Call::Bind { source: own(source), target: own(target), recursive: false }
            }
            ["mount", "--rbind", source, target] => {
                Call::Bind { source: own(source), target: own(target), recursive: true }
            }
            ["mount", "--move", source, target] => Call::Move { source: own(source), target: own(target) },
            ["mount", word, target] => {
                let word = word.strip_prefix("--make-").ok_or_else(|| format!("no such word: {word}"))?;
                let plain = word.strip_prefix('r');
                let to = Type::ALL.into_iter().find(|to| to.word() == plain.unwrap_or(word));
                let to = to.ok_or_else(|| format!("no such type: {word}"))?;
                Call::Make { target: own(target), to, recursive: plain.is_some() }
            }
            ["umount", target] => Call::Umount { target: own(target), lazy: false },
            ["umount", "-l", target] => Call::Umount { target: own(target), lazy: true },
            ["pivot_root", new_root, put_old] => {
                Call::PivotRoot { new_root: own(new_root), put_old: own(put_old) }
            }
            ["cd", path] => Call::Cd { path: own(path) },
            ["chroot", path] => Call::Chroot { path: own(path) },
            ["unshare", "--mount"] => Call::Unshare,
            ["fork", child] => Call::Fork { child: task(child)? },
            ["exit"] => Call::Exit,
            _ => return Err(format!("no such operation: {text}")),
        })
    }
}

/// `t3` is task 3.
pub(crate) fn task(word: &str) -> Result<usize, String> {
    let number = word.strip_prefix('t').and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("`{word}` is no task"))
}

/// An operation and who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The task.
    pub task: usize,
    /// The operation.
    pub call: Call,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}$ {}", self.task, self.call)
    }
}
