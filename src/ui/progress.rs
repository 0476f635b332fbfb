//! Progress of long work: a bar for each disk on a terminal, as wide as that is at the time, a line every half minute
//! elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::screen::{self, plain};
use crate::cli::Talk;
use crate::pipeline::Progress;
use crate::units::format_bytes;

/// Between two plain lines: often enough to see that it moves, seldom enough for a cron mail.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Where progress is shown.
#[derive(Debug, Clone)]
pub struct Display {
    bars: MultiProgress,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bars,
    Lines,
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
        let target = if kind == Kind::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), kind }
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
            bar.set_style(style(name));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let printer = (self.kind == Kind::Lines).then(|| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || state.print_lines())
        });
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

/// A style that draws the whole line itself.
fn style(name: &str) -> ProgressStyle {
    let name = name.to_owned();
    let draw = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let columns = screen::width_of(std::io::stderr()).unwrap_or(screen::USUAL);
        let total = state.len().unwrap_or(0);
        // Writing to a line in memory cannot fail.
        let _ = out.write_str(&bar_line(columns, &name, state.pos(), total, state.per_sec(), state.eta()));
    };
    // The template is a constant that a test renders.
    let style = ProgressStyle::with_template("{line}").unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("line", draw)
}

/// Name, bar, share, and as much of the rest as there is room for; always shorter than `columns`.
fn bar_line(columns: usize, name: &str, done: u64, total: u64, rate: f64, left: Duration) -> String {
    let room = columns.saturating_sub(1);
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let percent = format!("{percent:>3}%");
    let bytes = format!(" {}/{}", format_bytes(done), format_bytes(total));
    // Before anything is done nothing is known of these.
    let rate = if done > 0 { format!(" {}/s", format_bytes(rate as u64)) } else { String::new() };
    let left = if done > 0 { format!(" {} left", format_duration(left)) } else { String::new() };
    let name = plain(name, (room / 4).max(3));
    let bare = name.chars().count() + 2 + percent.len();
    for (rest, bar) in
        [(format!("{bytes}{rate}{left}"), 16), (format!("{bytes}{rate}"), 12), (bytes, 8), (String::new(), 3)]
    {
        let taken = bare + rest.len();
        if taken + bar <= room {
            return format!("{name} {} {percent}{rest}", bar_of(room - taken, done, total));
        }
    }
    // What matters most.
    plain(&format!("{name} {}", percent.trim_start()), room)
}

/// A bar of exactly `room` columns.
fn bar_of(room: usize, done: u64, total: u64) -> String {
    let all = room as u128 * 8;
    let eighths = (u128::from(done) * all).checked_div(u128::from(total)).unwrap_or(all).min(all) as usize;
    format!("{:room$}", screen::bar(eighths))
}

/// Progress of one disk.
#[derive(Debug)]
pub struct Meter {
    state: Arc<State>,
    bar: Option<ProgressBar>,
    printer: Option<std::thread::JoinHandle<()>>,
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
    fn print_lines(&self) {
        let mut guard = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.ended.load(Ordering::SeqCst) {
            let (next, timeout) =
                self.wake.1.wait_timeout(guard, LINE_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            guard = next;
            if timeout.timed_out() && !self.ended.load(Ordering::SeqCst) {
                tracing::info!("{}", self.line(self.begin.elapsed()));
            }
        }
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
    fn bars_fit_any_window_and_are_as_documented() {
        ProgressStyle::with_template("{line}").unwrap();
        let line = |columns, done| bar_line(columns, "vda", done, 36 << 30, 412e6, Duration::from_secs(83));
        let page = include_str!("../../docs/first-backup.md");
        for (columns, done) in [(80, 3 << 30), (80, 27 << 30), (48, 27 << 30), (24, 27 << 30)] {
            assert!(page.contains(&line(columns, done)), "not in docs/first-backup.md:\n{}", line(columns, done));
        }
        for columns in 1..200 {
            for (name, done, total) in [("vda", 1 << 30, 3 << 30), ("\u{1b}[31m evil", 5, 4), ("x", 0, 0)] {
                let line = bar_line(columns, name, done, total, 1e300, Duration::MAX);
                assert!(line.chars().count() < columns.max(2), "{columns}: {line:?}");
                assert!(!line.contains('\u{1b}'), "{line:?}");
            }
        }
        assert!(line(80, 0).ends_with("  0% 0 B/36.0 GiB"), "{}", line(80, 0));
        assert!(line(12, 27 << 30).contains("75%"), "{}", line(12, 27 << 30));
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
