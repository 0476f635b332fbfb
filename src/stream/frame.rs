//! The header of a frame: 40 bytes of text, `KIND SP START SP LENGTH CR LF`.

use crate::error::{Error, Result};

/// Bytes of every frame header.
pub const HEADER_LEN: usize = 40;

/// Ends every payload.
pub const TERMINATOR: [u8; 2] = *b"\r\n";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First frame; JSON follows.
    Meta,
    /// Guest data follows, plain or compressed.
    Data,
    /// A range that reads as zeroes; nothing follows.
    Zero,
    /// Ends the guest data.
    Stop,
    /// Follows the list of stored sizes; last frame of a compressed stream.
    Comp,
    /// Follows the index.
    Indx,
}

impl Kind {
    const ALL: [(Self, [u8; 4]); 6] = [
        (Self::Meta, *b"meta"),
        (Self::Data, *b"data"),
        (Self::Zero, *b"zero"),
        (Self::Stop, *b"stop"),
        (Self::Comp, *b"comp"),
        (Self::Indx, *b"indx"),
    ];

    /// The four letters in the file.
    pub fn letters(self) -> [u8; 4] {
        match self {
            Self::Meta => *b"meta",
            Self::Data => *b"data",
            Self::Zero => *b"zero",
            Self::Stop => *b"stop",
            Self::Comp => *b"comp",
            Self::Indx => *b"indx",
        }
    }
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Offset in the guest's disk; 0 unless data or zero.
    pub start: u64,
    /// Guest bytes (data, zero) or bytes of payload (the others).
    pub length: u64,
}

impl Header {
    /// A header.
    pub const fn new(kind: Kind, start: u64, length: u64) -> Self {
        Self { kind, start, length }
    }

    /// The bytes in the file.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [b' '; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.kind.letters());
        put_hex(&mut bytes[5..21], self.start);
        put_hex(&mut bytes[22..38], self.length);
        bytes[38..].copy_from_slice(&TERMINATOR);
        bytes
    }

    /// The header in `bytes`. Exactly what [`Header::encode`] makes is accepted, so that no bit of a
    /// header is without meaning: lower-case digits, single spaces, both parts of the line end.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) for anything else.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let kind = Kind::ALL.iter().find(|(_, letters)| bytes[..4] == letters[..]).map(|&(kind, _)| kind);
        let framed = bytes[4] == b' ' && bytes[21] == b' ' && bytes[38..] == TERMINATOR;
        match (kind, get_hex(&bytes[5..21]), get_hex(&bytes[22..38])) {
            (Some(kind), Some(start), Some(length)) if framed => Ok(Self { kind, start, length }),
            _ => Err(Error::corrupt(format!("not a frame header: \"{}\"", bytes.escape_ascii()))),
        }
    }
}

fn put_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// The value of 16 lower-case hex digits.
fn get_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, &digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_spellings_are_refused() {
        let good = *b"data 0000000000100000 000000000000a000\r\n";
        Header::decode(&good).unwrap();
        for bad in [
            b"DATA 0000000000100000 000000000000a000\r\n",
            b"date 0000000000100000 000000000000a000\r\n",
            b"data 0000000000100000 000000000000A000\r\n",
            b"data 0x00000000100000 000000000000a000\r\n",
            b"data+0000000000100000 000000000000a000\r\n",
            b"data 0000000000100000\t000000000000a000\r\n",
            b"data                0 000000000000a000\r\n",
            b"data 0000000000100000 000000000000a000\n\r",
            b"data 0000000000100000 00000000000a000\r\n\0",
            &[0; 40],
            &[255; 40],
        ] {
            assert!(Header::decode(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn bytes_are_frozen() {
        assert_eq!(&Header::new(Kind::Data, 0, u64::MAX).encode(), b"data 0000000000000000 ffffffffffffffff\r\n");
        assert_eq!(&Header::new(Kind::Stop, 0, 0).encode(), b"stop 0000000000000000 0000000000000000\r\n");
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(kind in 0..6usize, start: u64, length: u64) {
            let header = Header::new(Kind::ALL[kind].0, start, length);
            prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }

        #[test]
        fn every_flipped_bit_matters(kind in 0..6usize, start: u64, length: u64, bit in 0..320usize) {
            let header = Header::new(Kind::ALL[kind].0, start, length);
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&bytes).map_or(true, |other| other != header));
        }
    }
}
