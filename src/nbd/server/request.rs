//! Requests of the transmission: what their bytes say, and whether an export allows it. No I/O.

use std::ops::Range;

use super::export::MAX_PAYLOAD;
use super::wire::{self, Fields, command_flag as cmd, errno};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

/// A request as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The client's word for it, sent back in the reply.
    pub cookie: u64,
    flags: u16,
    command: u16,
    offset: u64,
    length: u32,
}

/// What the client may ask for, by what was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of the export.
    pub size: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether structured replies were agreed on.
    pub structured: bool,
    /// Whether `base:allocation` was.
    pub status: bool,
}

/// What is to be done. Ranges are within the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send content; `whole`: in one chunk.
    Read {
        /// What.
        range: Range<u64>,
        /// In one chunk.
        whole: bool,
    },
    /// Take content, which follows on the wire.
    Write {
        /// Where.
        range: Range<u64>,
        /// Durable before the reply.
        durable: bool,
    },
    /// Make zero, or forget.
    Zero {
        /// What.
        range: Range<u64>,
        /// Durable before the reply.
        durable: bool,
    },
    /// Make durable what was written.
    Flush,
    /// Read ahead.
    Cache(Range<u64>),
    /// Tell the extents; `one`: the first only.
    Status {
        /// Of what.
        range: Range<u64>,
        /// Only the first.
        one: bool,
    },
    /// Nothing more will come.
    Disconnect,
}

impl Request {
    /// The request in `bytes`; `None` if it is none: the connection is of no use any more.
    pub fn decode(bytes: &[u8; wire::REQUEST_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u32()? != wire::REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }

    /// Bytes that follow the request, allowed or not.
    pub fn payload(&self) -> u32 {
        if self.command == WRITE { self.length } else { 0 }
    }

    /// Whether it is one whose reply must be structured where that was agreed on.
    pub fn is_read(&self) -> bool {
        self.command == READ
    }

    /// What is to be done, or the error to answer with.
    ///
    /// # Errors
    /// The number of the protocol's error.
    pub fn check(&self, rules: &Rules) -> Result<Action, u32> {
        let range = || -> Result<Range<u64>, u32> {
            let end = self.offset.checked_add(u64::from(self.length)).filter(|&end| end <= rules.size);
            let beyond =
                if self.command == WRITE || self.command == WRITE_ZEROES { errno::ENOSPC } else { errno::EINVAL };
            Ok(self.offset..end.ok_or(beyond)?)
        };
        let allow = |flags: u16| if self.flags & !flags == 0 { Ok(()) } else { Err(errno::EINVAL) };
        // A server that knows FUA must bear it with every command.
        let fua = if rules.writable { cmd::FUA } else { 0 };
        let writes = || if rules.writable { Ok(()) } else { Err(errno::EPERM) };
        let durable = self.flags & cmd::FUA != 0;
        match self.command {
            READ => {
                allow(fua | if rules.structured { cmd::DF } else { 0 })?;
                if self.length > MAX_PAYLOAD {
                    return Err(errno::EINVAL);
                }
                Ok(Action::Read { range: range()?, whole: self.flags & cmd::DF != 0 })
            }
            WRITE => {
                writes()?;
                allow(fua)?;
                if self.length > MAX_PAYLOAD {
                    return Err(errno::EINVAL);
                }
                Ok(Action::Write { range: range()?, durable })
            }
            TRIM => {
                writes()?;
                allow(fua)?;
                Ok(Action::Zero { range: range()?, durable })
            }
            WRITE_ZEROES => {
                writes()?;
                allow(fua | cmd::NO_HOLE | cmd::FAST_ZERO)?;
                Ok(Action::Zero { range: range()?, durable })
            }
            FLUSH => {
                allow(fua)?;
                if self.offset != 0 || self.length != 0 {
                    return Err(errno::EINVAL);
                }
                Ok(Action::Flush)
            }
            CACHE => {
                allow(fua)?;
                Ok(Action::Cache(range()?))
            }
            BLOCK_STATUS => {
                allow(fua | cmd::REQ_ONE)?;
                if !rules.status || self.length == 0 {
                    return Err(errno::EINVAL);
                }
                Ok(Action::Status { range: range()?, one: self.flags & cmd::REQ_ONE != 0 })
            }
            DISCONNECT => Ok(Action::Disconnect),
            _ => Err(errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(flags: u16, command: u16, offset: u64, length: u32) -> Request {
        let mut bytes = Vec::from(wire::REQUEST_MAGIC.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        Request::decode(bytes.as_slice().try_into().unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_allowed_has_its_error() {
        let reader = Rules { size: 1000, writable: false, structured: true, status: false };
        let simple = Rules { structured: false, ..reader };
        let writer = Rules { writable: true, status: true, ..reader };
        for (rules, flags, command, offset, length, error) in [
            (reader, 0, READ, 1, 1000, errno::EINVAL),
            (reader, 0, READ, u64::MAX, 1, errno::EINVAL),
            (reader, cmd::FUA, READ, 0, 1, errno::EINVAL),
            (simple, cmd::DF, READ, 0, 1, errno::EINVAL),
            (reader, 0, WRITE, 0, 1, errno::EPERM),
            (reader, 0, TRIM, 0, 1, errno::EPERM),
            (reader, 0, WRITE_ZEROES, 0, 1, errno::EPERM),
            (reader, 0, BLOCK_STATUS, 0, 1, errno::EINVAL),
            (reader, 0, 8, 0, 0, errno::EINVAL),
            (reader, 0, u16::MAX, 0, 0, errno::EINVAL),
            (reader, 0, FLUSH, 0, 1, errno::EINVAL),
            (writer, 0, WRITE, 999, 2, errno::ENOSPC),
            (writer, 0, WRITE_ZEROES, 999, 2, errno::ENOSPC),
            (writer, 0, TRIM, 999, 2, errno::EINVAL),
            (writer, 0, BLOCK_STATUS, 0, 0, errno::EINVAL),
            (writer, 1 << 5, WRITE, 0, 1, errno::EINVAL),
            (writer, cmd::NO_HOLE, WRITE, 0, 1, errno::EINVAL),
            (Rules { size: 1 << 40, ..writer }, 0, READ, 0, MAX_PAYLOAD + 1, errno::EINVAL),
            (Rules { size: 1 << 40, ..writer }, 0, WRITE, 0, MAX_PAYLOAD + 1, errno::EINVAL),
        ] {
            let request = request(flags, command, offset, length);
            assert_eq!(request.check(&rules), Err(error), "{request:?}");
        }
        assert_eq!(request(cmd::DF, READ, 0, 1000).check(&reader), Ok(Action::Read { range: 0..1000, whole: true }));
        assert_eq!(request(0, READ, 1000, 0).check(&reader), Ok(Action::Read { range: 1000..1000, whole: false }));
        let status = Action::Status { range: 1..10, one: true };
        assert_eq!(request(cmd::FUA | cmd::REQ_ONE, BLOCK_STATUS, 1, 9).check(&writer), Ok(status));
        let zero = Action::Zero { range: 0..1000, durable: true };
        assert_eq!(request(cmd::FUA | cmd::NO_HOLE, WRITE_ZEROES, 0, 1000).check(&writer), Ok(zero));
        assert_eq!(Request::decode(&[0; wire::REQUEST_LEN]), None);
    }
}
