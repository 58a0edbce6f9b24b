//! What a task sees beside mountinfo, as text that is the same on machines that agree: where it stands, what paths lead to,
//! and what statmount and listmount tell.

use std::collections::HashMap;

use anyhow::Result;
use linux_raw_sys::general as abi;

use super::{Session, registers};
use crate::errno;
use crate::language::{self, STATX_MODE};
use crate::machine::Machine;
use crate::raw::{Arg, Raw, Reply};

/// Where a `statx` has the inode number and the minor number of the device.
const INO: usize = 0x20;
const MINOR: usize = 0x8c;

/// Mounts that are asked about at most.
const MOUNTS_MAX: usize = 64;

/// Where a `statmount` has the unique ids of the mount and its parent.
const IDS: [usize; 2] = [40, 48];

impl<M: Machine> Session<M> {
    /// What `task` sees, with `paths` to be looked up.
    ///
    /// # Errors
    /// The machine failed.
    pub fn look(&mut self, task: usize, paths: &[String]) -> Result<Vec<String>> {
        const SIZE: u32 = 4096;
        let mut calls =
            vec![registers(abi::__NR_getcwd, [Arg::Out(SIZE), Arg::Int(u64::from(SIZE))]), list()];
        calls.extend(paths.iter().map(|path| stat(path)));
        let replies = self.machine.calls(task, &calls)?;
        let mut lines = vec![format!("cwd {}", told(&replies[0], |reply| text(reply.text(0, 0))))];
        let mut files = Names::default();
        let mut devices = Names::default();
        for (path, reply) in paths.iter().zip(&replies[2..]) {
            let found = told(reply, |reply| {
                const TYPE: u64 = 0o170_000;
                let device = devices.of(reply.number(0, MINOR, 4));
                let file = files.of((device, reply.number(0, INO, 8)));
                let root =
                    reply.number(0, language::STATX_ATTRIBUTES, 8) & u64::from(abi::STATX_ATTR_MOUNT_ROOT);
                let kind = reply.number(0, STATX_MODE, 2) & TYPE;
                format!("file {file} of device {device}, {kind:o}{}", if root != 0 { ", a root" } else { "" })
            });
            lines.push(format!("{path}: {found}"));
        }
        let count = replies[1].result.clamp(0, MOUNTS_MAX as i64) as usize;
        let ids: Vec<u64> = (0..count).map(|at| replies[1].number(1, 8 * at, 8)).collect();
        lines.push(format!("listmount {}", told(&replies[1], |_| count.to_string())));
        let mut names = Names::default();
        for some in ids.chunks(super::show::MOST_AT_ONCE) {
            let calls: Vec<Raw> = some.iter().map(|id| about(*id)).collect();
            for reply in self.machine.calls(task, &calls)? {
                let [id, parent] = IDS.map(|at| names.of(reply.number(1, at, 8)));
                let what = told(&reply, super::show::stat_mount);
                lines.push(format!("statmount {id} on {parent}: {what}"));
            }
        }
        Ok(lines)
    }
}

/// Numbers by their first appearance.
struct Names<K>(HashMap<K, usize>);

impl<K> Default for Names<K> {
    fn default() -> Self {
        Names(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Names<K> {
    fn of(&mut self, key: K) -> usize {
        let next = self.0.len() + 1;
        *self.0.entry(key).or_insert(next)
    }
}

fn told(reply: &Reply, tell: impl FnOnce(&Reply) -> String) -> String {
    if reply.errno() == 0 { tell(reply) } else { errno::name(reply.errno()) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stat(path: &str) -> Raw {
    const MASK: u32 = abi::STATX_BASIC_STATS | abi::STATX_MNT_ID_UNIQUE;
    let path = [path.as_bytes(), b"\0"].concat();
    registers(
        abi::__NR_statx,
        [
            Arg::Int(i64::from(abi::AT_FDCWD) as u64),
            Arg::Bytes(path),
            Arg::Int(0),
            Arg::Int(u64::from(MASK)),
            Arg::Out(256),
        ],
    )
}

/// A `mnt_id_req`.
fn request(mount: u64, param: u64) -> Arg {
    let size = abi::MNT_ID_REQ_SIZE_VER0;
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&mount.to_le_bytes());
    bytes.extend_from_slice(&param.to_le_bytes());
    Arg::InOut(bytes)
}

fn list() -> Raw {
    let ids = Arg::Out(8 * MOUNTS_MAX as u32);
    registers(abi::__NR_listmount, [request(u64::MAX, 0), ids, Arg::Int(MOUNTS_MAX as u64)])
}

fn about(id: u64) -> Raw {
    const MASK: u32 = abi::STATMOUNT_SB_BASIC
        | abi::STATMOUNT_MNT_BASIC
        | abi::STATMOUNT_PROPAGATE_FROM
        | abi::STATMOUNT_MNT_ROOT
        | abi::STATMOUNT_MNT_POINT
        | abi::STATMOUNT_FS_TYPE;
    const SIZE: u32 = 1024;
    registers(abi::__NR_statmount, [request(id, u64::from(MASK)), Arg::Out(SIZE), Arg::Int(u64::from(SIZE))])
}
