//! QEMU's machine protocol, as far as a watchdog needs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A connection to one machine.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach QEMU's monitor")?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        ensure!(!qmp.read()?["QMP"].is_null(), "QEMU's monitor does not greet");
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer; events in between are dropped.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        loop {
            let mut answer = self.read()?;
            if !answer["error"].is_null() {
                bail!("QEMU refuses `{command}`: {}", answer["error"]["desc"]);
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// The state of every CPU, in the monitor's words.
    pub(crate) fn registers(&mut self) -> Result<Vec<CpuState>> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": "info registers -a" }))?;
        Ok(cpu_states(answer.as_str().unwrap_or_default()))
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("no answer from QEMU's monitor")?;
        ensure!(!line.is_empty(), "QEMU closed its monitor");
        Ok(serde_json::from_str(&line)?)
    }
}

/// Where one CPU stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CpuState {
    pub(crate) cpu: u32,
    pub(crate) rip: u64,
    pub(crate) halted: bool,
}

/// Reads `CPU#N`, `RIP=` and `HLT=` from the output of `info registers -a`.
fn cpu_states(text: &str) -> Vec<CpuState> {
    let mut states: Vec<CpuState> = Vec::new();
    for word in text.split_whitespace() {
        if let Some(cpu) = word.strip_prefix("CPU#").and_then(|cpu| cpu.parse().ok()) {
            states.push(CpuState { cpu, rip: 0, halted: false });
        } else if let (Some(state), Some((name, value))) = (states.last_mut(), word.split_once('=')) {
            match name {
                "RIP" => state.rip = u64::from_str_radix(value, 16).unwrap_or(0),
                "HLT" => state.halted = value == "1",
                _ => {}
            }
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_dumps_give_one_state_per_cpu() {
        let text = "CPU#0\r\nRAX=0000000000000000 RBX=1\r\nRIP=ffffffff80001234 RFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n\
                    CPU#1\r\nRIP=000000000000fff0 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n";
        let state = |cpu, rip, halted| CpuState { cpu, rip, halted };
        assert_eq!(cpu_states(text), [state(0, 0xffff_ffff_8000_1234, false), state(1, 0xfff0, true)]);
    }
}
