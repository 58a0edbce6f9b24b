//! What each verb lowers to.

use std::collections::VecDeque;

use linux_raw_sys::general as abi;

use super::flags::{self, ATTRIBUTES, MOUNT, RESOLVE, STATMOUNT, TYPES};
use super::words::{Word, Words};
use super::{Arg, Bind, Call, Column, Op, Place, Show, Then, Value, task};
use crate::DIRECTORIES;
use crate::raw::{self, PLACE};

mod files;
mod raw_call;
mod trees;

pub(crate) use files::{STATFS_FLAGS, STATX_ATTRIBUTES, STATX_MNT_ID, STATX_MODE, statx};
pub(crate) use trees::{STATMOUNT_SIZE, request};

/// The mode of every directory that programs make, and of every file.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

impl Call {
    /// The call `nr`.
    fn new(nr: u32, args: impl IntoIterator<Item = Arg>) -> Self {
        let mut all = [const { Arg::ZERO }; 6];
        for (place, arg) in all.iter_mut().zip(args) {
            *place = arg;
        }
        Call { nr, args: all, bind: None, show: Show::Nothing, then: Then::Nothing }
    }

    fn show(self, show: Show) -> Self {
        Call { show, ..self }
    }

    fn then(self, then: Then) -> Self {
        Call { then, ..self }
    }
}

impl From<Value> for Arg {
    fn from(value: Value) -> Self {
        Arg::Value(value)
    }
}

impl From<Call> for Op {
    fn from(call: Call) -> Self {
        Op::Call(Box::new(call))
    }
}

/// An output of so many bytes.
fn out(len: usize) -> Arg {
    Arg::Raw(raw::Arg::Out(len as u32))
}

/// `AT_EMPTY_PATH`, or what the call has instead, for a path that is empty.
fn empty(place: &Place, flag: u32) -> u64 {
    if place.is_empty { u64::from(flag) } else { 0 }
}

/// A name for the result in front of a verb.
enum Name {
    Fd(String),
    Number(String),
}

/// Lowers a line.
pub(super) fn lower(mut line: VecDeque<Word>) -> Result<Op, String> {
    let mut wanted = None;
    if line.get(1).is_some_and(|word| word.plain() == Some("=")) {
        let name = line.pop_front().expect("there is a second one").value()?;
        line.pop_front();
        wanted = Some(match name {
            Value::Fd(name) => Name::Fd(name),
            Value::Number(name) => Name::Number(name),
            _ => return Err("only `@fd` and `%number` can be set".into()),
        });
    }
    let verb = line.pop_front().ok_or("no operation")?;
    let mut words = Words(line);
    let mut op = match verb.plain().unwrap_or_default() {
        "mount" => mount(&mut words)?,
        "umount" => {
            let names = [
                ("-l", u64::from(abi::MNT_DETACH)),
                ("-f", u64::from(abi::MNT_FORCE)),
                ("--expire", u64::from(abi::MNT_EXPIRE)),
                ("--no-follow", u64::from(abi::UMOUNT_NOFOLLOW)),
            ];
            let flags = words.flags(&names);
            Call::new(abi::__NR_umount2, [words.next("a path")?.string()?, Arg::int(flags)]).into()
        }
        "pivot_root" => {
            let (new, old) = (words.next("the new root")?.string()?, words.next("a place")?.string()?);
            Call::new(abi::__NR_pivot_root, [new, old]).into()
        }
        "cd" => Call::new(abi::__NR_chdir, [words.next("a path")?.string()?]).into(),
        "chroot" => Call::new(abi::__NR_chroot, [words.next("a path")?.string()?]).into(),
        "unshare" => {
            let (flags, map_root) = namespaces(&mut words)?;
            let then = if map_root { Then::MapRoot } else { Then::Nothing };
            Call::new(abi::__NR_unshare, [Arg::int(flags)]).then(then).into()
        }
        "fork" => {
            let (flags, map_root) = namespaces(&mut words)?;
            let child = words.next("a task")?;
            Op::Clone { child: task(&child.lossy())?, flags, map_root }
        }
        "exit" => Op::Exit,
        "capset" => {
            let dropped = words.option("--drop")?.ok_or("--drop is missing")?;
            Op::DropCapabilities(flags::bits(&dropped.lossy(), flags::CAPABILITIES)?)
        }
        "raw" => raw_call::lower(&mut words)?.into(),
        other => match trees::lower(other, &mut words)? {
            Some(op) => op,
            None => files::lower(other, &mut words)?.ok_or_else(|| format!("no such operation: {other}"))?,
        },
    };
    words.end()?;
    bind(&mut op, wanted)?;
    Ok(op)
}

/// Gives the result of `op` its name.
fn bind(op: &mut Op, wanted: Option<Name>) -> Result<(), String> {
    match (op, wanted) {
        (Op::Call(call), Some(Name::Fd(name))) => {
            (call.bind, call.show) = (Some(Bind::Fd(name)), Show::Nothing);
        }
        (Op::Call(call), Some(Name::Number(name))) => match &mut call.bind {
            Some(Bind::Number(place, ..)) => *place = name,
            _ => return Err("there is no number in its answer".into()),
        },
        (_, Some(_)) => return Err("it returns nothing".into()),
        (Op::Call(call), None) => {
            if let Some(Bind::Number(..)) = call.bind {
                call.bind = None;
            }
        }
        (_, None) => {}
    }
    Ok(())
}

/// The flags of unshare(2) and clone(2), and whether the maps of a user namespace are to be written.
fn namespaces(words: &mut Words) -> Result<(u64, bool), String> {
    let names = [
        ("--mount", u64::from(abi::CLONE_NEWNS)),
        ("--user", u64::from(abi::CLONE_NEWUSER)),
        ("--fs", u64::from(abi::CLONE_FS)),
        ("--files", u64::from(abi::CLONE_FILES)),
    ];
    let flags = words.flags(&names);
    let more = words.option("--flags")?.map(|word| flags::number(&word.lossy())).transpose()?;
    Ok((flags | more.unwrap_or(0), words.flag("--map-root-user")))
}

/// The directories of a new file system at `place`.
fn populate(place: &Place) -> Vec<Call> {
    let Arg::Text(pieces) = &place.path else { return Vec::new() };
    let make = |path: &&str| {
        let mut pieces = pieces.clone();
        let below = if place.is_empty { (*path).to_owned() } else { format!("/{path}") };
        pieces.push(super::Piece::Text(below.into_bytes()));
        let args = [place.directory.clone().into(), Arg::Text(pieces), Arg::int(DIRECTORY_MODE)];
        Call::new(abi::__NR_mkdirat, args)
    };
    DIRECTORIES.iter().map(make).collect()
}

/// mount(8): its words decide which of the forms of mount(2) it is.
fn mount(words: &mut Words) -> Result<Op, String> {
    let mut bits = 0;
    let mut data = Vec::new();
    if let Some(options) = words.option("-o")? {
        for option in options.text.split(|byte| *byte == b',') {
            let known = MOUNT.iter().find(|(name, _)| name.as_bytes() == option);
            match known {
                Some((_, bit)) => bits |= bit,
                None if option.is_empty() => {}
                None => data.push(option.to_vec()),
            }
        }
    }
    let data = data.join(&b","[..]);
    let data = if data.is_empty() { Arg::ZERO } else { Arg::text(data) };
    let call = |source, target, fs_type, flags: u64| {
        Call::new(abi::__NR_mount, [source, target, fs_type, Arg::int(flags), data.clone()])
    };
    if let Some(fs_type) = words.option("-t")? {
        let source = words.next("the source")?.string()?;
        let target = words.next("the target")?;
        let then = match fs_type.plain() {
            Some("tmpfs") => Then::Calls(populate(&target.place()?)),
            _ => Then::Nothing,
        };
        return Ok(call(source, target.string()?, fs_type.string()?, bits).then(then).into());
    }
    let copy = [
        ("--bind", u64::from(abi::MS_BIND)),
        ("--rbind", u64::from(abi::MS_BIND | abi::MS_REC)),
        ("--move", u64::from(abi::MS_MOVE)),
    ];
    let found = words.flags(&copy);
    if found != 0 {
        let (source, target) = (words.next("the source")?.string()?, words.next("the target")?.string()?);
        return Ok(call(source, target, Arg::ZERO, bits | found).into());
    }
    let types = || TYPES.iter().flat_map(|(name, bit)| [("", *name, *bit), ("r", *name, bit | MS_REC)]);
    for (recursive, name, bit) in types() {
        if words.flag(&format!("--make-{recursive}{name}")) {
            bits |= bit;
        }
    }
    if bits == 0 {
        return Err("which form of mount?".into());
    }
    Ok(call(Arg::text("none"), words.next("the target")?.string()?, Arg::ZERO, bits).into())
}

const MS_REC: u64 = abi::MS_REC as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Step;

    fn lowered(text: &str) -> Call {
        match Step::new(0, text).unwrap().op {
            Op::Call(call) => *call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn verbs_lower_to_the_arguments_of_their_calls() {
        let at_root = Arg::Value(Value::Int(-100_i64 as u64));
        let call = lowered("mount -o remount,bind,ro,size=1m /a");
        assert_eq!(call.nr, abi::__NR_mount);
        assert_eq!(
            call.args[..5],
            [Arg::text("none"), Arg::text("/a"), Arg::ZERO, Arg::int(0x1021_u32), Arg::text("size=1m")]
        );
        let call = lowered("@t = open_tree --clone --recursive /a");
        assert_eq!((call.nr, call.bind), (abi::__NR_open_tree, Some(Bind::Fd("t".into()))));
        assert_eq!(call.args[..3], [at_root.clone(), Arg::text("/a"), Arg::int(0x8001_u32)]);
        let call = lowered("move_mount --beneath @t: /b");
        assert_eq!(
            call.args[..5],
            [Arg::Value(Value::Fd("t".into())), Arg::text(""), at_root, Arg::text("/b"), Arg::int(0x204_u32)]
        );
        let number = |number| Arg::Value(Value::Int(number));
        let call = lowered("raw mount NULL \"/a\" BAD MS_SHARED|0x20 -1");
        assert_eq!(
            call.args[..5],
            [Arg::ZERO, Arg::text("/a"), Arg::int(raw::BAD), number(0x10_0020), number(u64::MAX)]
        );
    }

    #[test]
    fn a_tmpfs_is_populated_below_its_path() {
        let Then::Calls(calls) = lowered("mount -t tmpfs none /a").then else { panic!("nothing follows") };
        assert_eq!(calls.len(), DIRECTORIES.len());
        assert_eq!(calls[0].nr, abi::__NR_mkdirat);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "mount /a",
            "mount --make-rotten /a",
            "mount -o ro",
            "fork 3",
            "umount",
            "umount /a /b",
            "umount --loudly /a",
            "@t = ",
            "t = fsopen tmpfs",
            "%n = cd /a",
            "raw reboot 0",
            "mount -t tmpfs none \"/a",
        ] {
            assert!(Step::new(0, text).is_err(), "{text}");
        }
    }
}
