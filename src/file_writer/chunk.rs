//! Pieces of a file in memory, gathered until they are whole.

use std::ops::Range;

/// Bytes of a chunk, and what their places in the file are multiples of.
pub(super) const CHUNK: usize = 1 << 20;

/// Memory for a chunk, at the beginning of a page: direct writes take nothing else.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    start: usize,
}

impl Memory {
    /// Takes new memory, aligned to `page` bytes.
    pub(super) fn new(page: usize) -> Self {
        let bytes = vec![0; CHUNK + page];
        // Where the address can't be known it is left as it is, and the kernel refuses it.
        let start = bytes.as_ptr().align_offset(page).min(page);
        Self { bytes, start }
    }
}

/// What there is of the bytes of a file from a multiple of [`CHUNK`] on.
#[derive(Debug)]
pub(super) struct Chunk {
    position: u64,
    memory: Memory,
    /// Ascending, and never touching each other.
    filled: Vec<Range<usize>>,
}

impl Chunk {
    /// Nothing of chunk `number` of the file. What `memory` holds is of no importance.
    pub(super) fn new(number: u64, memory: Memory) -> Self {
        Self { position: number * CHUNK as u64, memory, filled: Vec::with_capacity(1) }
    }

    /// Puts `bytes` at `offset` in the chunk, which has room for them.
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        let mut range = offset..offset + bytes.len();
        let start = self.memory.start;
        self.memory.bytes[start + range.start..start + range.end].copy_from_slice(bytes);
        // All that it touches becomes one with it.
        let first = self.filled.partition_point(|other| other.end < range.start);
        let last = self.filled.partition_point(|other| other.start <= range.end);
        if let Some(touched) = self.filled.get(first..last).filter(|touched| !touched.is_empty()) {
            range.start = range.start.min(touched[0].start);
            range.end = range.end.max(touched[touched.len() - 1].end);
        }
        self.filled.splice(first..last, [range]);
    }

    /// Whether all of it is there.
    pub(super) fn is_full(&self) -> bool {
        self.filled.first().is_some_and(|range| *range == (0..CHUNK))
    }

    /// What there is, each part with its place in the file.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let bytes = &self.memory.bytes[self.memory.start..];
        self.filled.iter().map(move |range| (self.position + range.start as u64, &bytes[range.clone()]))
    }

    /// The memory, for another chunk.
    pub(super) fn into_memory(self) -> Memory {
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_has_what_was_put_into_it(
            puts in prop::collection::vec((0..CHUNK, 1..CHUNK / 2), 0..30), page in prop::sample::select(vec![4096usize, 65536])
        ) {
            let mut chunk = Chunk::new(3, Memory::new(page));
            let mut model = vec![0u8; CHUNK];
            for (number, (offset, len)) in puts.into_iter().enumerate() {
                let bytes = vec![number as u8 + 1; len.min(CHUNK - offset)];
                chunk.put(offset, &bytes);
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            let mut found = vec![0u8; CHUNK];
            let mut end = None;
            for (position, bytes) in chunk.parts() {
                let offset = (position - 3 * CHUNK as u64) as usize;
                prop_assert!(end.is_none_or(|end| offset > end) && !bytes.is_empty());
                prop_assert_eq!((bytes.as_ptr() as usize) % page, offset % page);
                found[offset..offset + bytes.len()].copy_from_slice(bytes);
                end = Some(offset + bytes.len());
            }
            prop_assert!(found == model);
            prop_assert_eq!(chunk.is_full(), model.iter().all(|&byte| byte > 0));
        }
    }
}
