//! The output of one command, up to its mark.

use std::io::Read;

use super::Shell;
use crate::error::{Error, Result};

/// Most reads of what a command still says when its output is of no more use: an error comes soon or not at all.
const MOST_REST: usize = 16;

/// What a command writes to standard output. [`Output::finish`] says whether it was all.
pub struct Output<'s> {
    pub(super) shell: &'s mut Shell,
    pub(super) ended: bool,
}

impl Output<'_> {
    /// The rest is dropped; fails if the command has failed.
    ///
    /// # Errors
    /// As for [`Shell::call`].
    pub fn finish(mut self) -> Result<()> {
        std::io::copy(&mut self, &mut std::io::sink()).map_err(|error| Error::io("hear guestfish", error))?;
        self.shell.in_order = true;
        self.shell.judge()
    }

    /// Whoever takes the output has failed: the error of the command, if that is why. What is still to come is not
    /// waited for; the guestfish is of no use afterwards.
    pub fn give_up(mut self) -> Option<Error> {
        let mut rest = [0; 64 << 10];
        for _ in 0..MOST_REST {
            match self.read(&mut rest) {
                Ok(0) => {
                    self.shell.in_order = true;
                    return self.shell.judge().err();
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// How many bytes may be taken: none that could be of the mark.
    fn at_hand(&mut self) -> usize {
        let (answer, mark) = (&self.shell.answer, &self.shell.mark);
        let mut from = 0;
        while let Some(found) = answer[from..].iter().position(|byte| *byte == mark[0]) {
            let rest = &answer[from + found..];
            if rest.starts_with(mark) {
                self.ended = true;
                return from + found;
            }
            if mark.starts_with(rest) {
                return from + found;
            }
            from += found + 1;
        }
        answer.len()
    }
}

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let ready = if self.ended && self.shell.answer.is_empty() { 0 } else { self.at_hand() };
            if ready > 0 {
                let count = ready.min(buffer.len());
                buffer[..count].copy_from_slice(&self.shell.answer[..count]);
                self.shell.answer.drain(..count);
                return Ok(count);
            }
            if self.ended {
                self.shell.answer.clear();
                return Ok(0);
            }
            if !self.shell.hear().map_err(std::io::Error::other)? {
                return Err(std::io::Error::other(self.shell.gone()));
            }
        }
    }
}
