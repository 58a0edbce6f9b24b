//! A program on a machine: symbols become numbers, numbers get names, and what calls return becomes text.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use linux_raw_sys::general as abi;

use crate::answer::Answer;
use crate::language::{Arg, Bind, Call, Column, Op, Piece, Place, Step, Then, Value};
use crate::machine::Machine;
use crate::raw::{self, Raw, Reply};
use crate::view::Views;

mod look;
mod show;

/// A descriptor that nobody has.
const NO_FD: i32 = 399;
/// A number that nothing has.
const NO_NUMBER: u64 = 0x7fff_0000_0000_0000;
/// A pid that nobody has.
const NO_PID: i32 = 0x3fff_fff0;

/// The names that one task knows.
#[derive(Clone, Default)]
struct Names {
    fds: HashMap<String, i32>,
    numbers: HashMap<String, u64>,
}

/// Runs a program's steps on a machine.
///
/// Nothing that a program says can fail here: what has no name is a descriptor, number or pid that does not exist, and a
/// task that does not exist answers `ESRCH`. So any part of a program is a program.
pub struct Session<M> {
    /// The machine.
    pub machine: M,
    names: Vec<Names>,
}

impl<M: Machine> Session<M> {
    /// On a machine that has run nothing yet.
    pub fn new(machine: M) -> Self {
        let mut first = Names::default();
        first.fds.insert("proc".into(), machine.proc_fd());
        Session { machine, names: vec![first] }
    }

    /// Whether task `task` exists.
    pub fn has(&self, task: usize) -> bool {
        self.machine.pid(task).is_some()
    }

    /// Runs one step.
    ///
    /// # Errors
    /// The machine failed.
    pub fn run(&mut self, step: &Step) -> Result<Answer> {
        self.step(step).with_context(|| format!("at `{step}`"))
    }

    fn step(&mut self, step: &Step) -> Result<Answer> {
        let task = step.task;
        if !self.has(task) {
            return Ok(Answer::Error(linux_raw_sys::errno::ESRCH));
        }
        match &step.op {
            Op::Call(call) => self.call(task, call),
            Op::Calls(calls) => {
                self.calls(task, calls)?;
                Ok(Answer::Ok)
            }
            Op::Clone { child, flags, map_root } => self.clone_task(task, *child, *flags, *map_root),
            Op::Exit => {
                self.machine.exit(task)?;
                Ok(Answer::Ok)
            }
            Op::List(place) => self.list(task, place),
            Op::Lines(file, column) => self.lines(task, file, *column),
            Op::DropCapabilities(dropped) => self.drop_capabilities(task, *dropped),
        }
    }

    /// What every task sees, normalised.
    ///
    /// # Errors
    /// The machine failed.
    pub fn views(&mut self) -> Result<Views> {
        let mut views = Views(self.machine.mountinfo()?);
        views.normalise();
        Ok(views)
    }

    fn call(&mut self, task: usize, call: &Call) -> Result<Answer> {
        let raw = self.lower(task, call)?;
        let reply = self.one(task, raw)?;
        if reply.errno() != 0 {
            return Ok(Answer::Error(reply.errno()));
        }
        if let (abi::__NR_close, Arg::Value(Value::Fd(name))) = (call.nr, &call.args[0]) {
            // Its number may be another file's soon.
            self.names[task].fds.remove(name);
        }
        match &call.bind {
            Some(Bind::Fd(name)) => {
                self.names[task].fds.insert(name.clone(), reply.result as i32);
            }
            Some(Bind::Number(name, at, size)) => {
                self.names[task].numbers.insert(name.clone(), reply.number(0, *at, *size));
            }
            None => {}
        }
        match &call.then {
            Then::Nothing => {}
            Then::Calls(calls) => {
                self.calls(task, calls)?;
            }
            Then::MapRoot => {
                let mapped = self.machine.map_root(task)?;
                return Ok(Answer::from_errno(mapped.errno()));
            }
        }
        self.show(task, &call.show, &reply)
    }

    fn calls(&mut self, task: usize, calls: &[Call]) -> Result<Vec<Reply>> {
        let raw = calls.iter().map(|call| self.lower(task, call)).collect::<Result<Vec<_>>>()?;
        self.machine.calls(task, &raw)
    }

    fn one(&mut self, task: usize, raw: Raw) -> Result<Reply> {
        let mut replies = self.machine.calls(task, &[raw])?;
        replies.pop().context("a call without an answer")
    }

    fn clone_task(&mut self, task: usize, child: usize, flags: u64, map_root: bool) -> Result<Answer> {
        ensure!(self.machine.pid(child).is_none(), "there is a task {child} already");
        let reply = self.machine.clone_task(task, child, flags)?;
        if reply.errno() != 0 {
            return Ok(Answer::Error(reply.errno()));
        }
        if self.names.len() <= child {
            self.names.resize_with(child + 1, Names::default);
        }
        self.names[child] = self.names[task].clone();
        if map_root {
            let mapped = self.machine.map_root(child)?;
            return Ok(Answer::from_errno(mapped.errno()));
        }
        Ok(Answer::Ok)
    }

    /// Opens a directory, reads its names and closes it.
    fn list(&mut self, task: usize, place: &Place) -> Result<Answer> {
        const SIZE: u32 = raw::PLACE as u32;
        let place = if place.is_empty {
            Place { path: Arg::text("."), is_empty: false, ..place.clone() }
        } else {
            place.clone()
        };
        let flags = Arg::int(abi::O_RDONLY | abi::O_DIRECTORY);
        let open = raw_call(abi::__NR_openat, [place.directory.into(), place.path, flags]);
        let open = self.resolve(task, open)?;
        let opened = self.one(task, open)?;
        if opened.errno() != 0 {
            return Ok(Answer::Error(opened.errno()));
        }
        let fd = || raw::Arg::Int(opened.result as u64);
        let read =
            registers(abi::__NR_getdents64, [fd(), raw::Arg::Out(SIZE), raw::Arg::Int(u64::from(SIZE))]);
        let close = registers(abi::__NR_close, [fd()]);
        let replies = self.machine.calls(task, &[read, close])?;
        if replies[0].errno() != 0 {
            return Ok(Answer::Error(replies[0].errno()));
        }
        Ok(Answer::Value(show::names(&replies[0])))
    }

    /// Reads a file from its start.
    fn lines(&mut self, task: usize, file: &Value, column: Column) -> Result<Answer> {
        const SIZE: u64 = raw::PLACE as u64;
        let fd = self.value(task, file)?;
        let mut text = Vec::new();
        loop {
            let args = [
                raw::Arg::Int(fd),
                raw::Arg::Out(SIZE as u32),
                raw::Arg::Int(SIZE),
                raw::Arg::Int(text.len() as u64),
            ];
            let reply = self.one(task, registers(abi::__NR_pread64, args))?;
            if reply.errno() != 0 {
                return Ok(Answer::Error(reply.errno()));
            }
            if reply.result == 0 {
                return Ok(Answer::Value(show::lines(&text, column)));
            }
            let mut read = reply.memory.into_iter().next().unwrap_or_default();
            read.resize(reply.result as usize, 0);
            text.extend_from_slice(&read);
        }
    }

    /// Sets the capabilities to what they are now without `dropped`.
    fn drop_capabilities(&mut self, task: usize, dropped: u64) -> Result<Answer> {
        let header = || {
            let version = abi::_LINUX_CAPABILITY_VERSION_3;
            raw::Arg::Bytes([version.to_le_bytes(), [0; 4]].concat())
        };
        let now = self.one(task, registers(abi::__NR_capget, [header(), raw::Arg::Out(24)]))?;
        if now.errno() != 0 {
            return Ok(Answer::Error(now.errno()));
        }
        let mut data = Vec::new();
        for word in 0..6 {
            let kept = !(dropped >> (32 * (word / 3))) as u32;
            let bits = now.number(0, 4 * word, 4) as u32 & kept;
            data.extend_from_slice(&bits.to_le_bytes());
        }
        let set = self.one(task, registers(abi::__NR_capset, [header(), raw::Arg::Bytes(data)]))?;
        Ok(Answer::from_errno(set.errno()))
    }

    fn lower(&mut self, task: usize, call: &Call) -> Result<Raw> {
        self.resolve(task, (call.nr, call.args.clone()))
    }

    fn resolve(&mut self, task: usize, (nr, args): (u32, [Arg; 6])) -> Result<Raw> {
        let mut raw = [const { raw::Arg::Int(0) }; 6];
        for (place, arg) in raw.iter_mut().zip(&args) {
            *place = self.arg(task, arg)?;
        }
        Ok(Raw { nr, args: raw })
    }

    fn arg(&mut self, task: usize, arg: &Arg) -> Result<raw::Arg> {
        Ok(match arg {
            Arg::Raw(raw) => raw.clone(),
            Arg::Value(value) => raw::Arg::Int(self.value(task, value)?),
            Arg::Text(pieces) => {
                let mut text = Vec::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(bytes) => text.extend_from_slice(bytes),
                        Piece::Number(value) => {
                            text.extend_from_slice(self.value(task, value)?.to_string().as_bytes());
                        }
                    }
                }
                text.push(0);
                raw::Arg::Bytes(text)
            }
            Arg::Struct(fields) => {
                let mut bytes = Vec::new();
                for (size, value) in fields {
                    let number = self.value(task, value)?.to_le_bytes();
                    bytes.extend_from_slice(&number[..usize::from(*size)]);
                }
                raw::Arg::InOut(bytes)
            }
        })
    }

    fn value(&mut self, task: usize, value: &Value) -> Result<u64> {
        Ok(match value {
            Value::Int(number) => *number,
            Value::Fd(name) => {
                let fd = self.names[task].fds.get(name).copied().unwrap_or(NO_FD);
                i64::from(fd) as u64
            }
            Value::Number(name) => self.names[task].numbers.get(name).copied().unwrap_or(NO_NUMBER),
            Value::Pid(of) => self.machine.pid(*of).unwrap_or(NO_PID) as u64,
            Value::MountAt(place) => {
                let call = crate::language::statx(place.as_ref().clone());
                let raw = self.lower(task, &call)?;
                let reply = self.one(task, raw)?;
                let found = reply.errno() == 0;
                if found { reply.number(0, crate::language::STATX_MNT_ID, 8) } else { NO_NUMBER }
            }
        })
    }
}

/// A call with symbols from its first arguments; the others are zero.
fn raw_call<const N: usize>(nr: u32, args: [Arg; N]) -> (u32, [Arg; 6]) {
    let mut all = [const { Arg::ZERO }; 6];
    all.iter_mut().zip(args).for_each(|(place, arg)| *place = arg);
    (nr, all)
}

/// A call from its first arguments; the others are zero.
fn registers<const N: usize>(nr: u32, args: [raw::Arg; N]) -> Raw {
    let mut all = [const { raw::Arg::Int(0) }; 6];
    all.iter_mut().zip(args).for_each(|(place, arg)| *place = arg);
    Raw { nr, args: all }
}
