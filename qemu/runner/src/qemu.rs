//! One virtual machine, from start to exit: its command line, its console line by line, its watchdog.
//!
//! A machine that says nothing for too long, or that never ends, is looked at before it is stopped: where each CPU
//! stands, and what the kernel says to an NMI (it prints the backtraces of all CPUs).

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use addr2line::Loader;
use anyhow::{Context, Result};
use serde_json::json;

use crate::accel::Accel;
use crate::install;
use crate::project;
use crate::qmp::Qmp;

/// What to boot, and on what.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    /// The boot module.
    pub(crate) image: Option<&'a Path>,
    pub(crate) command_line: &'a str,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: usize,
    pub(crate) accel: Accel,
    /// Whether instructions are counted: one takes a nanosecond of the machine's time, and runs are repeatable.
    pub(crate) icount: bool,
}

/// When a machine counts as hung.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Longest time without a line.
    pub(crate) silence: Duration,
    /// Longest time in all.
    pub(crate) total: Duration,
}

/// How a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The kernel says that its job succeeded.
    Success,
    /// The kernel says otherwise, or did not get to say anything.
    Failure(Failure, String),
    /// The watchdog stopped it.
    Hung(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Failure(_, reason) | Self::Hung(reason) => f.write_str(reason),
        }
    }
}

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The machine powered off or reset itself without a word of the kernel's. A kernel that knows nothing of the exit
    /// device does so when all is well, ours only on a triple fault.
    Off,
    /// The kernel panicked.
    Panic,
    /// What the kernel was given is unusable.
    Input,
    /// The kernel's job, or QEMU.
    Other,
}

/// A line that the machine, QEMU or the watchdog says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// From the serial console.
    Serial(Vec<u8>),
    /// From QEMU or the watchdog.
    Outside(String),
}

impl Machine<'_> {
    /// Boots, gives every line to `follow`, and returns when the machine has ended.
    pub(crate) fn boot(&self, limits: Limits, follow: &mut dyn FnMut(Line)) -> Result<Ending> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let monitor = folder.path().join("monitor");
        let mut command = self.command(&monitor);
        command.args(["-serial", "stdio"]);
        watch(command, limits, follow, |follow| inspect(&monitor, self.kernel, follow))
    }

    /// Boots with the console on this program's own standard input and output, and returns when the machine has ended.
    ///
    /// From a terminal, every key goes to the machine, but for those behind Ctrl-A: `x` ends it, `h` lists the others.
    pub(crate) fn attach(&self, limit: Option<Duration>, log: Option<&Path>) -> Result<Ending> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let monitor = folder.path().join("monitor");
        let mut command = self.command(&monitor);
        let terminal = Terminal::save();
        let mut console = "stdio,id=console,signal=off".to_owned();
        if terminal.is_some() {
            console.push_str(",mux=on");
        }
        if let Some(log) = log {
            // A comma ends a value of QEMU's options, two are one.
            console.push_str(&format!(",logfile={}", log.display().to_string().replace(',', ",,")));
        }
        command.args(["-chardev", &console, "-serial", "chardev:console"]);
        let words = project::describe(&command);
        if terminal.is_none() {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let mut child = Running(command.spawn().with_context(|| format!("cannot run `{words}`"))?);
        let output = child.0.stdout.take().zip(child.0.stdin.take()).map(|(from, to)| relay(from, to));
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            if let Some(status) = child.0.try_wait().context("cannot wait for QEMU")? {
                drop(terminal);
                // All that the machine said before it ended.
                let _ = output.map(thread::JoinHandle::join);
                return Ok(ending(status));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            thread::sleep(POLL_EVERY);
        }
        let mut say = |line: Line| {
            if let Line::Outside(text) = line {
                eprintln!("{text}");
            }
        };
        registers(&monitor, self.kernel, &mut say);
        drop(child);
        drop(terminal);
        Ok(Ending::Hung(format!("not at its end after {} s", limit.unwrap_or_default().as_secs())))
    }

    /// All but where the console goes.
    fn command(&self, monitor: &Path) -> Command {
        let mut command = Command::new(install::QEMU);
        command.args(["-machine", "q35", "-cpu", "max"]);
        if self.icount {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", self.accel.option()]);
        }
        command.args(["-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory_mib)]);
        command.arg("-kernel").arg(self.kernel).args(["-append", self.command_line]);
        if let Some(image) = self.image {
            command.arg("-initrd").arg(image);
        }
        command.args(["-nodefaults", "-monitor", "none", "-display", "none", "-no-reboot"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command
    }
}

/// Passes standard input on to a machine, and what that says to standard output, until it has said all; `join` the result
/// to wait for that.
///
/// Input waits for the machine's first line: what comes before the kernel has set its serial port up would be lost.
fn relay(mut from: ChildStdout, mut to: ChildStdin) -> thread::JoinHandle<()> {
    let (begun, begin) = mpsc::channel::<()>();
    thread::spawn(move || {
        if begin.recv().is_ok() {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut to);
            // The machine's end stays open: a console does not end.
            std::mem::forget(to);
        }
    });
    thread::spawn(move || {
        let mut begun = Some(begun);
        let mut bytes = [0; 4096];
        let mut out = std::io::stdout().lock();
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            if bytes[..len].contains(&b'\n') {
                begun.take().inspect(|begun| _ = begun.send(()));
            }
            if out.write_all(&bytes[..len]).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    })
}

/// How often a machine that has the console is looked at.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// The terminal as it was: QEMU makes it raw, and cannot undo that if it is killed.
struct Terminal(rustix::termios::Termios);

impl Terminal {
    /// Nothing if standard input is no terminal.
    fn save() -> Option<Self> {
        rustix::termios::tcgetattr(std::io::stdin()).ok().map(Self)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        use rustix::termios::{OptionalActions, tcsetattr};
        // It may have gone meanwhile, and then nobody needs it.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        if let Ok(flags) = fcntl_getfl(std::io::stdin()) {
            let _ = fcntl_setfl(std::io::stdin(), flags - OFlags::NONBLOCK);
        }
    }
}

/// Kills its process when dropped, whatever way the function around it is left.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long after an NMI lines still count: the kernel prints a backtrace per CPU, then leaves.
const NMI_LIMIT: Duration = Duration::from_secs(10);

/// Runs `command` as a machine. `inspect` is called once if it hangs.
fn watch(
    mut command: Command,
    limits: Limits,
    follow: &mut dyn FnMut(Line),
    inspect: impl FnOnce(&mut dyn FnMut(Line)),
) -> Result<Ending> {
    let words = project::describe(&command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().with_context(|| format!("cannot run `{words}`"))?);
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.0.stdout.take() {
        read_lines(stdout, sender.clone(), Line::Serial);
    }
    if let Some(stderr) = child.0.stderr.take() {
        let outside = |line: Vec<u8>| Line::Outside(format!("qemu: {}", String::from_utf8_lossy(&line)));
        read_lines(stderr, sender, outside);
    }
    let end = Instant::now() + limits.total;
    let Some(reason) = follow_until_hung(&lines, limits.silence, end, follow) else {
        let status = child.0.wait().context("cannot wait for QEMU")?;
        return Ok(ending(status));
    };
    follow(Line::Outside(format!("watchdog: {reason}")));
    inspect(follow);
    let end = Instant::now() + NMI_LIMIT;
    follow_until_hung(&lines, NMI_LIMIT, end, follow);
    Ok(Ending::Hung(reason))
}

/// Passes lines on until both pipes close (`None`) or a limit passes (the reason).
fn follow_until_hung(
    lines: &Receiver<Line>,
    silence: Duration,
    end: Instant,
    follow: &mut dyn FnMut(Line),
) -> Option<String> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match lines.recv_timeout(silence.min(left)) {
            Ok(_) if left.is_zero() => return Some("the machine does not come to an end".to_owned()),
            Ok(line) => follow(line),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if left <= silence => {
                return Some("the machine does not come to an end".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {
                return Some(format!("no output for {} s", silence.as_secs_f32()));
            }
        }
    }
}

/// Sends the lines of one pipe from a thread that ends with the pipe.
fn read_lines(
    pipe: impl Read + Send + 'static,
    sender: Sender<Line>,
    line: impl Fn(Vec<u8>) -> Line + Send + 'static,
) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut text = Vec::new();
            // An error ends the pipe like its end does; the exit status tells the rest.
            if pipe.read_until(b'\n', &mut text).unwrap_or(0) == 0 {
                return;
            }
            while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                text.pop();
            }
            if sender.send(line(text)).is_err() {
                return;
            }
        }
    });
}

/// What QEMU's exit status says: the exit device gives `2 * value + 1`, and `0x10` is the kernel's success.
fn ending(status: ExitStatus) -> Ending {
    let (who, reason) = match status.code() {
        Some(33) => return Ending::Success,
        Some(0) => (Failure::Off, "the machine reset itself or powered off (a triple fault?)".to_owned()),
        Some(1) => (Failure::Other, "QEMU itself failed".to_owned()),
        Some(35) => (Failure::Panic, "the kernel panicked".to_owned()),
        Some(37) => (Failure::Input, "the kernel refuses its command line or its image".to_owned()),
        Some(39) => (Failure::Other, "the kernel's job failed".to_owned()),
        _ => (Failure::Other, format!("QEMU ended with {status}")),
    };
    Ending::Failure(who, reason)
}

/// Says where each CPU stands, then has the kernel say what it knows.
fn inspect(monitor: &Path, kernel: &Path, follow: &mut dyn FnMut(Line)) {
    let Some(mut qmp) = registers(monitor, kernel, follow) else { return };
    if let Err(error) = qmp.execute("inject-nmi", json!({})) {
        follow(Line::Outside(format!("watchdog: {error:#}")));
    }
}

/// Says where each CPU stands; returns the connection to QEMU if there is one.
fn registers(monitor: &Path, kernel: &Path, follow: &mut dyn FnMut(Line)) -> Option<Qmp> {
    let mut say = |text: String| follow(Line::Outside(format!("watchdog: {text}")));
    let mut qmp = match Qmp::connect(monitor) {
        Ok(qmp) => qmp,
        Err(error) => {
            say(format!("{error:#}"));
            return None;
        }
    };
    match qmp.registers() {
        Ok(states) => {
            let symbols = Loader::new(kernel).ok();
            for state in states {
                let place = symbols.as_ref().and_then(|symbols| place(symbols, state.rip));
                let place = place.unwrap_or_else(|| "no function of the kernel".to_owned());
                let halted = if state.halted { ", halted" } else { "" };
                say(format!("CPU {}: RIP {:#018x}{halted}: {place}", state.cpu, state.rip));
            }
        }
        Err(error) => say(format!("{error:#}")),
    }
    Some(qmp)
}

/// The functions at an address, the innermost inlined one first, and the line in it.
fn place(symbols: &Loader, address: u64) -> Option<String> {
    let mut names = Vec::new();
    let mut line = None;
    let mut frames = symbols.find_frames(address).ok()?;
    while let Ok(Some(frame)) = frames.next() {
        names.extend(frame.function.and_then(|function| Some(function.demangle().ok()?.into_owned())));
        line = line.or(frame.location.and_then(|at| Some(format!(" at {}:{}", at.file?, at.line?))));
    }
    if names.is_empty() {
        names.push(symbols.find_symbol(address)?.to_owned());
    }
    Some(names.join(", inlined in ") + &line.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { silence: Duration::from_secs(20), total: Duration::from_secs(20) };

    /// A machine that is a shell script.
    fn play(script: &str, limits: Limits) -> (Ending, Vec<Line>) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ending = watch(command, limits, &mut |line| lines.push(line), |follow| {
            follow(Line::Outside("inspected".to_owned()));
        });
        (ending.unwrap(), lines)
    }

    fn serial(text: &[u8]) -> Line {
        Line::Serial(text.to_vec())
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (ending, lines) = play(r"printf 'a\r\n\377b\n'; printf end; exit 33", LIMITS);
        assert_eq!(ending, Ending::Success);
        assert_eq!(lines, [serial(b"a"), serial(b"\xffb"), serial(b"end")]);
    }

    #[test]
    fn every_status_but_the_kernels_success_is_a_failure() {
        for status in [0, 1, 2, 35, 37, 39, 124, 255] {
            let (ending, _) = play(&format!("exit {status}"), LIMITS);
            assert!(matches!(ending, Ending::Failure(..)), "{status}");
        }
        assert!(matches!(play("kill -9 $$", LIMITS).0, Ending::Failure(..)), "a signal");
    }

    #[test]
    fn what_qemu_says_is_marked() {
        let (_, lines) = play("echo no >&2; exit 1", LIMITS);
        assert_eq!(lines, [Line::Outside("qemu: no".to_owned())]);
    }

    #[test]
    fn a_silent_machine_is_inspected_and_stopped() {
        let limits = Limits { silence: Duration::from_millis(200), ..LIMITS };
        // The child leaves as the kernel does after an NMI, so that nothing waits for the limit.
        let (ending, lines) = play("echo hello; exec sleep 2", limits);
        assert_eq!(ending, Ending::Hung("no output for 0.2 s".to_owned()));
        let outside = |text: &str| Line::Outside(text.to_owned());
        assert_eq!(lines, [serial(b"hello"), outside("watchdog: no output for 0.2 s"), outside("inspected")]);
    }

    #[test]
    fn a_machine_that_never_ends_is_stopped_though_it_talks() {
        let limits = Limits { total: Duration::from_millis(300), ..LIMITS };
        let (ending, lines) = play("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done", limits);
        assert_eq!(ending, Ending::Hung("the machine does not come to an end".to_owned()));
        assert!(lines.contains(&serial(b"1")));
    }

    #[test]
    fn a_missing_program_is_named() {
        let command = Command::new("no-such-program");
        let error = watch(command, LIMITS, &mut |_| (), |_| ()).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot run `no-such-program`: "));
    }
}
