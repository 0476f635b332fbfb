//! A check by several threads, in parts of any length, finds what one thread finds in one part.

use super::*;
use crate::stream::load;
use crate::stream::sequential::Watch;
use crate::stream::source::{StreamFile, read_meta};
use crate::stream::verify::Findings;
use crate::stream::walk::{PART, Walk};

/// The sum over the file, if it could be read to its end, and what was found.
fn walked(path: &Path, part: u64, threads: usize) -> (Option<u32>, String) {
    let file = StreamFile::open(path.into()).unwrap();
    let frame = read_meta(&file).unwrap();
    let (index, tail) = load::load(&file, &frame).unwrap();
    let walk = Walk { file: &file, frame: &frame, index: &index, own: index.own.as_ref().unwrap(), tail: &tail, part };
    let mut findings = Findings::default();
    let watch = Watch { progress: &|_| (), cancel: &Cancel::new() };
    let sums = walk.run(threads, watch, &mut findings).ok();
    // Within a part the headers are looked at first.
    let mut found: Vec<_> = findings.listed.iter().map(|finding| format!("{finding:?}")).collect();
    found.sort();
    (sums.map(|sums| sums.adler32), format!("{found:#?}, {} more", findings.omitted))
}

fn agree(path: &Path, part: u64) {
    let alone = walked(path, u64::MAX, 1);
    for threads in [1, 2, 5] {
        assert_eq!(walked(path, part, threads), alone, "parts of {part}, {threads} threads");
    }
}

proptest! {
    #[test]
    fn parts_and_threads_do_not_matter(
        picture in picture(6 * BLOCK), part in prop_oneof![1..300u64, 1..600_000u64, Just(PART)],
        damages in prop::collection::vec((0.0..1.0f64, 0..8u8), 0..4)
    ) {
        let stored = Stored::new(b"");
        let (mut bytes, finished) = picture.write(stored.dir.path()).unwrap();
        stored.replace(&bytes);
        prop_assert_eq!(walked(&stored.path, part, 3), (Some(finished.adler32), "[], 0 more".to_owned()));
        // `stop` and the index are proven before anything is walked.
        let file = StreamFile::open(stored.path.as_path().into()).unwrap();
        let frame = read_meta(&file).unwrap();
        let stop = load::load(&file, &frame).unwrap().0.stop;
        for (place, bit) in damages.into_iter().filter(|_| stop > frame.end) {
            bytes[(frame.end + ((stop - frame.end) as f64 * place) as u64) as usize] ^= 1 << bit;
        }
        stored.replace(&bytes);
        agree(&stored.path, part);
    }
}

/// Where zeroes were found window by window there are as many frames of them.
#[test]
fn a_long_row_of_zero_frames_is_several_parts() {
    let mut picture = Picture {
        frames: (0..5000).map(|number| Extent::zero(number * 4096, 4096)).collect(),
        disk: vec![0; 5001 * 4096 + 17],
        incremental: false,
        compression: Compression::None,
    };
    picture.frames.push(Extent::data(5000 * 4096, 4096));
    picture.frames.push(Extent::zero(5001 * 4096, 17));
    let stored = Stored::new(b"");
    let (mut bytes, finished) = picture.write(stored.dir.path()).unwrap();
    for damaged in [None, Some(3000 * 40), Some(4999 * 40)] {
        if let Some(place) = damaged {
            bytes[1000 + place] ^= 1;
        }
        stored.replace(&bytes);
        for part in [1, 40, 1000, 4096, 100_000, PART] {
            agree(&stored.path, part);
        }
        let (sum, found) = walked(&stored.path, 1000, 2);
        assert_eq!(sum == Some(finished.adler32), damaged.is_none());
        assert_eq!(found.contains("zero frames don't fill their gap"), damaged.is_some(), "{found}");
    }
}
