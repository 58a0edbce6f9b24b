//! `raw`: any call with any arguments.

use super::*;

/// The calls that programs can make.
macro_rules! calls {
    ($($name:ident $number:ident)*) => { &[$((stringify!($name), abi::$number)),*] };
}

const CALLS: &[(&str, u32)] = calls![
    mount __NR_mount umount2 __NR_umount2 pivot_root __NR_pivot_root chroot __NR_chroot chdir __NR_chdir
    fchdir __NR_fchdir unshare __NR_unshare setns __NR_setns fsopen __NR_fsopen fsconfig __NR_fsconfig
    fsmount __NR_fsmount fspick __NR_fspick open_tree __NR_open_tree open_tree_attr __NR_open_tree_attr
    move_mount __NR_move_mount mount_setattr __NR_mount_setattr statmount __NR_statmount listmount __NR_listmount
    openat __NR_openat openat2 __NR_openat2 mkdirat __NR_mkdirat unlinkat __NR_unlinkat statx __NR_statx
    getcwd __NR_getcwd poll __NR_poll ioctl __NR_ioctl read __NR_read
];

/// The name of a call, then its arguments.
pub(super) fn lower(words: &mut Words) -> Result<Call, String> {
    let name = words.0.pop_front().ok_or("a call is missing")?.lossy();
    let (_, nr) =
        CALLS.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("no such call: {name}"))?;
    let args = words.0.drain(..).map(|word| argument(&word)).collect::<Result<Vec<_>, _>>()?;
    if args.len() > 6 {
        return Err("a call has six arguments at most".into());
    }
    Ok(Call::new(*nr, args).show(Show::Number))
}

/// An argument: a quoted string, `edge"..."` at the end of what can be read, `out:N`, `<size:value ...>`, `NULL`, `BAD`,
/// or a number.
fn argument(word: &Word) -> Result<Arg, String> {
    match word.quoted {
        Some(0) => return word.string(),
        Some(_) => {
            let bytes = word.text.strip_prefix(b"edge").ok_or("only `edge` stands before a quote here")?;
            return Ok(Arg::Raw(raw::Arg::Edge(bytes.to_vec())));
        }
        None => {}
    }
    let text = word.lossy();
    if let Some(len) = text.strip_prefix("out:") {
        return Ok(out((flags::number(len)? as usize).min(PLACE)));
    }
    if let Some(len) = text.strip_prefix("long:") {
        // A string of so many letters.
        return Ok(Arg::text(vec![b'a'; (flags::number(len)? as usize).min(PLACE - 1)]));
    }
    if let Some(fields) = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
        let fields = fields.split_whitespace().map(|field| {
            let (size, value) = field.split_once(':').ok_or("a field is `size:value`")?;
            let size = size.parse().ok().filter(|size| (1..=8).contains(size)).ok_or("no size of a field")?;
            let value = Word { text: value.into(), quoted: None };
            Ok::<_, String>((size, value.value()?))
        });
        return Ok(Arg::Struct(fields.collect::<Result<_, _>>()?));
    }
    match word.plain() {
        Some("NULL" | "BAD") => word.string(),
        _ => word.value().map(Arg::from),
    }
}
