//! Progress of a process that works for another one: lines on its standard output, from which the other draws the bars.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::{Display, Following};

/// Begin of a line that tells of progress.
const MARK: &str = "virtkeep-progress: ";

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    /// Of one meter of the process.
    meter: u64,
    name: String,
    done: u64,
    total: u64,
    /// Nothing follows.
    ended: bool,
}

/// The teller of one meter, which says when it is dropped that it ended.
#[derive(Debug)]
pub(super) struct Told(Sign);

impl Told {
    /// Tells at once: who looks is to see what is begun.
    pub(super) fn new(name: &str, total: u64) -> Self {
        static METERS: AtomicU64 = AtomicU64::new(0);
        let meter = METERS.fetch_add(1, Ordering::Relaxed);
        let told = Self(Sign { meter, name: name.to_owned(), done: 0, total, ended: false });
        told.0.say();
        told
    }

    pub(super) fn tell(&self, done: u64) {
        Sign { done, ..self.0.clone() }.say();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.ended = true;
        self.0.say();
    }
}

impl Sign {
    fn say(&self) {
        let Ok(text) = serde_json::to_string(self) else { return };
        // Nobody may be there to read it, or not now: the work goes on, and the next sign tells more.
        let mut out = std::io::stdout().lock();
        if is_read(&out) {
            let _ = out.write_all(format!("{MARK}{text}\n").as_bytes());
        }
    }
}

/// Whether a line to a pipe finds room there: one with any has some for `PIPE_BUF` bytes (pipe(7)), 4096.
fn is_read(out: &impl AsFd) -> bool {
    let mut waiting = [PollFd::new(out, PollFlags::OUT)];
    let found = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    found.is_ok_and(|count| count > 0) && waiting[0].revents().contains(PollFlags::OUT)
}

/// Draws what another process tells. Its bars end with this.
#[derive(Debug)]
pub struct Hearing {
    display: Display,
    whose: String,
    meters: HashMap<u64, Following>,
}

impl Hearing {
    /// Bars on `display`, named after `whose` work it is.
    pub fn new(display: &Display, whose: &str) -> Self {
        Self { display: display.clone(), whose: whose.to_owned(), meters: HashMap::new() }
    }

    /// Takes a line of the other's standard output; false if that does not tell of progress.
    pub fn takes(&mut self, line: &str) -> bool {
        let Some(text) = line.strip_prefix(MARK) else { return false };
        match serde_json::from_str(text) {
            Ok(Sign { meter, ended: true, .. }) => drop(self.meters.remove(&meter)),
            Ok(sign) => {
                let name = || format!("{}: {}", self.whose, sign.name);
                let meter = self.meters.entry(sign.meter).or_insert_with(|| self.display.follow(&name()));
                meter.at(sign.done, sign.total);
            }
            Err(error) => tracing::debug!("{}: no sign of progress: {error}", self.whose),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Talk;

    #[test]
    fn what_is_told_is_heard() {
        let display = Display::new(&Talk { quiet: true, ..Talk::default() });
        let mut hearing = Hearing::new(&display, "web");
        let sign = |meter, done, ended| {
            let sign = Sign { meter, name: "vda".to_owned(), done, total: 100, ended };
            format!("{MARK}{}", serde_json::to_string(&sign).unwrap())
        };
        let done = |hearing: &Hearing, meter| hearing.meters.get(&meter).map(|meter| meter.shown);
        for (line, first, second) in [
            (sign(0, 0, false), Some(0), None),
            (sign(0, 40, false), Some(40), None),
            (sign(1, 10, false), Some(40), Some(10)),
            // Goes back.
            (sign(0, 30, false), Some(40), Some(10)),
            (sign(0, 70, false), Some(70), Some(10)),
            (sign(0, 0, true), None, Some(10)),
            (sign(7, 0, true), None, Some(10)),
            (sign(0, 20, false), Some(20), Some(10)),
            (sign(0, 0, true), None, Some(10)),
            (format!("{MARK}{{}}"), None, Some(10)),
        ] {
            assert!(hearing.takes(&line), "{line}");
            assert_eq!((done(&hearing, 0), done(&hearing, 1)), (first, second), "{line}");
        }
        assert!(!hearing.takes("data"));
    }

    #[test]
    fn a_full_pipe_is_left_alone() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        assert!(is_read(&writer));
        while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
        assert!(!is_read(&writer));
        let mut page = [0; 4096];
        assert_eq!(rustix::io::read(&reader, &mut page), Ok(page.len()));
        assert!(is_read(&writer));
        // Not blocked, but an error: who reads is gone.
        drop(reader);
        is_read(&writer);
    }
}
