//! The threads of one connection. One at a time receives a request; it answers itself what takes no
//! work, else another thread goes on receiving. What is done first is answered first.
//!
//! A thread holds one buffer of [`PIECE`]: a client that stops reading holds as many as it has threads.

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::export::Export;
use super::gate::{Gate, Turn};
use super::option::ALLOCATION_ID;
use super::request::{Action, Request, Rules};
use super::stream::Stream;
use super::wire::{self, CHUNK_LEN, SIMPLE_REPLY_LEN, chunk, errno};
use crate::error::{self, Error};
use crate::extent::Kind;

/// Bytes that one thread reads or writes at a time.
const PIECE: usize = 256 << 10;
/// Requests of one connection that are worked on at a time.
const MAX_THREADS: usize = 8;
/// Threads beyond the first of each connection, of all connections.
const MAX_HELPERS: usize = 128;
/// Extents of one reply: half a megabyte.
const MAX_EXTENTS: usize = 65536;
/// Shortest run of zeroes sent as such: shorter ones cost more to look for than to send.
const MIN_HOLE: u64 = 32 << 10;
/// Room before the data of a reply for its header.
const HEAD: usize = CHUNK_LEN + 8;

static HELPERS: AtomicUsize = AtomicUsize::new(0);

/// One client in transmission.
pub(super) struct Transmission {
    stream: Arc<dyn Stream>,
    export: Arc<dyn Export>,
    rules: Rules,
    gate: Arc<Gate>,
    client: u64,
    input: Mutex<Input>,
    output: Mutex<()>,
    /// Threads that receive or want to.
    idle: AtomicUsize,
    threads: AtomicUsize,
    /// Nothing can be sent any more.
    broken: AtomicBool,
}

/// One of [`MAX_HELPERS`], until it is dropped.
struct Helper(());

impl Helper {
    fn new() -> Self {
        HELPERS.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        HELPERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What was received and not looked at yet.
struct Input {
    buffer: Vec<u8>,
    ready: Range<usize>,
    closed: bool,
}

impl Transmission {
    pub(super) fn new(
        stream: Arc<dyn Stream>,
        export: Arc<dyn Export>,
        rules: Rules,
        gate: Arc<Gate>,
        client: u64,
    ) -> Self {
        Self {
            stream,
            export,
            rules,
            gate,
            client,
            input: Mutex::new(Input { buffer: vec![0; 16 << 10], ready: 0..0, closed: false }),
            output: Mutex::new(()),
            idle: AtomicUsize::new(0),
            threads: AtomicUsize::new(1),
            broken: AtomicBool::new(false),
        }
    }

    /// Serves until the client is done or gone, and all that it asked for before is answered.
    pub(super) fn run(self) {
        std::thread::scope(|scope| self.serve(scope));
        self.stream.shutdown(Shutdown::Both);
    }

    fn serve<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>) {
        let mut buffer = vec![0; HEAD + PIECE];
        loop {
            self.idle.fetch_add(1, Ordering::SeqCst);
            let received = self.receive(&mut buffer);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            let Some(job) = received else { return };
            if self.answer_at_once(&job, &mut buffer) {
                continue;
            }
            self.get_help(scope);
            if self.answer(&job, &mut buffer).is_err() {
                self.give_up();
                return;
            }
        }
    }

    /// Starts another thread if nobody receives while this one works.
    fn get_help<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>) {
        let may = self.idle.load(Ordering::SeqCst) == 0
            && self.threads.load(Ordering::SeqCst) < MAX_THREADS
            && HELPERS.load(Ordering::SeqCst) < MAX_HELPERS;
        if !may {
            return;
        }
        self.threads.fetch_add(1, Ordering::SeqCst);
        let helper = Helper::new();
        let work = move || {
            let _counted = helper;
            self.serve(scope);
        };
        // Without it the connection is served by those there are.
        if std::thread::Builder::new().name("nbd".to_owned()).spawn_scoped(scope, work).is_err() {
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The connection is of no use: all threads end.
    fn give_up(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.stream.shutdown(Shutdown::Both);
    }

    /// The next request; what it writes is in `buffer` or, if there is more, done already.
    fn receive(&self, buffer: &mut [u8]) -> Option<Job> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if input.closed || self.broken.load(Ordering::SeqCst) {
            return None;
        }
        let job = self.receive_locked(&mut input, buffer);
        input.closed |= !matches!(job, Ok(Some(_)));
        match job {
            Ok(job) => job,
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::debug!("client {}: {error}", self.client);
                }
                self.give_up();
                None
            }
        }
    }

    fn receive_locked(&self, input: &mut Input, buffer: &mut [u8]) -> io::Result<Option<Job>> {
        let mut header = [0; wire::REQUEST_LEN];
        if !input.fill(&*self.stream, &mut header)? {
            return Ok(None);
        }
        let request = Request::decode(&header)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what came is no request"))?;
        let todo = request.check(&self.rules);
        if matches!(todo, Ok(Action::Disconnect)) {
            return Ok(None);
        }
        let payload = request.payload() as usize;
        let mut job = Job { request, todo };
        if payload > PIECE || payload > 0 && job.todo.is_err() {
            // Too much for one buffer: written while it comes.
            let mut done = Ok(());
            let mut offset = match &job.todo {
                Ok(Action::Write { range, .. }) => Some(range.start),
                _ => None,
            };
            let mut left = payload;
            while left > 0 {
                let part = &mut buffer[..left.min(PIECE)];
                if !input.fill(&*self.stream, part)? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let (Some(place), Ok(())) = (offset, &done) {
                    done = self.export.write(part, place, &self.turn()).map_err(|error| number(&error));
                }
                offset = offset.map(|offset| offset + part.len() as u64);
                left -= part.len();
            }
            if let (Ok(Action::Write { durable, .. }), Ok(())) = (&job.todo, &done) {
                // What is left is to make it durable, or to say that it is done.
                job.todo = Ok(if *durable { Action::Flush } else { Action::Cache(0..0) });
            } else if let Err(error) = done {
                job.todo = Err(error);
            }
        } else if payload > 0 && !input.fill(&*self.stream, &mut buffer[..payload])? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(job))
    }

    fn turn(&self) -> Turn<'_> {
        Turn::new(&self.gate, self.client)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _alone = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.stream.send(bytes)
    }

    /// Answers a short read of what is at hand; false: it takes work, or can't be done.
    fn answer_at_once(&self, job: &Job, buffer: &mut [u8]) -> bool {
        let Ok(Action::Read { range, whole }) = &job.todo else { return false };
        let length = (range.end - range.start) as usize;
        if length == 0 || length > PIECE || !*whole && self.rules.structured && self.zeroes(range) > 0 {
            return false;
        }
        match self.export.read(&mut buffer[HEAD..HEAD + length], range.start, None) {
            Ok(true) => {
                // An error shows when the next request is received.
                if self.send_piece(job.request.cookie, range.start, length, true, buffer).is_err() {
                    self.give_up();
                }
                true
            }
            _ => false,
        }
    }

    fn answer(&self, job: &Job, buffer: &mut [u8]) -> io::Result<()> {
        let cookie = job.request.cookie;
        let todo = match &job.todo {
            Ok(todo) => todo,
            Err(error) => return self.send_error(&job.request, *error),
        };
        let done = match todo {
            Action::Read { range, whole } => return self.read(&job.request, range.clone(), *whole, buffer),
            Action::Status { range, one } => return self.status(cookie, range.clone(), *one),
            Action::Write { range, durable } => {
                let data = &buffer[..(range.end - range.start) as usize];
                let written = self.export.write(data, range.start, &self.turn());
                written.and_then(|()| if *durable { self.export.flush() } else { Ok(()) })
            }
            Action::Zero { range, durable } => {
                let zeroed = self.export.write_zeroes(range.clone(), &self.turn());
                zeroed.and_then(|()| if *durable { self.export.flush() } else { Ok(()) })
            }
            Action::Flush => self.export.flush(),
            Action::Cache(range) => self.cache(range.clone(), buffer),
            Action::Disconnect => Ok(()),
        };
        match done {
            Ok(()) if self.rules.structured => self.send(&wire::chunk_header(cookie, chunk::NONE, true, 0)),
            Ok(()) => self.send(&wire::simple_reply(cookie, 0)),
            Err(error) => self.send_error(&job.request, number(&error)),
        }
    }

    /// Zeroes at the start of `range`.
    fn zeroes(&self, range: &Range<u64>) -> u64 {
        if range.end - range.start < MIN_HOLE {
            return 0;
        }
        match self.export.extents(range.clone(), 1).first() {
            Some(first) if first.kind() == Kind::Zero && first.length() >= MIN_HOLE => first.length(),
            _ => 0,
        }
    }

    /// Sends content piece by piece, zeroes as holes where the client takes them.
    fn read(&self, request: &Request, range: Range<u64>, whole: bool, buffer: &mut [u8]) -> io::Result<()> {
        let length = range.end - range.start;
        let cookie = request.cookie;
        if length == 0 {
            return match self.rules.structured {
                true => self.send(&wire::chunk_header(cookie, chunk::NONE, true, 0)),
                false => self.send(&wire::simple_reply(cookie, 0)),
            };
        }
        let holes = self.rules.structured && !whole;
        if !holes && length > PIECE as u64 {
            return self.read_whole(request, range, buffer);
        }
        let mut offset = range.start;
        while offset < range.end {
            let zeroes = if holes { self.zeroes(&(offset..range.end)) } else { 0 };
            if zeroes > 0 {
                let mut reply =
                    wire::chunk_header(cookie, chunk::OFFSET_HOLE, offset + zeroes == range.end, 12).to_vec();
                reply.extend(offset.to_be_bytes());
                // Within the request, whose length has 32 bits.
                reply.extend((zeroes as u32).to_be_bytes());
                self.send(&reply)?;
                offset += zeroes;
                continue;
            }
            let len = (range.end - offset).min(PIECE as u64) as usize;
            match self.export.read(&mut buffer[HEAD..HEAD + len], offset, Some(&self.turn())) {
                Ok(_) => self.send_piece(cookie, offset, len, offset + len as u64 == range.end, buffer)?,
                Err(error) => return self.send_error(request, number(&error)),
            }
            offset += len as u64;
        }
        Ok(())
    }

    /// Sends content that must come in one piece and is too long for a buffer: looked at first, for
    /// behind the header there is no way to say that it failed.
    fn read_whole(&self, request: &Request, range: Range<u64>, buffer: &mut [u8]) -> io::Result<()> {
        if let Err(error) = self.cache(range.clone(), buffer) {
            return self.send_error(request, number(&error));
        }
        let cookie = request.cookie;
        let length = (range.end - range.start) as u32;
        let _alone = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rules.structured {
            let mut head = wire::chunk_header(cookie, chunk::OFFSET_DATA, true, length + 8).to_vec();
            head.extend(range.start.to_be_bytes());
            self.stream.send(&head)?;
        } else {
            self.stream.send(&wire::simple_reply(cookie, 0))?;
        }
        let mut offset = range.start;
        while offset < range.end {
            let part = &mut buffer[..(range.end - offset).min(PIECE as u64) as usize];
            self.export.read(part, offset, Some(&self.turn())).map_err(|error| io::Error::other(error.to_string()))?;
            self.stream.send(part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Sends what stands behind [`HEAD`] in `buffer`.
    fn send_piece(&self, cookie: u64, offset: u64, len: usize, last: bool, buffer: &mut [u8]) -> io::Result<()> {
        let start = if self.rules.structured {
            let header = wire::chunk_header(cookie, chunk::OFFSET_DATA, last, len as u32 + 8);
            buffer[..CHUNK_LEN].copy_from_slice(&header);
            buffer[CHUNK_LEN..HEAD].copy_from_slice(&offset.to_be_bytes());
            0
        } else {
            let start = HEAD - SIMPLE_REPLY_LEN;
            buffer[start..HEAD].copy_from_slice(&wire::simple_reply(cookie, 0));
            start
        };
        self.send(&buffer[start..HEAD + len])
    }

    /// Reads `range` for its effect on caches, and to know that it can be read.
    fn cache(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<(), Error> {
        let mut offset = range.start;
        while offset < range.end && !self.broken.load(Ordering::SeqCst) {
            let part = &mut buffer[..(range.end - offset).min(PIECE as u64) as usize];
            self.export.read(part, offset, Some(&self.turn()))?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn status(&self, cookie: u64, range: Range<u64>, one: bool) -> io::Result<()> {
        let extents = self.export.extents(range, if one { 1 } else { MAX_EXTENTS });
        let mut reply = wire::chunk_header(cookie, chunk::BLOCK_STATUS, true, 4 + 8 * extents.len() as u32).to_vec();
        reply.extend(ALLOCATION_ID.to_be_bytes());
        for extent in extents {
            reply.extend((extent.length() as u32).to_be_bytes());
            // Hole and zero: the export gives no space to it.
            reply.extend((if extent.kind() == Kind::Zero { 3u32 } else { 0 }).to_be_bytes());
        }
        self.send(&reply)
    }

    fn send_error(&self, request: &Request, error: u32) -> io::Result<()> {
        let cookie = request.cookie;
        if !self.rules.structured {
            return self.send(&wire::simple_reply(cookie, error));
        }
        let message = match error {
            errno::EPERM => "the export is read-only",
            errno::EIO => "the content can't be read or is damaged; the server's messages say where",
            errno::ENOSPC => "no space, or beyond the end of the disk",
            _ => "",
        };
        self.send(&wire::error_chunk(cookie, error, message))
    }
}

/// A request that was received.
struct Job {
    request: Request,
    todo: Result<Action, u32>,
}

impl Input {
    /// Fills `target`; false if the client is gone before its first byte.
    fn fill(&mut self, stream: &dyn Stream, mut target: &mut [u8]) -> io::Result<bool> {
        let mut begun = false;
        while !target.is_empty() {
            if self.ready.is_empty() {
                // Long payloads go where they belong at once.
                let direct = target.len() >= self.buffer.len();
                let place = if direct { &mut *target } else { &mut self.buffer[..] };
                let read = match stream.receive(place)? {
                    0 if !begun => return Ok(false),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                };
                begun = true;
                if direct {
                    target = &mut target[read..];
                    continue;
                }
                self.ready = 0..read;
            }
            let len = self.ready.len().min(target.len());
            let (now, rest) = target.split_at_mut(len);
            now.copy_from_slice(&self.buffer[self.ready.start..self.ready.start + len]);
            self.ready.start += len;
            target = rest;
            begun = true;
        }
        Ok(true)
    }
}

/// The protocol's number for an error, which is logged here.
fn number(error: &Error) -> u32 {
    tracing::debug!("a request failed: {}", error::report(error));
    match error.kind() {
        error::Kind::Unsupported => errno::ENOTSUP,
        error::Kind::Cancelled => errno::ESHUTDOWN,
        _ if error.is_full() => errno::ENOSPC,
        _ => errno::EIO,
    }
}
