//! The line discipline: what happens between bytes that arrive and bytes that are read, and on the way out.
//!
//! No locks, no waiting, no devices: the terminal around it holds one under its lock and hands it bytes.
//!
//! 1. In canonical mode `input` is lines, then the line that is being typed. `complete` says where the latter begins; erase,
//!    kill and their like never reach back over it. Each line ends with an entry that says so; an end-of-file character is
//!    an entry that ends a line and is not delivered.
//! 2. Otherwise all of `input` can be read.
//! 3. Echo and output go through [`Discipline::write`], which keeps the column, because tabs and erasing depend on it.
//!
//! # Invariants
//! - `[Bound]` `input` has at most [`INPUT_MAX`] entries, and one more that ends a line; its memory is there from the start.
//!
//! Sources: termios(3), POSIX "General Terminal Interface".

use alloc::collections::VecDeque;

use linux_raw_sys::general as abi;
use linux_raw_sys::general::termios2;
use syscalls::Errno;

/// Bytes that can wait to be read.
pub(crate) const INPUT_MAX: usize = 4096;
/// Bytes that can wait to be sent.
pub(crate) const OUTPUT_MAX: usize = 4096;
/// Columns from one tabulator stop to the next.
const TAB: usize = 8;

/// One byte of input.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    byte: u8,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Byte,
    /// The last of its line.
    LineEnd,
    /// Ends a line, and is not delivered.
    EndOfFile,
}

/// A signal that a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Interrupt,
    Quit,
    Suspend,
}

/// What a byte that arrived led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// There is more to read.
    pub(crate) readable: bool,
    /// The foreground gets a signal.
    pub(crate) key: Option<Key>,
    /// Output goes on again.
    pub(crate) started: bool,
}

/// The bytes on their way out, and the state that they depend on.
pub(crate) struct Discipline {
    termios: termios2,
    input: VecDeque<Entry>,
    /// Entries that belong to complete lines. Canonical mode only.
    complete: usize,
    /// The column after the last byte that went out,
    column: usize,
    /// and the one where the line that is being typed begins.
    line_column: usize,
    /// The next byte has no special meaning.
    literal_next: bool,
    /// Output was stopped by a key.
    pub(crate) stopped: bool,
}

/// What a terminal is set to at first: a person's terminal, as Linux sets its own.
pub(crate) const DEFAULT: termios2 = termios2 {
    c_iflag: abi::ICRNL | abi::IXON,
    c_oflag: abi::OPOST | abi::ONLCR,
    c_cflag: abi::B38400 | abi::CS8 | abi::CREAD | abi::HUPCL,
    c_lflag: abi::ISIG
        | abi::ICANON
        | abi::ECHO
        | abi::ECHOE
        | abi::ECHOK
        | abi::ECHOCTL
        | abi::ECHOKE
        | abi::IEXTEN,
    c_line: 0,
    c_cc: [0x03, 0x1c, 0x7f, 0x15, 0x04, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0x0f, 0x17, 0x16, 0, 0, 0],
    c_ispeed: 38400,
    c_ospeed: 38400,
};

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// Whether a byte goes on with a character of several (UTF-8).
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

impl Discipline {
    /// With nothing to read.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(termios: termios2) -> Result<Self, Errno> {
        let mut input = VecDeque::new();
        input.try_reserve_exact(INPUT_MAX + 1).map_err(|_| Errno::ENOMEM)?;
        Ok(Discipline {
            termios,
            input,
            complete: 0,
            column: 0,
            line_column: 0,
            literal_next: false,
            stopped: false,
        })
    }

    /// The settings.
    pub(crate) fn termios(&self) -> &termios2 {
        &self.termios
    }

    /// Changes the settings. What was typed and not read becomes a line when canonical mode begins, and plain bytes when it
    /// ends. True if what can be read has changed.
    pub(crate) fn set_termios(&mut self, termios: termios2) -> bool {
        let was_canonical = self.is_canonical();
        self.termios = termios;
        if self.termios.c_iflag & abi::IXON == 0 {
            self.stopped = false;
        }
        match (was_canonical, self.is_canonical()) {
            (true, false) => {
                self.input.retain(|entry| entry.kind != Kind::EndOfFile);
                self.input.iter_mut().for_each(|entry| entry.kind = Kind::Byte);
                self.complete = 0;
                true
            }
            (false, true) => {
                if let Some(last) = self.input.back_mut() {
                    last.kind = Kind::LineEnd;
                }
                self.complete = self.input.len();
                true
            }
            _ => false,
        }
    }

    fn local(&self, flag: u32) -> bool {
        self.termios.c_lflag & flag != 0
    }

    fn is_canonical(&self) -> bool {
        self.local(abi::ICANON)
    }

    /// `VMIN` and `VTIME`; `None` in canonical mode.
    pub(crate) fn raw_limits(&self) -> Option<(usize, u8)> {
        let cc = |index: u32| self.termios.c_cc[index as usize];
        (!self.is_canonical()).then(|| (usize::from(cc(abi::VMIN)), cc(abi::VTIME)))
    }

    /// Whether `byte` is the special character `index`; 0 disables one.
    fn is(&self, byte: u8, index: u32) -> bool {
        byte != 0 && self.termios.c_cc[index as usize] == byte
    }

    /// Whether bytes may arrive: there is room, or they may be dropped because a line grows too long. Not so while somebody
    /// could read and make room.
    pub(crate) fn has_room(&self) -> bool {
        self.input.len() < INPUT_MAX || (self.is_canonical() && self.complete == 0)
    }

    /// Bytes that a read would find.
    pub(crate) fn readable(&self) -> usize {
        if !self.is_canonical() {
            return self.input.len();
        }
        self.input.iter().take(self.complete).filter(|entry| entry.kind != Kind::EndOfFile).count()
    }

    /// Whether a read has something to return, be it an end of file. `at_least` is for raw mode.
    pub(crate) fn is_readable(&self, at_least: usize) -> bool {
        if self.is_canonical() { self.complete > 0 } else { self.input.len() >= at_least.max(1) }
    }

    /// Takes bytes: of one line at most in canonical mode. How many, and whether the line ended there; a line of nothing is
    /// an end of file.
    ///
    /// Context: only if [`Discipline::is_readable`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (usize, bool) {
        let mut count = 0;
        let canonical = self.is_canonical();
        while let Some(entry) = self.input.front().copied() {
            if canonical && self.complete == 0 {
                break;
            }
            // An end of file right behind the last byte that fits is not left for the next read.
            if entry.kind != Kind::EndOfFile {
                let Some(place) = buffer.get_mut(count) else { break };
                *place = entry.byte;
                count += 1;
            }
            self.input.pop_front();
            if canonical {
                self.complete -= 1;
                if entry.kind != Kind::Byte {
                    return (count, true);
                }
            }
        }
        (count, false)
    }

    /// Forgets what was not read.
    pub(crate) fn flush_input(&mut self) {
        self.input.clear();
        self.complete = 0;
        self.literal_next = false;
    }

    /// A byte arrived; echo goes to `out`.
    pub(crate) fn receive(&mut self, byte: u8, out: &mut VecDeque<u8>) -> Effect {
        let flags = self.termios.c_iflag;
        let input = |flag: u32| flags & flag != 0;
        let mut effect = Effect::default();
        let mut byte = byte;
        if input(abi::ISTRIP) {
            byte &= 0x7f;
        }
        if input(abi::IUCLC) && self.local(abi::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal_next) {
            self.begin_line();
            self.echo(byte, out);
            effect.readable = self.push(byte, Kind::Byte);
            return effect;
        }
        if input(abi::IXON) {
            if self.is(byte, abi::VSTART) {
                effect.started = core::mem::take(&mut self.stopped);
                return effect;
            }
            if self.is(byte, abi::VSTOP) {
                self.stopped = true;
                return effect;
            }
            if self.stopped && input(abi::IXANY) {
                self.stopped = false;
                effect.started = true;
            }
        }
        if self.local(abi::ISIG)
            && let Some(key) = self.key(byte)
        {
            self.signal(byte, out);
            effect.started |= core::mem::take(&mut self.stopped);
            effect.key = Some(key);
            return effect;
        }
        match byte {
            b'\r' if input(abi::IGNCR) => return effect,
            b'\r' if input(abi::ICRNL) => byte = b'\n',
            b'\n' if input(abi::INLCR) => byte = b'\r',
            _ => {}
        }
        effect.readable = if self.is_canonical() { self.edit(byte, out) } else { self.take_raw(byte, out) };
        effect
    }

    fn key(&self, byte: u8) -> Option<Key> {
        let keys = [(abi::VINTR, Key::Interrupt), (abi::VQUIT, Key::Quit), (abi::VSUSP, Key::Suspend)];
        keys.into_iter().find_map(|(index, key)| self.is(byte, index).then_some(key))
    }

    /// What a key that signals does to the queues.
    fn signal(&mut self, byte: u8, out: &mut VecDeque<u8>) {
        if !self.local(abi::NOFLSH) {
            self.flush_input();
            out.clear();
        }
        self.echo(byte, out);
    }

    fn take_raw(&mut self, byte: u8, out: &mut VecDeque<u8>) -> bool {
        if self.input.len() >= INPUT_MAX {
            return false;
        }
        self.echo(byte, out);
        self.push(byte, Kind::Byte)
    }

    /// A byte in canonical mode; true if it ended a line.
    fn edit(&mut self, byte: u8, out: &mut VecDeque<u8>) -> bool {
        let extended = self.local(abi::IEXTEN);
        if self.is(byte, abi::VERASE) {
            self.erase_character(byte, out);
        } else if self.is(byte, abi::VKILL) {
            self.kill(byte, out);
        } else if extended && self.is(byte, abi::VWERASE) {
            self.erase_word(out);
        } else if extended && self.is(byte, abi::VLNEXT) {
            self.literal_next = true;
            if self.local(abi::ECHO) && self.local(abi::ECHOCTL) {
                self.write(b"^\x08", out);
            }
        } else if extended && self.local(abi::ECHO) && self.is(byte, abi::VREPRINT) {
            self.reprint(byte, out);
        } else if byte == b'\n' {
            if self.local(abi::ECHO) || self.local(abi::ECHONL) {
                self.write(b"\n", out);
            }
            return self.push(byte, Kind::LineEnd);
        } else if self.is(byte, abi::VEOF) {
            return self.push(byte, Kind::EndOfFile);
        } else if self.is(byte, abi::VEOL) || (extended && self.is(byte, abi::VEOL2)) {
            self.echo(byte, out);
            return self.push(byte, Kind::LineEnd);
        } else if self.input.len() < INPUT_MAX {
            self.begin_line();
            self.echo(byte, out);
            self.push(byte, Kind::Byte);
        }
        false
    }

    /// Remembers where the line on the screen begins, before its first byte.
    fn begin_line(&mut self) {
        if self.input.len() == self.complete {
            self.line_column = self.column;
        }
    }

    /// True if there is more to read.
    fn push(&mut self, byte: u8, kind: Kind) -> bool {
        if self.input.len() >= INPUT_MAX + usize::from(kind != Kind::Byte) {
            return false;
        }
        self.input.push_back(Entry { byte, kind });
        if self.is_canonical() && kind != Kind::Byte {
            self.complete = self.input.len();
        }
        !self.is_canonical() || kind != Kind::Byte
    }

    fn typed(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        self.input.iter().skip(self.complete).map(|entry| entry.byte)
    }

    fn erase_character(&mut self, key: u8, out: &mut VecDeque<u8>) {
        let Some(byte) = self.erase_one() else { return };
        if self.local(abi::ECHO) && !self.local(abi::ECHOE) {
            self.echo(key, out);
        } else {
            self.rub_out(byte, out);
        }
    }

    fn erase_word(&mut self, out: &mut VecDeque<u8>) {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        for wanted in [false, true] {
            while self.typed().next_back().is_some_and(|byte| is_word(byte) == wanted)
                && let Some(byte) = self.erase_one()
            {
                self.rub_out(byte, out);
            }
        }
    }

    fn kill(&mut self, key: u8, out: &mut VecDeque<u8>) {
        if self.input.len() == self.complete {
            return;
        }
        let visibly = self.local(abi::ECHOK) && self.local(abi::ECHOKE) && self.local(abi::ECHOE);
        if self.local(abi::ECHO) && visibly {
            while let Some(byte) = self.erase_one() {
                self.rub_out(byte, out);
            }
            return;
        }
        self.input.truncate(self.complete);
        self.echo(key, out);
        if self.local(abi::ECHO) && self.local(abi::ECHOK) {
            self.write(b"\n", out);
        }
    }

    /// Takes the last character that was typed away, with all its bytes; returns the first of them.
    fn erase_one(&mut self) -> Option<u8> {
        let utf8 = self.termios.c_iflag & abi::IUTF8 != 0;
        let mut first = None;
        while self.input.len() > self.complete {
            first = self.input.pop_back().map(|entry| entry.byte);
            if !(utf8 && first.is_some_and(continues)) {
                break;
            }
        }
        first
    }

    /// Clears on the screen a character that is no longer typed.
    fn rub_out(&mut self, byte: u8, out: &mut VecDeque<u8>) {
        if !self.local(abi::ECHO) {
            return;
        }
        match byte {
            b'\t' => {
                // There is nothing to clear.
                for _ in self.end_of_typed()..self.column {
                    self.write(b"\x08", out);
                }
            }
            byte if is_control(byte) && self.local(abi::ECHOCTL) => {
                self.write(b"\x08 \x08\x08 \x08", out);
            }
            byte if is_control(byte) => {}
            _ => {
                self.write(b"\x08 \x08", out);
            }
        }
    }

    /// The column that the line which is being typed ends at.
    fn end_of_typed(&self) -> usize {
        let utf8 = self.termios.c_iflag & abi::IUTF8 != 0;
        self.typed().fold(self.line_column, |column, byte| match byte {
            b'\t' => (column / TAB + 1) * TAB,
            byte if is_control(byte) => column + if self.local(abi::ECHOCTL) { 2 } else { 0 },
            byte if utf8 && continues(byte) => column,
            _ => column + 1,
        })
    }

    fn reprint(&mut self, key: u8, out: &mut VecDeque<u8>) {
        self.echo(key, out);
        self.write(b"\n", out);
        self.line_column = self.column;
        for index in self.complete..self.input.len() {
            self.echo(self.input[index].byte, out);
        }
    }

    fn echo(&mut self, byte: u8, out: &mut VecDeque<u8>) {
        if !self.local(abi::ECHO) {
            return;
        }
        if self.local(abi::ECHOCTL) && is_control(byte) && byte != b'\t' && byte != b'\n' {
            self.write(&[b'^', byte ^ 0x40], out);
        } else {
            self.write(&[byte], out);
        }
    }

    /// Puts bytes into `out` as the settings say; how many were taken, which is less if `out` is full.
    pub(crate) fn write(&mut self, bytes: &[u8], out: &mut VecDeque<u8>) -> usize {
        let has = |flag: u32| self.termios.c_oflag & flag != 0;
        let room = |out: &VecDeque<u8>, count: usize| out.len() + count <= OUTPUT_MAX;
        for (done, &byte) in bytes.iter().enumerate() {
            let put: &[u8] = match byte {
                _ if !has(abi::OPOST) => &[byte],
                b'\n' if has(abi::ONLCR) => {
                    if !room(out, 2) {
                        return done;
                    }
                    self.column = 0;
                    b"\r\n"
                }
                b'\n' => {
                    if has(abi::ONLRET) && room(out, 1) {
                        self.column = 0;
                    }
                    b"\n"
                }
                b'\r' if has(abi::ONOCR) && self.column == 0 => b"",
                b'\r' if has(abi::OCRNL) => b"\n",
                b'\r' => {
                    if room(out, 1) {
                        self.column = 0;
                    }
                    b"\r"
                }
                b'\t' => {
                    let to = (self.column / TAB + 1) * TAB;
                    let spaces = to - self.column;
                    let expand = self.termios.c_oflag & abi::TABDLY == abi::XTABS;
                    let put = if expand { &b"        "[..spaces] } else { b"\t" };
                    if !room(out, put.len()) {
                        return done;
                    }
                    self.column = to;
                    put
                }
                0x08 => {
                    if room(out, 1) {
                        self.column = self.column.saturating_sub(1);
                    }
                    &[byte]
                }
                byte => {
                    let goes_on = self.termios.c_iflag & abi::IUTF8 != 0 && continues(byte);
                    if !is_control(byte) && !goes_on && room(out, 1) {
                        self.column += 1;
                    }
                    if has(abi::OLCUC) { &[byte.to_ascii_uppercase()] } else { &[byte] }
                }
            };
            if !room(out, put.len()) {
                return done;
            }
            out.extend(put);
        }
        bytes.len()
    }
}
