//! The terminal that bars are drawn on. One that is gone, because a connection was lost or a window closed, takes
//! nothing any more, which is no reason for the work to fail: nothing here is an error, since `indicatif` panics on
//! those where a message steps around the bars.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;

use crate::ui::screen;

/// Standard error, written to when a picture is complete.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    picture: Mutex<String>,
}

impl Terminal {
    fn add(&self, text: &str) -> io::Result<()> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// A control sequence with a count, which has no effect for 0 (ECMA-48 takes that for 1).
    fn control(&self, count: usize, function: char) -> io::Result<()> {
        if count > 0 { self.add(&format!("\x1b[{count}{function}")) } else { Ok(()) }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let columns = screen::width_of(io::stderr()).unwrap_or(screen::USUAL);
        columns.try_into().unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        screen::height_of(io::stderr()).unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.control(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.control(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.control(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.control(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.add(s)?;
        self.add("\n")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.add(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let picture = std::mem::take(&mut *self.picture.lock().unwrap_or_else(PoisonError::into_inner));
        // One write, so that nothing of others gets in between; that it fails is nobody's business.
        let _ = io::stderr().write_all(picture.as_bytes());
        Ok(())
    }
}
