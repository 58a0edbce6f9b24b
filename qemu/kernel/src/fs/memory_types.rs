//! tmpfs and ramfs: the types, and their parameters.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::{UserNs, memory};
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};
use tmpfs::{PAGE_SIZE, TmpDentry, What};

use super::permission;
use super::types::{self, Instance, Make};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// A type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Tmpfs,
    Ramfs,
    /// What the initramfs is unpacked into: a tmpfs that only the kernel makes.
    Rootfs,
}

/// The most pages of a tmpfs for which nobody said how many: half of the memory.
fn default_pages() -> u64 {
    ((crate::mm::total_bytes() / PAGE_SIZE / 2) as u64).max(1)
}

impl FileSystemType<TmpDentry> for Type {
    fn name(&self) -> &[u8] {
        match self {
            Type::Tmpfs => b"tmpfs",
            Type::Ramfs => b"ramfs",
            Type::Rootfs => b"rootfs",
        }
    }

    fn flags(&self) -> TypeFlags {
        match self {
            Type::Tmpfs => TypeFlags::USER_NS | TypeFlags::ID_MAPS,
            Type::Ramfs => TypeFlags::USER_NS,
            Type::Rootfs => TypeFlags::INTERNAL,
        }
    }

    fn owner(&self, credentials: &Credentials) -> UserNs {
        credentials.user_ns.clone()
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        let who = permission::current();
        let config = Config {
            of: *self,
            caller: who.user_ns.clone(),
            creator: (who.fsuid, who.fsgid),
            parameters: Parameters::default(),
        };
        Ok(memory::boxed(config).map_err(|_| Errno::ENOMEM)?)
    }
}

/// What was asked for.
#[derive(Clone, Copy, Default)]
struct Parameters {
    /// Pages; 0: no limit.
    pages: Option<u64>,
    inodes: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    no_swap: bool,
    huge: Option<&'static str>,
    inode_bits: Option<u32>,
}

struct Config {
    of: Type,
    caller: UserNs,
    creator: (u32, u32),
    parameters: Parameters,
}

/// A number with the suffixes of sizes (`k`, `m`, `g`, `t`, `p`, `e`), in decimal, octal or hexadecimal; and what follows.
fn size(text: &[u8]) -> Option<(u64, &[u8])> {
    let (radix, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest),
        _ => (10, text),
    };
    let end = digits.iter().position(|byte| !(*byte as char).is_digit(radix)).unwrap_or(digits.len());
    if end == 0 && radix != 8 {
        return None;
    }
    let mut value = 0u64;
    for digit in &digits[..end] {
        let digit = (*digit as char).to_digit(radix)?;
        value = value.checked_mul(radix.into())?.checked_add(digit.into())?;
    }
    let rest = &digits[end..];
    let shift = match rest.first().map(u8::to_ascii_lowercase) {
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        Some(b'p') => 50,
        Some(b'e') => 60,
        _ => return Some((value, rest)),
    };
    Some((value.checked_shl(shift).filter(|shifted| shifted >> shift == value)?, &rest[1..]))
}

fn number(text: &[u8], radix: u32) -> Option<u32> {
    let text = core::str::from_utf8(text).ok()?;
    match (radix, text.strip_prefix("0x")) {
        (10, Some(hex)) => u32::from_str_radix(hex, 16).ok(),
        (10, None) if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        _ => u32::from_str_radix(text, radix).ok(),
    }
}

impl Config {
    fn id(&self, kind: Kind, text: &[u8]) -> Option<u32> {
        kind.absolute(&self.caller, number(text, 10)?)
    }

    fn tmpfs_parameter(&mut self, key: &[u8], text: &[u8]) -> Option<()> {
        let wanted = &mut self.parameters;
        match key {
            b"size" => {
                let (bytes, rest) = size(text)?;
                let pages = match rest {
                    b"%" => (bytes.checked_mul(2 * default_pages())? / 100).max(u64::from(bytes != 0)),
                    b"" => bytes.div_ceil(PAGE_SIZE as u64),
                    _ => return None,
                };
                wanted.pages = Some(pages);
            }
            b"nr_blocks" => wanted.pages = Some(size(text).filter(|(_, rest)| rest.is_empty())?.0),
            b"nr_inodes" => wanted.inodes = Some(size(text).filter(|(_, rest)| rest.is_empty())?.0),
            b"mode" => wanted.mode = Some(number(text, 8)? & 0o7777),
            b"uid" => self.parameters.uid = Some(self.id(Kind::Users, text)?),
            b"gid" => self.parameters.gid = Some(self.id(Kind::Groups, text)?),
            b"huge" => {
                const WORDS: [&str; 4] = ["never", "always", "within_size", "advise"];
                wanted.huge = Some(WORDS.into_iter().find(|word| word.as_bytes() == text)?);
            }
            _ => return None,
        }
        Some(())
    }

    /// How an instance's parameters are shown.
    fn show(&self) -> Vec<u8> {
        let wanted = &self.parameters;
        let mut text = Vec::new();
        let usual_mode = if self.of == Type::Tmpfs { 0o1777 } else { 0o755 };
        if let Some(pages) = wanted.pages.filter(|pages| *pages != default_pages()) {
            text.extend_from_slice(format!(",size={}k", pages * (PAGE_SIZE as u64 >> 10)).as_bytes());
        }
        if let Some(inodes) = wanted.inodes.filter(|inodes| *inodes != default_pages()) {
            text.extend_from_slice(format!(",nr_inodes={inodes}").as_bytes());
        }
        if let Some(mode) = wanted.mode.filter(|mode| *mode != usual_mode) {
            text.extend_from_slice(format!(",mode={mode:03o}").as_bytes());
        }
        if let Some(uid) = wanted.uid.filter(|uid| *uid != 0) {
            text.extend_from_slice(format!(",uid={uid}").as_bytes());
        }
        if let Some(gid) = wanted.gid.filter(|gid| *gid != 0) {
            text.extend_from_slice(format!(",gid={gid}").as_bytes());
        }
        if let Some(bits) = wanted.inode_bits {
            text.extend_from_slice(format!(",inode{bits}").as_bytes());
        }
        if let Some(huge) = wanted.huge.filter(|huge| *huge != "never") {
            text.extend_from_slice(format!(",huge={huge}").as_bytes());
        }
        if wanted.no_swap {
            text.extend_from_slice(b",noswap");
        }
        text
    }
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        match (self.of, key) {
            (
                Type::Tmpfs | Type::Rootfs,
                b"size" | b"nr_blocks" | b"nr_inodes" | b"mode" | b"uid" | b"gid" | b"huge",
            ) => {}
            (Type::Tmpfs | Type::Rootfs, b"inode32" | b"inode64" | b"noswap") => {
                if !matches!(value, Value::Flag) {
                    return Err(Errno::EINVAL);
                }
                match key {
                    b"inode32" => self.parameters.inode_bits = Some(32),
                    b"inode64" => self.parameters.inode_bits = Some(64),
                    _ => self.parameters.no_swap = true,
                }
                return Ok(Parameter::Taken);
            }
            (Type::Ramfs, b"mode") => {}
            // What it does not know it ignores, as it always did.
            (Type::Ramfs, b"source") => return Ok(Parameter::Unknown),
            (Type::Ramfs, _) => return Ok(Parameter::Taken),
            _ => return Ok(Parameter::Unknown),
        }
        match value {
            Value::String(text) if self.tmpfs_parameter(key, text).is_some() => Ok(Parameter::Taken),
            _ => {
                log.error(&[self.of.name(), b": Bad value for '", key, b"'"]);
                Err(Errno::EINVAL)
            }
        }
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let tmpfs = self.of == Type::Tmpfs;
        if tmpfs {
            self.parameters.pages.get_or_insert_with(default_pages);
            self.parameters.inodes.get_or_insert_with(default_pages);
        }
        let wanted = &self.parameters;
        let limit = |limit: Option<u64>| limit.filter(|limit| *limit != 0);
        let mode = wanted.mode.unwrap_or(if tmpfs { 0o1777 } else { 0o755 });
        let (uid, gid) = self.creator;
        let attributes = (mode, wanted.uid.unwrap_or(uid), wanted.gid.unwrap_or(gid));
        let magic = if tmpfs { TMPFS_MAGIC } else { RAMFS_MAGIC };
        let of = self.of;
        let own = memory::arc(BlockingParameters::new(*wanted)).map_err(|_| Errno::ENOMEM)?;
        let make = Make {
            pages: limit(wanted.pages),
            inodes: limit(wanted.inodes),
            parameters: self.show(),
            own: Some(own),
            ..Make::new(of.name(), magic, What::Directory, attributes)
        };
        types::instance(make, request)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, log: &mut Log) -> Result<(), Errno> {
        let super_block = root.super_block();
        let wanted = self.parameters;
        if self.of != Type::Ramfs && super_block.set_limits(wanted.pages, wanted.inodes).is_err() {
            log.error(&[b"tmpfs: Too small a size for current use"]);
            return Err(Errno::EINVAL);
        }
        types::reconfigure(root, flags)?;
        let Some(instance) = Instance::of(super_block) else { return Ok(()) };
        let before = instance.own.clone().and_then(|own| own.downcast::<BlockingParameters>().ok());
        if let Some(before) = before {
            let mut shown = before.0.lock();
            // Mode and owners of the root are what they were made as.
            let merged = Parameters {
                pages: wanted.pages.or(shown.pages),
                inodes: wanted.inodes.or(shown.inodes),
                no_swap: shown.no_swap || wanted.no_swap,
                huge: wanted.huge.or(shown.huge),
                inode_bits: wanted.inode_bits.or(shown.inode_bits),
                ..*shown
            };
            *shown = merged;
            let config = Config {
                parameters: merged,
                of: self.of,
                caller: self.caller.clone(),
                creator: self.creator,
            };
            instance.show(config.show());
        }
        Ok(())
    }
}

/// The parameters of an instance.
struct BlockingParameters(mnt_table::sync::BlockingMutex<Parameters>);

impl BlockingParameters {
    fn new(parameters: Parameters) -> Self {
        BlockingParameters(mnt_table::sync::BlockingMutex::new(parameters))
    }
}

/// An instance for the root of boot.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn rootfs() -> Result<SuperBlockRef<TmpDentry>, Errno> {
    let request = Request {
        source: Some(b"rootfs"),
        subtype: None,
        flags: SuperFlags::empty(),
        owner: &UserNs::INITIAL,
        exclusive: false,
    };
    let limit = Some(default_pages());
    let parameters = Parameters { pages: limit, inodes: limit, ..Parameters::default() };
    let own = memory::arc(BlockingParameters::new(parameters)).map_err(|_| Errno::ENOMEM)?;
    let make = Make {
        pages: limit,
        inodes: limit,
        own: Some(own),
        ..Make::new(b"rootfs", TMPFS_MAGIC, What::Directory, (0o755, 0, 0))
    };
    types::instance(make, &request)
}
