//! Finds zeroes in what was read: of a raw disk nobody says where they are.

use crate::extent::{Extent, Kind, push};
use crate::units::{KIB, align_down};

/// Zeroes are told apart in pieces of this size, aligned to it: what a hole is worth, and short tables.
const GRAIN: u64 = 64 * KIB;

/// `extents` with all data of zeroes made zero; the bytes of the extents stand in `window`, which begins at
/// `start`.
pub fn split(extents: &[Extent], window: &[u8], start: u64) -> Vec<Extent> {
    let mut list = Vec::new();
    for extent in extents {
        match extent.kind() {
            Kind::Data => {
                let place = (extent.offset - start) as usize..(extent.end() - start) as usize;
                split_onto(&mut list, *extent, &window[place]);
            }
            _ => push(&mut list, *extent),
        }
    }
    list
}

/// Adds `data`, whose content is `bytes`, to `list`, with zeroes told apart. A piece that it cuts short counts as what
/// is there of it.
pub fn split_onto(list: &mut Vec<Extent>, data: Extent, bytes: &[u8]) {
    let mut position = data.offset;
    while position < data.end() {
        let end = (align_down(position, GRAIN) + GRAIN).min(data.end());
        let piece = &bytes[(position - data.offset) as usize..(end - data.offset) as usize];
        let kind = if is_zero(piece) { Kind::Zero } else { Kind::Data };
        push(list, Extent::new(position, end - position, kind));
        position = end;
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // In parts, so that it ends early and the compiler can take many bytes at a time.
    bytes.chunks(4096).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_found_in_whole_pieces() {
        let start = 10 * GRAIN;
        let mut window = vec![0; 5 * GRAIN as usize + 100];
        window[GRAIN as usize + 7] = 1;
        window[5 * GRAIN as usize + 99] = 1;
        let extents = [Extent::data(start, 3 * GRAIN), Extent::zero(start + 3 * GRAIN, GRAIN)];
        let extents = [&extents[..], &[Extent::data(start + 4 * GRAIN, GRAIN + 100)]].concat();
        assert_eq!(
            split(&extents, &window, start),
            [
                Extent::zero(start, GRAIN),
                Extent::data(start + GRAIN, GRAIN),
                Extent::zero(start + 2 * GRAIN, 3 * GRAIN),
                Extent::data(start + 5 * GRAIN, 100)
            ]
        );
        assert_eq!(split(&[], &[], 0), []);
    }
}
