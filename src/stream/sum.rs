//! Adler-32 and CRC-32 of bytes that were summed in pieces, in any order.

/// Modulus of Adler-32.
const MODULUS: u64 = 65521;

/// Adler-32 of no bytes.
pub const EMPTY: u32 = 1;

/// The sum over some bytes with sum `first` and `length` bytes behind them with sum `second`.
///
/// A sum is two numbers: the low half is 1 plus all bytes, the high half the sum of what the low half was after each
/// byte (RFC 1950). So behind other bytes the low half grows by what theirs is above 1, and the high half by that for
/// each of the `length` bytes.
pub fn combine(first: u32, second: u32, length: u64) -> u32 {
    let halves = |sum: u32| (u64::from(sum & 0xffff) % MODULUS, u64::from(sum >> 16) % MODULUS);
    let ((low, high), (behind_low, behind_high)) = (halves(first), halves(second));
    let above = (low + MODULUS - 1) % MODULUS;
    let high = (high + behind_high + length % MODULUS * above) % MODULUS;
    // Both are below 65521.
    (high as u32) << 16 | ((above + behind_low) % MODULUS) as u32
}

/// Sums over bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Adler-32.
    pub adler32: u32,
    /// CRC-32 as zip files have it; only of a file for which one is known.
    pub crc32: Option<u32>,
}

impl Sums {
    /// Those of no bytes.
    pub const fn empty(crc32: bool) -> Self {
        Self { adler32: EMPTY, crc32: if crc32 { Some(0) } else { None } }
    }

    /// The sums over these bytes and `length` more behind them, which have `second`.
    pub fn then(self, second: Self, length: u64) -> Self {
        let crc32 = self.crc32.zip(second.crc32).map(|(first, second)| {
            let mut hasher = crc32fast::Hasher::new_with_initial(first);
            hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, length));
            hasher.finalize()
        });
        Self { adler32: combine(self.adler32, second.adler32, length), crc32 }
    }
}

/// The sum over `length` zero bytes.
pub fn zeroes(length: u64) -> u32 {
    ((length % MODULUS) as u32) << 16 | EMPTY
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simd_adler32::adler32;

    proptest! {
        #[test]
        fn pieces_give_the_sum_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..300_000), cuts in prop::collection::vec(0.0..1.0f64, 0..8)
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (bytes.len() as f64 * cut) as usize).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            let sums = |bytes: &[u8]| Sums { adler32: adler32(&bytes), crc32: Some(crc32fast::hash(bytes)) };
            let sum = pieces.fold(Sums::empty(true), |sum, piece| sum.then(sums(piece), piece.len() as u64));
            prop_assert_eq!(sum, sums(&bytes));
        }

        #[test]
        fn the_order_of_combining_does_not_matter(sums in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u64>()), 3)) {
            // Longer than anything that could be summed here.
            let part = |index: usize| {
                let (low, high, length) = sums[index];
                (u32::from(low % 65521) | u32::from(high % 65521) << 16, length >> 2)
            };
            let ((a, _), (b, b_len), (c, c_len)) = (part(0), part(1), part(2));
            prop_assert_eq!(combine(combine(a, b, b_len), c, c_len), combine(a, combine(b, c, c_len), b_len + c_len));
        }

        #[test]
        fn zeroes_need_not_be_there(length in 0..200_000usize) {
            prop_assert_eq!(zeroes(length as u64), adler32(&vec![0; length].as_slice()));
        }
    }

    #[test]
    fn sums_at_the_modulus() {
        // All bytes 255, so long that both halves have gone round many times.
        let bytes = vec![255; 1 << 22];
        for cut in [0, 1, 5551, 5552, 5553, 65520, 65521, 65522, 1 << 21, (1 << 22) - 1, 1 << 22] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(combine(adler32(&a), adler32(&b), b.len() as u64), adler32(&bytes.as_slice()), "{cut}");
        }
        assert_eq!(combine(EMPTY, EMPTY, u64::MAX), EMPTY);
    }
}
