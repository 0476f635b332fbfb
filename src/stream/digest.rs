//! Digests of guest blocks: BLAKE3, cut to 16 bytes, over the bytes of one aligned MiB that a stream
//! carries, in ascending order.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::stream::BLOCK;

/// Bytes of a block's digest.
pub const DIGEST_LEN: usize = 16;

/// The digest of the bytes a stream carries of one block.
pub type Digest = [u8; DIGEST_LEN];

/// The blocks that `length` bytes at `offset` touch.
pub fn blocks(offset: u64, length: u64) -> Range<u64> {
    let end = offset.saturating_add(length);
    offset / BLOCK..if length == 0 { offset / BLOCK } else { (end - 1) / BLOCK + 1 }
}

/// Hashes carried bytes in ascending order and hands out each block's digest once it is complete.
#[derive(Default)]
pub struct BlockHasher {
    hasher: blake3::Hasher,
    /// The block being hashed.
    block: Option<u64>,
    /// End of the bytes seen.
    position: u64,
}

impl BlockHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes` at guest `offset`; `done` gets each block that is complete: its last byte was
    /// seen, or bytes of a later block.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when `offset` is before the end of earlier bytes;
    /// any error of `done`.
    pub fn update(
        &mut self,
        mut offset: u64,
        mut bytes: &[u8],
        done: &mut dyn FnMut(u64, Digest) -> Result<()>,
    ) -> Result<()> {
        if offset < self.position {
            return Err(Error::usage("blocks must be hashed in ascending order").at(offset));
        }
        while !bytes.is_empty() {
            let block = offset / BLOCK;
            if self.block.is_some_and(|current| current != block) {
                self.finish(done)?;
            }
            self.block = Some(block);
            let len = bytes.len().min((BLOCK - offset % BLOCK) as usize);
            let (now, rest) = bytes.split_at(len);
            self.hasher.update(now);
            bytes = rest;
            offset += len as u64;
            if offset % BLOCK == 0 {
                self.finish(done)?;
            }
        }
        self.position = self.position.max(offset);
        Ok(())
    }

    /// Hands out the last block, if it is still open.
    ///
    /// # Errors
    /// Any error of `done`.
    pub fn finish(&mut self, done: &mut dyn FnMut(u64, Digest) -> Result<()>) -> Result<()> {
        if let Some(block) = self.block.take() {
            let digest = truncate(self.hasher.finalize());
            self.hasher.reset();
            done(block, digest)?;
        }
        Ok(())
    }
}

/// The digests of the blocks that `extents` touch, whose bytes stand in `buffer` at their place
/// relative to `start`: for a worker that has whole blocks in memory.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) when an extent is not within `buffer` or out of order.
pub fn digest_blocks(start: u64, buffer: &[u8], extents: &[Extent]) -> Result<Vec<(u64, Digest)>> {
    let mut digests = Vec::new();
    let mut done = |block, digest| {
        digests.push((block, digest));
        Ok(())
    };
    let mut hasher = BlockHasher::new();
    for extent in extents {
        let bytes = extent
            .offset
            .checked_sub(start)
            .and_then(|first| {
                Some(usize::try_from(first).ok()?..usize::try_from(extent.end().checked_sub(start)?).ok()?)
            })
            .and_then(|range| buffer.get(range))
            .ok_or_else(|| Error::usage("extent outside of its buffer").at(extent.offset))?;
        hasher.update(extent.offset, bytes, &mut done)?;
    }
    hasher.finish(&mut done)?;
    Ok(digests)
}

fn truncate(hash: blake3::Hash) -> Digest {
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&hash.as_bytes()[..DIGEST_LEN]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_of_ranges() {
        assert_eq!(blocks(0, 0), 0..0);
        assert_eq!(blocks(0, BLOCK), 0..1);
        assert_eq!(blocks(BLOCK - 1, 2), 0..2);
        assert_eq!(blocks(u64::MAX, 5), u64::MAX / BLOCK..u64::MAX / BLOCK + 1);
    }

    #[test]
    fn disorder_and_foreign_extents_are_refused() {
        let mut hasher = BlockHasher::new();
        hasher.update(10, &[1; 10], &mut |_, _| Ok(())).unwrap();
        assert!(hasher.update(19, &[1], &mut |_, _| Ok(())).is_err());
        for extent in [Extent::data(99, 1), Extent::data(109, 2), Extent::data(u64::MAX - 1, 1)] {
            assert!(digest_blocks(100, &[0; 10], &[extent]).is_err());
        }
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(start in 0..3 * BLOCK, cuts in prop::collection::vec(0..3_000_000usize, 0..6)) {
            let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
            let whole = digest_blocks(start, &bytes, &[Extent::data(start, bytes.len() as u64)]).unwrap();
            prop_assert_eq!(
                whole.iter().map(|(block, _)| *block).collect::<Vec<_>>(),
                blocks(start, bytes.len() as u64).collect::<Vec<_>>()
            );
            let mut cuts = cuts;
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut hasher = BlockHasher::new();
            let mut split = Vec::new();
            for pair in cuts.windows(2) {
                hasher
                    .update(start + pair[0] as u64, &bytes[pair[0]..pair[1]], &mut |b, d| {
                        split.push((b, d));
                        Ok(())
                    })
                    .unwrap();
            }
            hasher.finish(&mut |b, d| { split.push((b, d)); Ok(()) }).unwrap();
            prop_assert_eq!(split, whole);
        }
    }
}
