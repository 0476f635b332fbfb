//! A bar on a terminal, as wide as that is at the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressState, ProgressStyle};

use super::format_duration;
use crate::ui::screen::{self, plain, plain_end};
use crate::units::format_bytes;

/// How wide the longest name of a display's bars is: all begin in one column.
#[derive(Debug, Clone, Default)]
pub(super) struct Widest(Arc<AtomicUsize>);

impl Widest {
    fn note(&self, name: &str) {
        self.0.fetch_max(plain(name, usize::MAX).chars().count(), Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A style that draws the whole line itself.
pub(super) fn style(name: &str, widest: &Widest) -> ProgressStyle {
    widest.note(name);
    let (name, widest) = (name.to_owned(), widest.clone());
    let draw = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let columns = screen::width_of(std::io::stderr()).unwrap_or(screen::USUAL);
        let total = state.len().unwrap_or(0);
        let line = bar_line(columns, (&name, widest.get()), state.pos(), total, state.per_sec(), state.eta());
        // Writing to a line in memory cannot fail.
        let _ = out.write_str(&line);
    };
    // The template is a constant that a test renders.
    let style = ProgressStyle::with_template("{line}").unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("line", draw)
}

/// Name, in the room that the longest one has, bar, share, and as much of the rest as there is room for; always shorter
/// than `columns`.
fn bar_line(columns: usize, (name, widest): (&str, usize), done: u64, total: u64, rate: f64, left: Duration) -> String {
    let room = columns.saturating_sub(1);
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let percent = format!("{percent:>3}%");
    let bytes = format!(" {}/{}", format_bytes(done), format_bytes(total));
    // Before anything is done nothing is known of these.
    let rate = if done > 0 { format!(" {}/s", format_bytes(rate as u64)) } else { String::new() };
    let left = if done > 0 { format!(" {} left", format_duration(left)) } else { String::new() };
    // What names end with tells them apart.
    let most = (room / 4).max(3);
    let name = format!("{:1$}", plain_end(name, most), widest.min(most));
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
    plain(&format!("{} {}", name.trim_end(), percent.trim_start()), room)
}

/// A bar of exactly `room` columns.
fn bar_of(room: usize, done: u64, total: u64) -> String {
    let all = room as u128 * 8;
    let eighths = (u128::from(done) * all).checked_div(u128::from(total)).unwrap_or(all).min(all) as usize;
    format!("{:room$}", screen::bar(eighths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fit_any_window_and_are_as_documented() {
        ProgressStyle::with_template("{line}").unwrap();
        let line = |columns, done| bar_line(columns, ("vda", 3), done, 36 << 30, 412e6, Duration::from_secs(83));
        let page = include_str!("../../../docs/first-backup.md");
        for (columns, done) in [(80, 3 << 30), (80, 27 << 30), (48, 27 << 30), (24, 27 << 30)] {
            assert!(page.contains(&line(columns, done)), "not in docs/first-backup.md:\n{}", line(columns, done));
        }
        for columns in 1..200 {
            for (name, done, total) in [("vda", 1 << 30, 3 << 30), ("\u{1b}[31m evil", 5, 4), ("x", 0, 0)] {
                let line = bar_line(columns, (name, columns % 40), done, total, 1e300, Duration::MAX);
                assert!(line.chars().count() < columns.max(2), "{columns}: {line:?}");
                assert!(!line.contains('\u{1b}'), "{line:?}");
            }
        }
        assert!(line(80, 0).ends_with("  0% 0 B/36.0 GiB"), "{}", line(80, 0));
        assert!(line(12, 27 << 30).contains("75%"), "{}", line(12, 27 << 30));
    }

    #[test]
    fn bars_begin_in_one_column() {
        let widest = Widest::default();
        for name in ["web01: vda", "mail: vda", "\u{1b}"] {
            style(name, &widest);
        }
        let line = |name| bar_line(80, (name, widest.get()), 1 << 20, 1 << 20, 1.0, Duration::ZERO);
        for (name, begin) in [("web01: vda", "web01: vda █"), ("mail: vda", "mail: vda  █")] {
            assert!(line(name).starts_with(begin), "{}", line(name));
        }
    }
}
