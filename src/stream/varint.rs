//! Varints: unsigned LEB128, 7 bits a byte, lowest first.

use crate::error::{Error, Result};

/// Appends `value` as LEB128: 7 bits a byte, lowest first, the top bit set on all but the last.
pub fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The next varint of `next`. Only the shortest form is accepted: one table, one encoding.
///
/// # Errors
/// [`Kind::Corrupt`](crate::error::Kind::Corrupt) for longer forms and above 64 bits; any of `next`.
pub fn get_varint(next: &mut dyn FnMut() -> Result<u8>) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = next()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::corrupt("number in the index is malformed"))
}

/// Most bytes of a varint.
pub const MAX_VARINT: usize = 10;

/// [`get_varint`] from memory that holds it: the number, and its bytes.
///
/// # Errors
/// As for [`get_varint`]; also for `bytes` that end within it.
pub fn varint_of(bytes: &[u8]) -> Result<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == MAX_VARINT - 1 && bits > 1 || index > 0 && byte == 0 {
            break;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(Error::corrupt("number in the index is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(bytes: &[u8]) -> Result<u64> {
        let mut bytes = bytes.iter();
        get_varint(&mut || bytes.next().copied().ok_or_else(|| Error::corrupt("end")))
    }

    #[test]
    fn long_and_wide_forms_are_refused() {
        for bad in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0x80, 0], &[0xff; 10], &[0xff; 11]] {
            assert!(get(bad).is_err() && varint_of(bad).is_err(), "{bad:?}");
        }
        let wide = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2];
        assert!(get(&wide).is_err());
        assert_eq!(get(&[0]).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn get_inverts_put(value: u64, shift in 0..64u32) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value >> shift);
            prop_assert_eq!(get(&bytes).unwrap(), value >> shift);
            prop_assert_eq!(varint_of(&bytes).unwrap(), (value >> shift, bytes.len()));
            bytes.push(7);
            prop_assert_eq!(varint_of(&bytes).unwrap(), (value >> shift, bytes.len() - 1));
            bytes.pop();
            prop_assert!(get(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
