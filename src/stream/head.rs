//! The head of a stream alone: what a catalogue needs, without proving the rest.

use super::frame::{HEADER_LEN, Header, Kind, TERMINATOR};
use super::meta::{self, Meta};
use crate::error::{Error, Result};
use crate::stored::{OpenFile, StoredFile};

/// Reads the meta frame of the stream in `file`.
///
/// # Errors
/// [`Incomplete`](crate::error::Kind::Incomplete) for a file that ends before its meta does,
/// [`Corrupt`](crate::error::Kind::Corrupt) for anything that is not a stream.
pub fn read(file: impl Into<StoredFile>) -> Result<Meta> {
    let file = file.into();
    decode(&file.open()?).map_err(|error| error.path(file.path()))
}

fn decode(file: &OpenFile) -> Result<Meta> {
    let mut header = [0; HEADER_LEN];
    read_exact(file, &mut header, 0)?;
    let header = Header::decode(&header).map_err(|error| error.at(0))?;
    if header.kind != Kind::Meta || header.start != 0 {
        return Err(Error::corrupt("does not begin with a meta frame").at(0));
    }
    if header.length > meta::MAX_LEN {
        return Err(Error::corrupt(format!("meta of {} bytes", header.length)).at(0));
    }
    let mut json = vec![0; header.length as usize + TERMINATOR.len()];
    read_exact(file, &mut json, HEADER_LEN as u64)?;
    let json = json
        .strip_suffix(&TERMINATOR)
        .ok_or_else(|| Error::corrupt("meta has no end").at(HEADER_LEN as u64 + header.length))?;
    Meta::decode(json)
}

fn read_exact(file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::incomplete("ends inside its meta").at(offset),
        _ => Error::io("read", error).at(offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind as ErrorKind;

    #[test]
    fn bad_heads_are_told_apart() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for (content, kind) in [
            (&b""[..], ErrorKind::Incomplete),
            (b"meta 0000000000000000 0000000000000010\r\n{}", ErrorKind::Incomplete),
            (b"meta 0000000000000000 00ffffffffffffff\r\n{}\r\n", ErrorKind::Corrupt),
            (b"meta 0000000000000000 0000000000000002\r\n{}xx", ErrorKind::Corrupt),
            (b"QFI\xfb....................................................", ErrorKind::Corrupt),
        ] {
            std::fs::write(path.path(), content).unwrap();
            assert_eq!(read(path.path()).unwrap_err().kind(), kind, "{content:?}");
        }
    }
}
