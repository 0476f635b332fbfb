//! The conversation up to the transmission.

use std::io;
use std::time::{Duration, Instant};

use super::option::{Agreed, Next, Options, Tls};
use super::stream::Stream;
use super::wire::{self, Fields};

/// Longest data of an option that is looked at: two names and some queries.
const MAX_OPTION: u32 = 64 << 10;
/// Longest data that is read to refuse it; beyond, the connection ends.
const MAX_SKIPPED: u32 = 1 << 20;
/// Options before the transmission.
const MAX_OPTIONS: usize = 256;

/// Time for one handshake, however the client spreads its bytes.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How a handshake ended.
pub enum Outcome<'e> {
    /// To be served.
    Agreed(Agreed<'e>),
    /// The client goes on with TLS; what it says next is asked through [`resume`].
    StartTls,
    /// The client is done.
    Closed,
}

/// Greets a client and answers its options.
///
/// # Errors
/// Of the connection, and [`io::ErrorKind::InvalidData`] for what is no NBD client.
pub fn begin<'e>(stream: &dyn Stream, options: &mut Options<'e>, deadline: Instant) -> io::Result<Outcome<'e>> {
    let mut greeting = Vec::from(wire::SERVER_MAGIC.to_be_bytes());
    greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
    let flags = wire::FIXED_NEWSTYLE | wire::NO_ZEROES;
    greeting.extend(flags.to_be_bytes());
    Timed { stream, deadline }.send(&greeting)?;
    let mut client = [0; 4];
    Timed { stream, deadline }.fill(&mut client)?;
    let client = u32::from_be_bytes(client);
    if client & !u32::from(flags) != 0 {
        return Err(invalid("unknown flags of the client"));
    }
    options.no_zeroes = client & u32::from(wire::NO_ZEROES) != 0;
    resume(stream, options, deadline)
}

/// Answers options until the handshake ends.
///
/// # Errors
/// As for [`begin`].
pub fn resume<'e>(stream: &dyn Stream, options: &mut Options<'e>, deadline: Instant) -> io::Result<Outcome<'e>> {
    let timed = Timed { stream, deadline };
    for _ in 0..MAX_OPTIONS {
        let mut header = [0; 16];
        timed.fill(&mut header)?;
        let mut fields = Fields(&header);
        let (Some(magic), Some(option), Some(length)) = (fields.u64(), fields.u32(), fields.u32()) else {
            return Err(invalid("no option"));
        };
        if magic != wire::OPTION_MAGIC {
            return Err(invalid("no option"));
        }
        let mut answer = Vec::new();
        if length > MAX_OPTION {
            if length > MAX_SKIPPED {
                return Err(invalid("an option of impossible length"));
            }
            timed.skip(length)?;
            Options::too_big(option, &mut answer);
            timed.send(&answer)?;
            continue;
        }
        // At most 64 KiB.
        let mut data = vec![0; length as usize];
        timed.fill(&mut data)?;
        let next = options.answer(option, &data, &mut answer);
        match timed.send(&answer) {
            // Clients that abort need not wait for the answer.
            Err(_) if matches!(next, Next::Close) => {}
            result => result?,
        }
        match next {
            Next::Option => {}
            Next::StartTls => {
                options.tls = Tls::Active;
                return Ok(Outcome::StartTls);
            }
            Next::Transmission(agreed) => {
                stream.set_limit(None)?;
                return Ok(Outcome::Agreed(agreed));
            }
            Next::Close => return Ok(Outcome::Closed),
        }
    }
    Err(invalid("too many options"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A stream whose calls all end by one moment.
struct Timed<'s> {
    stream: &'s dyn Stream,
    deadline: Instant,
}

impl Timed<'_> {
    fn limit(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_limit(Some(left))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.limit()?;
        self.stream.send(bytes)
    }

    fn fill(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            self.limit()?;
            match self.stream.receive(buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    fn skip(&self, length: u32) -> io::Result<()> {
        let mut part = [0; 4096];
        let mut left = length as usize;
        while left > 0 {
            let len = left.min(part.len());
            self.fill(&mut part[..len])?;
            left -= len;
        }
        Ok(())
    }
}
