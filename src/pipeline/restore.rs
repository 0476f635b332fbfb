//! A chain device into a sink: every block is read through its digest and written once, in any
//! order.

use super::work::{CHAIN_WINDOW, Queue};
use super::{Failures, Progress, zeroes};
use crate::block::BlockSink;
use crate::cancel::Cancel;
use crate::chain_device::{Buffers, ChainDevice};
use crate::error::{Error, Result};
use crate::extent::{Extent, Kind};
use crate::stream::BLOCK;

/// Copies all of `chain`, whose extents are `extents`, into `sink` with `threads` threads and flushes it. Zero ranges
/// are written only where the sink does not read as zeroes already.
///
/// # Errors
/// [`Incomplete`](crate::error::Kind::Incomplete) if a range of the disk is unknown, else of the first
/// thread that failed; the sink's content is then not to be used.
pub fn copy(
    chain: &ChainDevice,
    extents: &[Extent],
    sink: &dyn BlockSink,
    threads: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    check_known(extents, chain.size()).map_err(|error| error.disk(chain.target()))?;
    // What is read, proven and written while it is in the processor's cache, and nearly in the order of the disk. A
    // compressed frame is read at once.
    let is_compressed = chain.layers().iter().any(|layer| layer.meta().compression.is_lz4());
    let window = if is_compressed { CHAIN_WINDOW } else { BLOCK };
    let queue = Queue::new(extents, window.max(sink.block()));
    let stopped = cancel.child();
    let failures = Failures::default();
    std::thread::scope(|scope| {
        let worker = || {
            if let Err(error) = work(chain, sink, &queue, progress, &stopped) {
                failures.note(error);
                stopped.cancel();
            }
        };
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        for thread in threads {
            if thread.join().is_err() {
                failures.note(Error::panicked());
            }
        }
    });
    failures.into_result()?;
    cancel.check()?;
    sink.flush()
}

/// What nobody knows must not pass for zeroes: `extents` are all data or zero, without a gap.
fn check_known(extents: &[Extent], size: u64) -> Result<()> {
    let mut known = 0;
    for extent in extents {
        if extent.offset != known || extent.kind() == Kind::Clean {
            break;
        }
        known = extent.end();
    }
    if known == size { Ok(()) } else { Err(unknown(known)) }
}

fn unknown(offset: u64) -> Error {
    Error::incomplete("no stream of the chain has the content").at(offset)
}

fn work(
    chain: &ChainDevice,
    sink: &dyn BlockSink,
    queue: &Queue<'_>,
    progress: &dyn Progress,
    stopped: &Cancel,
) -> Result<()> {
    let mut buffers = Buffers::default();
    let mut bytes = Vec::new();
    while let Some(item) = queue.take() {
        stopped.check()?;
        let window = item.window(chain.size());
        for extent in item.extents.iter().filter(|extent| extent.kind() != Kind::Data) {
            write(sink, extent, &[], extent.offset)?;
        }
        let data: Vec<Extent> = item.extents.iter().filter(|extent| extent.kind() == Kind::Data).copied().collect();
        if !data.is_empty() {
            bytes.resize((window.end - window.start) as usize, 0);
            chain.read_data(window.clone(), &mut bytes, &mut buffers)?;
            // Nobody looked for zeroes when such an image was written.
            let data = if chain.is_plain_image() { zeroes::split(&data, &bytes, window.start) } else { data };
            for extent in &data {
                write(sink, extent, &bytes, window.start)?;
            }
        }
        progress.advance(item.length());
    }
    Ok(())
}

fn write(sink: &dyn BlockSink, extent: &Extent, window: &[u8], start: u64) -> Result<()> {
    match extent.kind() {
        Kind::Data => {
            let first = (extent.offset - start) as usize;
            sink.write_at(&window[first..first + extent.length() as usize], extent.offset)
        }
        Kind::Zero if sink.is_zeroed() => Ok(()),
        Kind::Zero => sink.write_zeroes(extent.range()),
        Kind::Clean => Err(unknown(extent.offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::memory::MemoryDisk;
    use crate::error::Kind as ErrorKind;

    #[test]
    fn what_is_unknown_is_no_zero() {
        let (data, zero) = (Extent::data(0, 10), Extent::zero(10, 10));
        for (extents, offset) in [
            (&[data, Extent::clean(10, 10)][..], 10),
            (&[Extent::clean(0, 10), zero], 0),
            (&[data], 10),
            (&[zero], 0),
            (&[], 0),
        ] {
            let error = check_known(extents, 20).unwrap_err();
            assert_eq!((error.kind(), error.offset()), (ErrorKind::Incomplete, Some(offset)), "{extents:?}");
        }
        check_known(&[data, zero], 20).unwrap();
        check_known(&[], 0).unwrap();

        let sink = MemoryDisk::from_picture("aa", 10);
        let error = write(&sink, &Extent::clean(0, 10), &[], 0).unwrap_err();
        assert_eq!((error.kind(), sink.picture().as_str()), (ErrorKind::Incomplete, "aa"));
    }
}
