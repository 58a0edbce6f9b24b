//! Mounts by descriptors, what is told about mounts, and namespaces by their files.

use super::*;

/// The operation `verb`, if it is one of these.
pub(super) fn lower(verb: &str, words: &mut Words) -> Result<Option<Op>, String> {
    let call = match verb {
        "fsopen" => {
            let flags = words.option("--flags")?.map(|word| flags::number(&word.lossy())).transpose()?;
            let name = words.next("a file system type")?.string()?;
            Call::new(abi::__NR_fsopen, [name, Arg::int(flags.unwrap_or(0))])
        }
        "fsconfig" => fsconfig(words)?,
        "fsmount" => {
            let attributes = words.option("-o")?.map(|word| flags::bits(&word.lossy(), ATTRIBUTES));
            let context = words.next("a context")?.value()?;
            Call::new(
                abi::__NR_fsmount,
                [context.into(), Arg::ZERO, Arg::int(attributes.transpose()?.unwrap_or(0))],
            )
        }
        "fspick" => {
            let flags = words.flags(&[
                ("--no-follow", u64::from(abi::FSPICK_SYMLINK_NOFOLLOW)),
                ("--no-automount", u64::from(abi::FSPICK_NO_AUTOMOUNT)),
            ]);
            let place = words.next("a path")?.place()?;
            let flags = flags | empty(&place, abi::FSPICK_EMPTY_PATH);
            Call::new(abi::__NR_fspick, [place.directory.into(), place.path, Arg::int(flags)])
        }
        "open_tree" => {
            let (place, flags) = tree(words)?;
            Call::new(abi::__NR_open_tree, [place.directory.into(), place.path, Arg::int(flags)])
        }
        "open_tree_attr" => {
            let attributes = attributes(words)?;
            let (place, flags) = tree(words)?;
            let args = [place.directory.into(), place.path, Arg::int(flags), attributes, Arg::int(ATTR_SIZE)];
            Call::new(abi::__NR_open_tree_attr, args)
        }
        "mount_setattr" => {
            let attributes = attributes(words)?;
            let flags = words.flags(&[
                ("-r", u64::from(abi::AT_RECURSIVE)),
                ("--no-follow", u64::from(abi::AT_SYMLINK_NOFOLLOW)),
                ("--no-automount", u64::from(abi::AT_NO_AUTOMOUNT)),
            ]);
            let place = words.next("a path")?.place()?;
            let flags = Arg::int(flags | empty(&place, abi::AT_EMPTY_PATH));
            let args = [place.directory.into(), place.path, flags, attributes, Arg::int(ATTR_SIZE)];
            Call::new(abi::__NR_mount_setattr, args)
        }
        "move_mount" => {
            let flags = words.flags(&[
                ("--beneath", u64::from(abi::MOVE_MOUNT_BENEATH)),
                ("--set-group", u64::from(abi::MOVE_MOUNT_SET_GROUP)),
                ("--follow-source", u64::from(abi::MOVE_MOUNT_F_SYMLINKS)),
                ("--follow-target", u64::from(abi::MOVE_MOUNT_T_SYMLINKS)),
            ]);
            let (from, to) = (words.next("the source")?.place()?, words.next("the target")?.place()?);
            let flags =
                flags | empty(&from, abi::MOVE_MOUNT_F_EMPTY_PATH) | empty(&to, abi::MOVE_MOUNT_T_EMPTY_PATH);
            let args = [from.directory.into(), from.path, to.directory.into(), to.path, Arg::int(flags)];
            Call::new(abi::__NR_move_mount, args)
        }
        "statmount" => statmount(words)?,
        "listmount" => listmount(words)?,
        "mnt_id" => {
            let place = words.next("a path")?.place()?;
            let mut call = super::files::statx(place);
            call.bind = Some(Bind::Number(String::new(), super::files::STATX_MNT_ID, 8));
            call.show(Show::Nothing)
        }
        "setns" => {
            let kind = match words.option("--type")? {
                Some(word) if word.plain() == Some("mnt") => u64::from(abi::CLONE_NEWNS),
                Some(word) if word.plain() == Some("user") => u64::from(abi::CLONE_NEWUSER),
                Some(word) => flags::number(&word.lossy())?,
                None => 0,
            };
            Call::new(abi::__NR_setns, [words.next("a descriptor")?.value()?.into(), Arg::int(kind)])
        }
        "pidfd_open" => Call::new(abi::__NR_pidfd_open, [words.next("a task")?.value()?.into()]),
        "ioctl" => ioctl(words)?,
        _ => return Ok(None),
    };
    Ok(Some(call.into()))
}

const ATTR_SIZE: u32 = abi::MOUNT_ATTR_SIZE_VER0;

/// The place and the flags of open_tree(2).
fn tree(words: &mut Words) -> Result<(Place, u64), String> {
    let flags = words.flags(&[
        ("--clone", u64::from(abi::OPEN_TREE_CLONE)),
        ("--recursive", u64::from(abi::AT_RECURSIVE)),
        ("--no-follow", u64::from(abi::AT_SYMLINK_NOFOLLOW)),
        ("--no-automount", u64::from(abi::AT_NO_AUTOMOUNT)),
        ("--cloexec", u64::from(abi::OPEN_TREE_CLOEXEC)),
    ]);
    let place = words.next("a path")?.place()?;
    let flags = flags | empty(&place, abi::AT_EMPTY_PATH);
    Ok((place, flags))
}

/// A `mount_attr`.
fn attributes(words: &mut Words) -> Result<Arg, String> {
    let mut bits = |name: &str, table| match words.option(name)? {
        Some(word) => flags::bits(&word.lossy(), table),
        None => Ok(0),
    };
    let (mut set, clear) = (bits("--set", ATTRIBUTES)?, bits("--clear", ATTRIBUTES)?);
    let propagation = bits("--propagation", TYPES)?;
    let user_ns = match words.option("--idmap")? {
        Some(word) => {
            set |= u64::from(abi::MOUNT_ATTR_IDMAP);
            word.value()?
        }
        None => Value::Int(0),
    };
    let fields = [Value::Int(set), Value::Int(clear), Value::Int(propagation), user_ns];
    Ok(Arg::Struct(fields.into_iter().map(|field| (8, field)).collect()))
}

fn fsconfig(words: &mut Words) -> Result<Call, String> {
    let context: Arg = words.next("a context")?.value()?.into();
    let command = words.next("a command")?.lossy();
    let call = |number: u32, key: Arg, value: Arg, aux: Arg| {
        Call::new(abi::__NR_fsconfig, [context.clone(), Arg::int(number), key, value, aux])
    };
    let none = || Arg::ZERO;
    let simple = ["create", "reconfigure", "create-excl"].iter().position(|name| **name == command);
    if let Some(at) = simple {
        return Ok(call(6 + at as u32, none(), none(), none()));
    }
    let key = words.next("a key")?.string()?;
    Ok(match command.as_str() {
        "set-flag" => call(0, key, none(), none()),
        "set-string" => call(1, key, words.next("a value")?.string()?, none()),
        "set-binary" => {
            let value = words.next("a value")?.text;
            let len = value.len() as u32;
            call(2, key, Arg::Raw(raw::Arg::Bytes(value)), Arg::int(len))
        }
        "set-path" | "set-path-empty" => {
            let place = words.next("a path")?.place()?;
            call(if command == "set-path" { 3 } else { 4 }, key, place.path, place.directory.into())
        }
        "set-fd" => call(5, key, none(), words.next("a descriptor")?.value()?.into()),
        other => return Err(format!("no such command: {other}")),
    })
}

/// Whose mounts are asked about: the descriptor and the id of another namespace.
fn namespace(words: &mut Words) -> Result<(Value, Value), String> {
    let mut value = |name| words.option(name)?.map_or(Ok(Value::Int(0)), |word| word.value());
    Ok((value("--ns-fd")?, value("--ns-id")?))
}

/// A mount: by its path, or by a number.
fn mount(words: &mut Words) -> Result<Value, String> {
    let word = words.next("a mount")?;
    match word.plain() {
        Some(text)
            if text.starts_with(['%', '-']) || text.starts_with(|digit: char| digit.is_ascii_digit()) =>
        {
            word.value()
        }
        _ => Ok(Value::MountAt(Box::new(word.place()?))),
    }
}

/// A `mnt_id_req`.
pub(crate) fn request(ns_fd: &Value, ns_id: &Value, mount: Value, param: Value) -> Arg {
    let size = Value::Int(u64::from(abi::MNT_ID_REQ_SIZE_VER1));
    Arg::Struct(vec![(4, size), (4, ns_fd.clone()), (8, mount), (8, param), (8, ns_id.clone())])
}

/// All but what programs cannot know: the id of the namespace, and options that depend on the machine.
const KNOWN: &str = "sb-basic,basic,from,root,point,type,source";

/// Bytes for the answer of statmount(2).
pub(crate) const STATMOUNT_SIZE: usize = 4096;

fn statmount(words: &mut Words) -> Result<Call, String> {
    let (ns_fd, ns_id) = namespace(words)?;
    let mask = words.option("--mask")?.map_or(KNOWN.to_owned(), |word| word.lossy());
    let mask = flags::bits(&mask, STATMOUNT)?;
    let size = words.option("--size")?.map(|word| flags::number(&word.lossy())).transpose()?;
    let size = size.map_or(STATMOUNT_SIZE, |size| size as usize);
    let request = request(&ns_fd, &ns_id, mount(words)?, Value::Int(mask));
    let args = [request, out(size.min(PLACE)), Arg::int(size as u64), Arg::ZERO];
    Ok(Call::new(abi::__NR_statmount, args).show(Show::StatMount))
}

fn listmount(words: &mut Words) -> Result<Call, String> {
    const MOST: u32 = 1024;
    let (ns_fd, ns_id) = namespace(words)?;
    let flags = words.flags(&[("--reverse", u64::from(abi::LISTMOUNT_REVERSE))]);
    let after = words.option("--after")?.map_or(Ok(Value::Int(0)), |word| match word.plain() {
        Some(text)
            if text.starts_with(['%', '-']) || text.starts_with(|digit: char| digit.is_ascii_digit()) =>
        {
            word.value()
        }
        _ => Ok(Value::MountAt(Box::new(word.place()?))),
    })?;
    let most = words.option("--max")?.map(|word| flags::number(&word.lossy())).transpose()?;
    let most = most.unwrap_or(u64::from(MOST));
    let mount = if words.0.is_empty() { Value::Int(u64::MAX) } else { mount(words)? };
    let request = request(&ns_fd, &ns_id, mount, after);
    let args = [request, out((most as usize * 8).min(PLACE)), Arg::int(most), Arg::int(flags)];
    Ok(Call::new(abi::__NR_listmount, args).show(Show::Mounts(ns_fd, ns_id)))
}

/// The ioctls of files of namespaces: name, number, bytes of what the third argument points to, what the answer reads.
const IOCTLS: [(&str, u32, usize, Show); 8] = [
    ("NS_GET_USERNS", 0xb701, 0, Show::Nothing),
    ("NS_GET_PARENT", 0xb702, 0, Show::Nothing),
    ("NS_GET_NSTYPE", 0xb703, 0, Show::Bits),
    ("NS_GET_OWNER_UID", 0xb704, 4, Show::Nothing),
    ("NS_GET_MNTNS_ID", 0x8008_b705, 8, Show::Nothing),
    ("NS_MNT_GET_INFO", 0x8010_b70a, 16, Show::NsInfo),
    ("NS_MNT_GET_NEXT", 0x8010_b70b, 16, Show::Nothing),
    ("NS_MNT_GET_PREV", 0x8010_b70c, 16, Show::Nothing),
];

fn ioctl(words: &mut Words) -> Result<Call, String> {
    let file: Arg = words.next("a descriptor")?.value()?.into();
    let name = words.next("an ioctl")?.lossy();
    let known = IOCTLS.iter().find(|(known, ..)| *known == name);
    let (_, number, size, show) = known.ok_or_else(|| format!("no such ioctl: {name}"))?.clone();
    let pointer = match words.0.pop_front() {
        Some(word) => word.value().map_or_else(|_| word.string(), |value| Ok(value.into()))?,
        None if size == 0 => Arg::ZERO,
        None => out(size),
    };
    let mut call = Call::new(abi::__NR_ioctl, [file, Arg::int(number), pointer]).show(show);
    if name == "NS_GET_MNTNS_ID" {
        call.bind = Some(Bind::Number(String::new(), 0, 8));
    }
    Ok(call)
}
