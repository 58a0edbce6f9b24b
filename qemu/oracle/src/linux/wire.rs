//! What the driver and a helper say to each other: one message there, one back.

use crate::raw::{Arg, Raw, Reply};

/// The most bytes of a message.
pub(super) const MESSAGE_MAX: usize = 200_000;

/// What a helper is asked for.
pub(super) enum Request {
    /// These calls, one after the other.
    Calls(Vec<Raw>),
    /// A child, by clone(2) with these flags, which serves socket `child`.
    Clone { flags: u64, child: u32 },
    /// The maps of the user namespace that it is in: its root is who it is outside.
    MapRoot,
}

/// Writes numbers and byte strings one after the other.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn request(&mut self, request: &Request) {
        match request {
            Request::Calls(calls) => {
                self.byte(0);
                for call in calls {
                    self.byte(1);
                    self.number(u64::from(call.nr));
                    call.args.iter().for_each(|arg| self.arg(arg));
                }
                self.byte(0);
            }
            Request::Clone { flags, child } => {
                self.byte(1);
                self.number(*flags);
                self.number(u64::from(*child));
            }
            Request::MapRoot => self.byte(2),
        }
    }

    fn arg(&mut self, arg: &Arg) {
        match arg {
            Arg::Int(number) => {
                self.byte(0);
                self.number(*number);
            }
            Arg::Bytes(bytes) => {
                self.byte(1);
                self.bytes(bytes);
            }
            Arg::Edge(bytes) => {
                self.byte(2);
                self.bytes(bytes);
            }
            Arg::Out(len) => {
                self.byte(3);
                self.number(u64::from(*len));
            }
            Arg::InOut(bytes) => {
                self.byte(4);
                self.bytes(bytes);
            }
        }
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        self.number(reply.result as u64);
        self.byte(reply.memory.len() as u8);
        reply.memory.iter().for_each(|memory| self.bytes(memory));
    }
}

/// Reads what a [`Writer`] wrote. `None`: that is not how it was written.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(len as usize)
    }

    pub(super) fn request(&mut self) -> Option<Request> {
        Some(match self.byte()? {
            0 => {
                let mut calls = Vec::new();
                while self.byte()? == 1 {
                    let nr = self.number()? as u32;
                    let mut args = [const { Arg::Int(0) }; 6];
                    for arg in &mut args {
                        *arg = self.arg()?;
                    }
                    calls.push(Raw { nr, args });
                }
                Request::Calls(calls)
            }
            1 => Request::Clone { flags: self.number()?, child: self.number()? as u32 },
            2 => Request::MapRoot,
            _ => return None,
        })
    }

    fn arg(&mut self) -> Option<Arg> {
        Some(match self.byte()? {
            0 => Arg::Int(self.number()?),
            1 => Arg::Bytes(self.bytes()?.to_vec()),
            2 => Arg::Edge(self.bytes()?.to_vec()),
            3 => Arg::Out(self.number()? as u32),
            4 => Arg::InOut(self.bytes()?.to_vec()),
            _ => return None,
        })
    }

    pub(super) fn reply(&mut self) -> Option<Reply> {
        let result = self.number()? as i64;
        let outputs = self.byte()?;
        let memory = (0..outputs).map(|_| self.bytes().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
        Some(Reply { result, memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let args = [
            Arg::Int(u64::MAX),
            Arg::Bytes(b"/a\0".to_vec()),
            Arg::Edge(vec![]),
            Arg::Out(512),
            Arg::InOut(vec![1, 0]),
            Arg::Int(7),
        ];
        let calls = vec![Raw { nr: 165, args: args.clone() }, Raw { nr: 457, args }];
        let mut writer = Writer::default();
        writer.request(&Request::Calls(calls.clone()));
        let Some(Request::Calls(read)) = Reader(&writer.0).request() else { panic!("other") };
        assert_eq!(read, calls);
        let reply = Reply { result: -22, memory: vec![b"text".to_vec(), vec![]] };
        let mut writer = Writer::default();
        writer.reply(&reply);
        assert_eq!(Reader(&writer.0).reply(), Some(reply));
    }
}
