//! Waits for the end of child processes without looking for it again and again.

use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How often the child is looked at where there is no descriptor of it: Linux before 5.3 has none, and a process may
/// have too many.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `child`, whose status nobody has taken yet, has ended, at most for `limit`. It may return early: whether
/// the child has ended is what [`Child::try_wait`] says.
fn nap(child: &Child, limit: Duration) {
    // A limit beyond what the kernel takes is as good as none.
    let time = Timespec::try_from(limit).ok();
    match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        // Interrupted by a signal it is over early.
        Ok(descriptor) => drop(poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], time.as_ref())),
        Err(_) => thread::sleep(limit.min(LOOK)),
    }
}

/// How `child` ended, if it does within `limit`; who looks at a flag meanwhile calls it with a short one in a loop.
///
/// # Errors
/// Of waiting for it.
pub fn end_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        let status = child.try_wait()?;
        let left = limit.saturating_sub(begin.elapsed());
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
        nap(child, left);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_lasts_until_the_end_or_the_limit() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        nap(&child, Duration::from_millis(1));
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(end_within(&mut child, Duration::from_millis(1)).unwrap(), None);
        drop(child.stdin.take());
        // Far longer than any test may last.
        assert!(end_within(&mut child, Duration::MAX).unwrap().unwrap().success());
    }
}
