//! What is handed out gets to its place, whoever writes it and when.

use std::fs;
use std::io::ErrorKind;

use proptest::prelude::*;

use super::{MAX_SLICES, Out, Pending, Placed};
use crate::file_writer::{FileWriter, MAX_WRITE};

/// Something that is appended.
#[derive(Debug, Clone, Copy)]
enum Step {
    Small(usize),
    Payload(usize),
    Zeroes(u64),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..90usize).prop_map(Step::Small),
        3 => (0..60_000usize).prop_map(Step::Payload),
        1 => (MAX_WRITE - 2..2 * MAX_WRITE + 3).prop_map(Step::Payload),
        1 => (0..200_000u64).prop_map(Step::Zeroes),
        3 => Just(Step::Take),
    ]
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 7) >> 3) as u8 | 1).collect()
}

/// Does `steps` with a file, what is pending written in the order that `order` gives; and with memory.
fn both(steps: &[Step], order: impl Fn(&mut Vec<(Pending, Vec<Vec<u8>>)>)) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut file = Placed::new(FileWriter::new(fs::File::create(&path).unwrap()));
    let (mut memory, mut taken, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, step) in steps.iter().copied().chain([Step::Take]).enumerate() {
        match step {
            Step::Small(len) => {
                let bytes = bytes(seed, len);
                file.put(&bytes).and_then(|()| memory.put(&bytes)).unwrap();
            }
            Step::Payload(len) => {
                let bytes = bytes(seed, len);
                file.payload(&bytes).and_then(|()| memory.payload(&bytes)).unwrap();
                payloads.push(bytes);
            }
            Step::Zeroes(len) => file.zeroes(len).and_then(|()| memory.zeroes(len)).unwrap(),
            Step::Take => {
                let mut pending = Pending::default();
                file.take(&mut pending);
                taken.push((pending, std::mem::take(&mut payloads)));
            }
        }
    }
    order(&mut taken);
    for (mut pending, payloads) in taken {
        pending.write(&mut payloads.iter().map(Vec::as_slice)).unwrap();
    }
    file.complete(memory.len() as u64).and_then(|()| file.sync()).unwrap();
    (fs::read(&path).unwrap(), memory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_file_gets_what_memory_gets(steps in prop::collection::vec(step(), 0..40), seed: u64) {
        let (file, memory) = both(&steps, |taken| {
            // Some order.
            taken.sort_by_key(|(pending, _)| pending.parts.first().map_or(0, |part| part.position.wrapping_mul(seed | 1)));
        });
        prop_assert!(file == memory);
    }
}

#[test]
fn many_small_parts_are_more_than_one_write() {
    let steps: Vec<Step> = (0..3 * MAX_SLICES).flat_map(|_| [Step::Small(3), Step::Payload(5)]).collect();
    let (file, memory) = both(&steps, |taken| taken.reverse());
    assert!(file == memory);
}

#[test]
fn what_no_payload_follows_does_not_pile_up() {
    let mut file = Placed::new(FileWriter::new(tempfile::tempfile().unwrap()));
    for _ in 0..5000 {
        file.put(&[1; 1000]).unwrap();
    }
    assert!(file.pending.small.capacity() < 3 << 20);
    file.complete(5_000_000).unwrap();
    assert_eq!(file.target.file().metadata().unwrap().len(), 5_000_000);
}

#[test]
fn a_payload_that_does_not_fit_its_place_is_refused() {
    for payloads in [&[][..], &[&[1, 2][..]], &[&[1, 2, 3, 4]]] {
        let mut file = Placed::new(FileWriter::new(tempfile::tempfile().unwrap()));
        file.payload(&[1, 2, 3]).unwrap();
        let mut pending = Pending::default();
        file.take(&mut pending);
        let error = pending.write(&mut payloads.iter().copied()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{payloads:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let mut file = Placed::new(FileWriter::new(fs::File::options().write(true).open("/dev/full").unwrap()));
    file.put(&[1]).unwrap();
    file.payload(&[2]).unwrap();
    let mut pending = Pending::default();
    file.take(&mut pending);
    assert_eq!(pending.write(&mut [&[2][..]].into_iter()).unwrap_err().kind(), ErrorKind::StorageFull);
}
