//! A zip file written front to back, to a pipe for example: members are stored as they are, one after
//! another. What is only known behind a long member (its size, its sum) follows it in a data descriptor.
//!
//! ```text
//! local header, name │ content, CRC, sizes │ … │ table │ end (ZIP64 where numbers need it)
//! ```
//!
//! Format: PKWARE's APPNOTE.TXT 6.3.10. Own code, as the crates of the registry either need a newer compiler
//! or announce 32-bit descriptors before they know the size: a reader of the pipe could not go on behind
//! 4 GiB.

use std::io::Write;

use crate::error::{Error, Result};

/// From here on a number needs ZIP64.
const LIMIT: u64 = 0xffff_ffff;
/// The same for the number of members.
const LIMIT_16: u64 = 0xffff;

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;

/// The size stands behind the content.
const FOLLOWS: u16 = 1 << 3;
/// Names are UTF-8.
const UTF_8: u16 = 1 << 11;
/// ZIP64 is 4.5 of the format; plain files are 2.0.
const VERSION_64: u16 = 45;
const VERSION: u16 = 20;
/// Attributes are those of Unix.
const UNIX: u16 = 3 << 8;
const REGULAR: u32 = 0o100_000;

/// A member as the table at the end lists it.
#[derive(Debug)]
struct Member {
    name: String,
    flags: u16,
    header: u64,
    length: u64,
    crc32: u32,
}

/// Writes a zip file; [`Write`] goes into the member that was begun.
#[derive(Debug)]
pub struct ZipWriter<W> {
    out: W,
    position: u64,
    /// MS-DOS time of all members, in local time as is usual.
    time: u32,
    mode: u32,
    members: Vec<Member>,
    current: Option<(Member, crc32fast::Hasher)>,
}

impl<W: Write> ZipWriter<W> {
    /// A zip file into `out`, whose members bear the local time `written` and the permissions `mode`.
    pub fn new(out: W, written: &jiff::civil::DateTime, mode: u32) -> Self {
        Self { out, position: 0, time: dos_time(written), mode, members: Vec::new(), current: None }
    }

    /// The output.
    pub fn output(&mut self) -> &mut W {
        &mut self.out
    }

    /// Begins a member of any length.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io); [`Usage`](crate::error::Kind::Usage) for a name that can't be written.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        let member = self.member(name, FOLLOWS)?;
        let mut header = local_header(&member, VERSION_64, self.time, 20);
        // Sizes in ZIP64's field: it announces that those of the descriptor have 64 bits.
        for number in [1_u16, 16] {
            header.extend(number.to_le_bytes());
        }
        header.extend([0; 16]);
        self.put(&header)?;
        self.current = Some((member, crc32fast::Hasher::new()));
        Ok(())
    }

    /// Ends the member that was begun.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io).
    pub fn end(&mut self) -> Result<()> {
        let Some((mut member, hasher)) = self.current.take() else { return Ok(()) };
        member.crc32 = hasher.finalize();
        let mut descriptor = Vec::with_capacity(24);
        descriptor.extend(DESCRIPTOR.to_le_bytes());
        descriptor.extend(member.crc32.to_le_bytes());
        descriptor.extend(member.length.to_le_bytes());
        descriptor.extend(member.length.to_le_bytes());
        self.put(&descriptor)?;
        self.members.push(member);
        Ok(())
    }

    /// Writes a whole member, of less than 4 GiB.
    ///
    /// # Errors
    /// As for [`ZipWriter::begin`].
    pub fn store(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut member = self.member(name, 0)?;
        member.length = content.len() as u64;
        member.crc32 = crc32fast::hash(content);
        if member.length >= LIMIT {
            return Err(Error::usage(format!("{name:?} is too long to be written at once")));
        }
        self.put(&local_header(&member, VERSION, self.time, 0))?;
        self.put(content)?;
        self.members.push(member);
        Ok(())
    }

    /// Writes the table and returns the output, flushed.
    ///
    /// # Errors
    /// [`Io`](crate::error::Kind::Io).
    pub fn finish(mut self) -> Result<W> {
        self.end()?;
        let start = self.position;
        for member in std::mem::take(&mut self.members) {
            self.put(&central_header(&member, self.time, self.mode))?;
            self.members.push(member);
        }
        let end = end_records(self.members.len() as u64, start, self.position - start);
        self.put(&end)?;
        self.out.flush().map_err(|error| Error::io("write", error))?;
        Ok(self.out)
    }

    fn member(&mut self, name: &str, flags: u16) -> Result<Member> {
        self.end()?;
        if name.is_empty() || u16::try_from(name.len()).is_err() || self.members.iter().any(|other| other.name == name)
        {
            return Err(Error::usage(format!("{name:?} can't be a member's name, or is one already")));
        }
        let flags = if name.is_ascii() { flags } else { flags | UTF_8 };
        Ok(Member { name: name.to_owned(), flags, header: self.position, length: 0, crc32: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Error::io("write", error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl<W: Write> Write for ZipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some((member, hasher)) = &mut self.current else {
            return Err(std::io::Error::other("no member of the zip file was begun"));
        };
        let written = self.out.write(bytes)?;
        hasher.update(&bytes[..written]);
        member.length += written as u64;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// A local header with the name; `extra` bytes of further fields follow it.
fn local_header(member: &Member, version: u16, time: u32, extra: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + member.name.len());
    bytes.extend(LOCAL.to_le_bytes());
    bytes.extend(version.to_le_bytes());
    bytes.extend(member.flags.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(time.to_le_bytes());
    bytes.extend(member.crc32.to_le_bytes());
    let size = if member.flags & FOLLOWS != 0 { LIMIT } else { member.length };
    bytes.extend(low(size).to_le_bytes());
    bytes.extend(low(size).to_le_bytes());
    bytes.extend((member.name.len() as u16).to_le_bytes());
    bytes.extend(extra.to_le_bytes());
    bytes.extend(member.name.as_bytes());
    bytes
}

/// A member's entry in the table.
fn central_header(member: &Member, time: u32, mode: u32) -> Vec<u8> {
    let mut extra = Vec::new();
    // In this order, and only what does not fit.
    let wide: Vec<u64> =
        [member.length, member.length, member.header].into_iter().filter(|number| *number >= LIMIT).collect();
    if !wide.is_empty() {
        extra.extend(1_u16.to_le_bytes());
        extra.extend((wide.len() as u16 * 8).to_le_bytes());
        wide.iter().for_each(|number| extra.extend(number.to_le_bytes()));
    }
    let version = if extra.is_empty() && member.flags & FOLLOWS == 0 { VERSION } else { VERSION_64 };
    let mut bytes = Vec::with_capacity(64 + member.name.len());
    bytes.extend(CENTRAL.to_le_bytes());
    bytes.extend((UNIX | version).to_le_bytes());
    bytes.extend(version.to_le_bytes());
    bytes.extend(member.flags.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(time.to_le_bytes());
    bytes.extend(member.crc32.to_le_bytes());
    bytes.extend(low(member.length).to_le_bytes());
    bytes.extend(low(member.length).to_le_bytes());
    bytes.extend((member.name.len() as u16).to_le_bytes());
    bytes.extend((extra.len() as u16).to_le_bytes());
    // No comment, the first disk, no text.
    bytes.extend([0; 6]);
    bytes.extend(((REGULAR | mode) << 16).to_le_bytes());
    bytes.extend(low(member.header).to_le_bytes());
    bytes.extend(member.name.as_bytes());
    bytes.extend(extra);
    bytes
}

/// What ends the file: `count` members, whose table has `length` bytes from `start` on.
fn end_records(count: u64, start: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(98);
    if count >= LIMIT_16 || start >= LIMIT || length >= LIMIT {
        bytes.extend(END_64.to_le_bytes());
        // Of what follows.
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend((UNIX | VERSION_64).to_le_bytes());
        bytes.extend(VERSION_64.to_le_bytes());
        bytes.extend([0; 8]);
        for number in [count, count, length, start] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(LOCATOR_64.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((start + length).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    let count = count.min(LIMIT_16) as u16;
    bytes.extend(END.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(low(length).to_le_bytes());
    bytes.extend(low(start).to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// A number where 32 bits are: all ones mean that ZIP64 has it.
fn low(number: u64) -> u32 {
    number.min(LIMIT) as u32
}

/// Date and time as MS-DOS has them: from 1980 to 2107, in steps of two seconds.
fn dos_time(time: &jiff::civil::DateTime) -> u32 {
    let year = u32::try_from(time.year()).unwrap_or(0).clamp(1980, 2107) - 1980;
    let part = |number: i8| u32::from(number.unsigned_abs());
    let date = (year << 9) | (part(time.month()) << 5) | part(time.day());
    (date << 16) | (part(time.hour()) << 11) | (part(time.minute()) << 5) | (part(time.second()) / 2)
}

#[cfg(test)]
#[path = "zip_tests.rs"]
mod tests;
