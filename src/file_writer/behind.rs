//! Writes of the page cache to the disk while a copy goes on, and its pages free again. A thread does that: the call
//! that begins to write a range takes as long as the disk needs to take it, and who reads the guest's disk is not to
//! wait for that.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rustix::fs::{Advice, fadvise};

/// The kernel is told in steps of so many bytes to write to the disk what was written.
pub(super) const STEP: u64 = 8 << 20;

/// So many bytes stay in the page cache until they are durable.
const BEHIND: u64 = 64 << 20;

/// Steps that may wait for the disk; then who writes does. More would be a page cache full of what nobody needs.
const WAITING: usize = 8;

/// See the module. The thread begins with the first step, and ends with this.
#[derive(Debug, Default)]
pub(super) struct Behind(OnceLock<Option<Thread>>);

#[derive(Debug)]
struct Thread {
    ends: SyncSender<u64>,
    thread: JoinHandle<()>,
}

impl Behind {
    /// Another [`STEP`] of `file` was written, up to `end`.
    pub(super) fn tell(&self, file: &File, end: u64) {
        // Where there is no thread to be had this one waits.
        match self.0.get_or_init(|| Thread::start(file)) {
            Some(thread) if thread.ends.send(end).is_ok() => {}
            _ => advise(file, end),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Some(Thread { ends, thread }) = self.0.take().flatten() {
            drop(ends);
            // A panic was told when it happened.
            let _ = thread.join();
        }
    }
}

impl Thread {
    fn start(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        let (ends, told): (_, Receiver<u64>) = sync_channel(WAITING);
        let run = move || told.iter().for_each(|end| advise(&file, end));
        let thread = Builder::new().name("write behind".to_owned()).spawn(run).ok()?;
        Some(Self { ends, thread })
    }
}

/// A copy is not to fill the host's page cache, and not to leave all of the writing to its end. "Don't need"
/// begins to write what is dirty of a range and drops the rest, so the second time drops what was written the
/// first time. Advice that is not taken changes nothing.
fn advise(file: &File, end: u64) {
    let before = |bytes: u64| end.saturating_sub(bytes);
    for range in [before(BEHIND + 2 * STEP)..before(BEHIND), before(2 * STEP)..end] {
        if let Some(length) = NonZeroU64::new(range.end - range.start) {
            let _ = fadvise(file, range.start, Some(length), Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// More steps than may wait, and ends of all kinds: nobody hangs, and the content is what it was.
    #[test]
    fn any_number_of_steps_is_told() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes = vec![7; 3 << 20];
        file.write_all(&bytes).unwrap();
        let behind = Behind::default();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (behind, file) = (&behind, &file);
                scope.spawn(move || (0..100).for_each(|number| behind.tell(file, number * STEP + thread)));
            }
        });
        behind.tell(&file, u64::MAX);
        drop(behind);
        let mut found = vec![0; bytes.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0).unwrap();
        assert!(found == bytes);
    }
}
