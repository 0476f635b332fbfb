//! What a thread computes of its data while it comes in, piece by piece, out of the processor's cache: digests of
//! blocks and Adler-32 of payloads.

use simd_adler32::Adler32;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::stream::digest::{BlockHasher, Digest};

/// The sums of data that is not all there yet.
pub(super) struct Arrival<'d> {
    /// Data of which not all has been seen.
    left: &'d [Extent],
    hasher: BlockHasher,
    /// Of what has been seen of the first of `left`; none where sums are not wanted.
    adler: Option<Adler32>,
    arrived: Arrived,
}

/// What is known of data that is all there.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// By block, ascending.
    pub(super) digests: Vec<(u64, Digest)>,
    /// Adler-32 of each extent, where wanted.
    pub(super) sums: Vec<u32>,
}

impl<'d> Arrival<'d> {
    /// Nothing of `data`, which is ascending, has come yet; each extent is to be summed if told so.
    pub(super) fn of(data: &'d [Extent], summed: bool) -> Self {
        let adler = summed.then(Adler32::new);
        Self { left: data, hasher: BlockHasher::new(), adler, arrived: Arrived::default() }
    }

    /// Takes in the `bytes` at `offset`, which come in order. What is no data is not looked at.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for bytes out of order.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = offset..offset + bytes.len() as u64;
        let Self { hasher, arrived: Arrived { digests, sums }, .. } = self;
        while let Some((first, rest)) = self.left.split_first() {
            let Some(part) = first.clip(&range) else { break };
            let bytes = &bytes[(part.offset - offset) as usize..(part.end() - offset) as usize];
            hasher.update(part.offset, bytes, &mut |block, digest| {
                digests.push((block, digest));
                Ok(())
            })?;
            if let Some(adler) = &mut self.adler {
                adler.write(bytes);
                if part.end() == first.end() {
                    sums.push(std::mem::take(adler).finish());
                }
            }
            if part.end() < first.end() {
                break;
            }
            self.left = rest;
        }
        Ok(())
    }

    /// What is known now that all has come.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if it has not.
    pub(super) fn finish(mut self) -> Result<Arrived> {
        if let Some(missing) = self.left.first() {
            return Err(Error::usage("data was not read").at(missing.offset));
        }
        let mut arrived = self.arrived;
        self.hasher.finish(&mut |block, digest| {
            arrived.digests.push((block, digest));
            Ok(())
        })?;
        Ok(arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind as ErrorKind;
    use crate::extent::Kind;
    use crate::stream::digest::digest_blocks;
    use proptest::prelude::*;
    use simd_adler32::adler32;

    proptest! {
        /// However the bytes come in, what is said of them is what one look at all of them says.
        #[test]
        fn pieces_do_not_matter(
            start in 0..3u64 << 20, parts in prop::collection::vec((1..400_000u64, any::<bool>()), 1..12),
            step in 1..300_000usize, summed: bool
        ) {
            let mut extents = Vec::new();
            let mut end = start;
            for (length, is_data) in parts {
                if is_data {
                    crate::extent::push(&mut extents, Extent::new(end, length, Kind::Data));
                }
                end += length;
            }
            let bytes: Vec<u8> = (0..end - start).map(|i| (i / 5) as u8).collect();
            let mut arrival = Arrival::of(&extents, summed);
            for (number, piece) in bytes.chunks(step).enumerate() {
                arrival.add(start + (number * step) as u64, piece).unwrap();
            }
            let arrived = arrival.finish().unwrap();
            prop_assert_eq!(arrived.digests, digest_blocks(start, &bytes, &extents).unwrap());
            let place = |extent: &Extent| (extent.offset - start) as usize..(extent.end() - start) as usize;
            let sums: Vec<u32> = extents.iter().map(|extent| adler32(&&bytes[place(extent)])).collect();
            prop_assert_eq!(arrived.sums, if summed { sums } else { Vec::new() });
        }
    }

    #[test]
    fn what_did_not_come_is_missed() {
        let data = [Extent::data(0, 10), Extent::data(20, 10)];
        for pieces in [&[(0, 10)][..], &[(0, 25)], &[(20, 10)], &[(0, 9), (20, 10)], &[]] {
            let mut arrival = Arrival::of(&data, true);
            let added: Result<()> =
                pieces.iter().try_for_each(|(offset, length)| arrival.add(*offset, &vec![1; *length]));
            let error = added.and_then(|()| arrival.finish().map(drop)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{pieces:?}");
        }
    }
}
