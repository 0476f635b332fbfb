//! Where the data of a thread's work is.

use super::{SMALL_GAP, Work};
use crate::extent::{Extent, Kind};
use crate::pipeline::work::Queue;

fn work(extents: Vec<Extent>) -> Work {
    Work::of(Queue::new(&extents, 1 << 40).take_some(u64::MAX))
}

#[test]
fn small_gaps_are_read_along() {
    let data = [(0, 4096), (8192, 4096), (12288 + SMALL_GAP, 512), (12801 + 2 * SMALL_GAP, 512)];
    let data = data.map(|(offset, length)| Extent::data(offset, length));
    let found = work(data.to_vec());
    assert_eq!(found.spans, [0..12800 + SMALL_GAP, data[3].offset..data[3].end()]);
    let end = 12800 + SMALL_GAP as usize;
    assert_eq!(found.places, [0..4096, 8192..12288, end - 512..end, end..end + 512]);
    assert_eq!(found.length(), end + 512);
    assert_eq!((work(Vec::new()).spans, work(vec![Extent::zero(5, 5)]).length()), (vec![], 0));
}

#[test]
fn zeroes_are_told_apart_where_they_lie_in_the_buffer() {
    const GRAIN: u64 = 64 << 10;
    let far = 100 * GRAIN;
    let mut found =
        work(vec![Extent::data(0, 3 * GRAIN), Extent::zero(3 * GRAIN, far - 3 * GRAIN), Extent::data(far, 2 * GRAIN)]);
    let mut content = vec![0; found.length()];
    content[GRAIN as usize] = 1;
    content[5 * GRAIN as usize - 1] = 1;
    found.find_zeroes(&content);
    let data = [Extent::data(GRAIN, GRAIN), Extent::data(far + GRAIN, GRAIN)];
    assert_eq!(found.data, data);
    assert_eq!(found.places, [GRAIN as usize..2 * GRAIN as usize, 4 * GRAIN as usize..5 * GRAIN as usize]);
    let all = [Extent::zero(0, GRAIN), data[0], Extent::new(2 * GRAIN, far - GRAIN, Kind::Zero), data[1]];
    assert_eq!(found.items[0].extents, all);
}
