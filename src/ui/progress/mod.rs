//! Progress of long work: a bar for each disk on a terminal, a line every half minute elsewhere. A process that works
//! for another one tells that one, which draws the bars of all.

mod bar;
mod terminal;
mod told;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use self::bar::Widest;
use self::terminal::Terminal;
pub use self::told::Hearing;
use self::told::Told;
use crate::cli::Talk;
use crate::pipeline::Progress;
use crate::units::format_bytes;

/// Between two plain lines: often enough to see that it moves, seldom enough for a cron mail.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Between two signs of it to who draws the bar.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

/// Pictures of the bars a second, at most.
const PICTURES: u8 = 20;

/// Where progress is shown.
#[derive(Debug, Clone)]
pub struct Display {
    bars: MultiProgress,
    widest: Widest,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bars,
    Lines,
    /// Told to the process that started this one, on standard output.
    Told,
    Nothing,
}

impl Display {
    /// Decides by the options and by what stderr is.
    pub fn new(talk: &Talk) -> Self {
        let kind = match (talk.noprogress || talk.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Kind::Nothing,
            (false, true) => Kind::Bars,
            (false, false) => Kind::Lines,
        };
        Self::of(kind)
    }

    /// That of a process whose standard output is read by [`Hearing`] in another one.
    pub fn told() -> Self {
        Self::of(Kind::Told)
    }

    fn of(kind: Kind) -> Self {
        let target = match kind {
            Kind::Bars => ProgressDrawTarget::term_like_with_hz(Box::<Terminal>::default(), PICTURES),
            _ => ProgressDrawTarget::hidden(),
        };
        Self { bars: MultiProgress::with_draw_target(target), widest: Widest::default(), kind }
    }

    /// Whether bars are drawn.
    pub fn has_bars(&self) -> bool {
        self.kind == Kind::Bars
    }

    /// What messages must step around.
    pub fn bars(&self) -> MultiProgress {
        self.bars.clone()
    }

    /// As [`Display::meter`], of work whose size is told on the way.
    pub fn follow(&self, name: &str) -> Following {
        Following { display: self.clone(), name: name.to_owned(), meter: None, shown: 0 }
    }

    /// Shows the progress of one disk or file of `total` bytes until the meter is dropped.
    pub fn meter(&self, name: &str, total: u64) -> Meter {
        let state = Arc::new(State {
            name: name.to_owned(),
            total,
            done: AtomicU64::new(0),
            begin: Instant::now(),
            ended: AtomicBool::new(false),
            wake: (Mutex::new(()), Condvar::new()),
        });
        let bar = (self.kind == Kind::Bars).then(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(bar::style(name, &self.widest));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let printer = match self.kind {
            Kind::Lines => state.every(LINE_INTERVAL, |state| tracing::info!("{}", state.line(state.begin.elapsed()))),
            Kind::Told => {
                let told = Told::new(name, total);
                state.every(TELL_INTERVAL, move |state| told.tell(state.done.load(Ordering::Relaxed)))
            }
            Kind::Bars | Kind::Nothing => None,
        };
        Meter { state, bar, printer }
    }
}

/// Progress of what others do: they say how much of how much is done.
#[derive(Debug)]
pub struct Following {
    display: Display,
    name: String,
    /// Once the size is known.
    meter: Option<Meter>,
    shown: u64,
}

impl Following {
    /// Shows that `done` of `total` bytes are done; what was shown stays where that goes back.
    pub fn at(&mut self, done: u64, total: u64) {
        let meter = self.meter.get_or_insert_with(|| self.display.meter(&self.name, total));
        meter.advance(done.saturating_sub(self.shown));
        self.shown = self.shown.max(done);
    }
}

/// Progress of one disk.
#[derive(Debug)]
pub struct Meter {
    state: Arc<State>,
    bar: Option<ProgressBar>,
    printer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    name: String,
    total: u64,
    done: AtomicU64,
    begin: Instant,
    ended: AtomicBool,
    wake: (Mutex<()>, Condvar),
}

impl State {
    /// A thread that does `print` again and again, until the work has ended; none where there is none to be had.
    fn every(self: &Arc<Self>, interval: Duration, print: impl Fn(&Self) + Send + 'static) -> Option<JoinHandle<()>> {
        let state = Arc::clone(self);
        let run = move || {
            let mut guard = state.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.ended.load(Ordering::SeqCst) {
                let (next, timeout) =
                    state.wake.1.wait_timeout(guard, interval).unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if timeout.timed_out() && !state.ended.load(Ordering::SeqCst) {
                    print(&state);
                }
            }
        };
        Builder::new().name("progress".to_owned()).spawn(run).ok()
    }

    fn line(&self, elapsed: Duration) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
        let percent = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let left = self.total.saturating_sub(done) as f64 / rate.max(1.0);
        format!(
            "{}: {percent} % ({} of {}), {}/s, about {} left",
            self.name,
            format_bytes(done),
            format_bytes(self.total),
            format_bytes(rate as u64),
            format_duration(Duration::from_secs_f64(left.min(1e9)))
        )
    }
}

impl Progress for Meter {
    fn advance(&self, bytes: u64) {
        self.state.done.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        {
            let _guard = self.state.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.state.ended.store(true, Ordering::SeqCst);
            self.state.wake.1.notify_all();
        }
        if let Some(printer) = self.printer.take() {
            // It only prints; there is nothing to learn from how it ended.
            let _ = printer.join();
        }
    }
}

/// `1:02:03`, `2:03` or `0.4 s`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.1} s", duration.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} min"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_formatted() {
        for (seconds, text) in [(0.44, "0.4 s"), (59.0, "59.0 s"), (61.0, "1:01 min"), (3723.0, "1:02:03 h")] {
            assert_eq!(format_duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn lines_tell_rate_and_rest() {
        let state = State {
            name: "vda".into(),
            total: 4 << 20,
            done: AtomicU64::new(1 << 20),
            begin: Instant::now(),
            ended: AtomicBool::new(false),
            wake: Default::default(),
        };
        assert_eq!(state.line(Duration::from_secs(1)), "vda: 25 % (1.0 MiB of 4.0 MiB), 1.0 MiB/s, about 3.0 s left");
    }
}
