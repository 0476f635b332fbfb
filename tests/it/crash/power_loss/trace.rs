//! What a run asked of the kernel, in order: strace's output as values.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One system call.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    /// As strace prints them.
    pub arguments: Vec<String>,
    /// What it returned; -1 for a failure.
    pub result: i64,
}

/// A point in the trace: threads overlap, so a call has a begin and an end.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// The call with this number begins.
    Begin(usize),
    /// It has returned.
    End(usize),
}

/// All calls, and the order of their begins and ends.
#[derive(Debug, Default)]
pub struct Trace {
    pub calls: Vec<Call>,
    pub events: Vec<Event>,
}

/// The calls that can change a file, a directory or what is durable of it, and those that tell the
/// outside. A test for a call that is not known fails, so more than are used stand here.
const CALLS: &str = "openat,open,openat2,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,\
    splice,ftruncate,truncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,rename,renameat,renameat2,link,\
    linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,msync";

/// Options that make strace write what [`Trace::read`] understands to `output`.
pub fn strace_options(output: &Path) -> Vec<String> {
    let trace = format!("trace={CALLS}");
    ["-f", "-y", "-qq", "-s", "33554432", "-e", "signal=none", "-e", &trace, "-o", output.to_str().unwrap()]
        .map(str::to_owned)
        .to_vec()
}

impl Trace {
    pub fn read(output: &Path) -> Trace {
        let text = String::from_utf8_lossy(&std::fs::read(output).unwrap()).into_owned();
        let mut trace = Trace::default();
        // By thread: the number of the call that has not returned, and its text.
        let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
        for line in text.lines() {
            let (thread, line) = line.split_once(' ').unwrap();
            let line = line.trim_start();
            if let Some(begun) = line.strip_suffix(" <unfinished ...>") {
                let number = trace.begin();
                unfinished.insert(thread, (number, begun.to_owned()));
            } else if let Some(rest) = line.strip_prefix("<... ") {
                let (number, begun) = unfinished.remove(thread).unwrap();
                let (_, rest) = rest.split_once("resumed>").unwrap();
                trace.end(number, &(begun + rest));
            } else {
                let number = trace.begin();
                trace.end(number, line);
            }
        }
        assert!(trace.calls.len() > 100, "strace saw {} calls", trace.calls.len());
        trace
    }

    fn begin(&mut self) -> usize {
        let number = self.calls.len();
        self.calls.push(Call { name: String::new(), arguments: Vec::new(), result: -1 });
        self.events.push(Event::Begin(number));
        number
    }

    fn end(&mut self, number: usize, text: &str) {
        let call = Call::parse(text).unwrap_or_else(|| panic!("strace: {}", &text[..text.len().min(300)]));
        self.calls[number] = call;
        self.events.push(Event::End(number));
    }
}

impl Call {
    /// `name(argument, ...) = result`.
    fn parse(text: &str) -> Option<Call> {
        let (name, rest) = text.split_once('(')?;
        let (mut arguments, mut argument) = (Vec::new(), String::new());
        let (mut depth, mut quoted, mut escaped) = (0, false, false);
        for (position, character) in rest.char_indices() {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => {}
                '(' | '[' | '{' => depth += 1,
                ')' if depth == 0 => {
                    arguments.push(std::mem::take(&mut argument));
                    let (_, result) = rest[position..].split_once("= ")?;
                    let result = result.split([' ', '<']).next()?.parse().ok()?;
                    return Some(Call { name: name.to_owned(), arguments, result });
                }
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    arguments.push(std::mem::take(&mut argument));
                    continue;
                }
                _ => {}
            }
            argument.push(character);
        }
        None
    }

    fn argument(&self, number: usize) -> &str {
        self.arguments[number].trim()
    }

    /// An argument's flags or number.
    pub fn number(&self, number: usize) -> u64 {
        self.argument(number).parse().unwrap_or_else(|_| panic!("not a number: {self:?}"))
    }

    pub fn has_flag(&self, number: usize, flag: &str) -> bool {
        self.arguments.get(number).is_some_and(|flags| flags.trim().split('|').any(|each| each == flag))
    }

    /// The file behind a descriptor, `13</set/vda.data>`; none for one without a name.
    pub fn descriptor(&self, number: usize) -> Option<PathBuf> {
        let text = self.argument(number);
        let path = text.split_once('<')?.1.strip_suffix('>')?;
        path.starts_with('/').then(|| path.into())
    }

    /// A path; relative ones are below the descriptor in the argument before.
    pub fn path(&self, number: usize) -> PathBuf {
        let path = PathBuf::from(String::from_utf8(self.bytes(number)).unwrap());
        match number.checked_sub(1) {
            Some(before) if path.is_relative() => self.descriptor(before).unwrap().join(path),
            _ => path,
        }
    }

    /// The bytes of all slices, `[{iov_base="...", iov_len=3}, ...]`.
    pub fn slices(&self, number: usize) -> Vec<u8> {
        let text = self.argument(number);
        let (mut bytes, mut start, mut escaped) = (Vec::new(), None, false);
        for (position, character) in text.char_indices() {
            match (character, start) {
                _ if escaped => escaped = false,
                ('\\', Some(_)) => escaped = true,
                ('"', None) => start = Some(position + 1),
                ('"', Some(first)) => {
                    bytes.extend(unescaped(&text[first..position]));
                    start = None;
                    assert!(!text[position + 1..].starts_with("..."), "not a whole string: {}", self.name);
                }
                _ => {}
            }
        }
        bytes
    }

    /// A string's bytes.
    pub fn bytes(&self, number: usize) -> Vec<u8> {
        let text = self.argument(number);
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        unescaped(text.unwrap_or_else(|| panic!("not a whole string: {}", self.name)))
    }
}

/// What strace escaped.
fn unescaped(text: &str) -> Vec<u8> {
    let mut rest = text.bytes().peekable();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().unwrap() {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'v' => bytes.push(0x0b),
            b'f' => bytes.push(0x0c),
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|next| (b'0'..=b'7').contains(next)) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                }
                bytes.push(u8::try_from(value).unwrap());
            }
            other => bytes.push(other),
        }
    }
    bytes
}
