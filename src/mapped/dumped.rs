//! An export whose reads are written to the log, byte by byte: `virtnbdmap -H`.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::extent::Extent;
use crate::nbd::server::export::Export;
use crate::nbd::server::gate::Turn;
use crate::phrases::CLASSIC;

/// Bytes of a line.
const LINE: usize = 16;

/// See the head of this file.
pub struct Dumped(pub Arc<dyn Export>);

impl Export for Dumped {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    fn preferred_block(&self) -> u32 {
        self.0.preferred_block()
    }

    fn read(&self, buffer: &mut [u8], offset: u64, turn: Option<&Turn<'_>>) -> Result<bool> {
        let is_read = self.0.read(buffer, offset, turn)?;
        if is_read {
            for (line, number) in buffer.chunks(LINE).zip(0..) {
                tracing::info!(target: CLASSIC, "{}", text(line, offset + number * LINE as u64));
            }
        }
        Ok(is_read)
    }

    fn extents(&self, range: Range<u64>, limit: usize) -> Vec<Extent> {
        self.0.extents(range, limit)
    }

    fn write(&self, data: &[u8], offset: u64, turn: &Turn<'_>) -> Result<()> {
        self.0.write(data, offset, turn)
    }

    fn write_zeroes(&self, range: Range<u64>, turn: &Turn<'_>) -> Result<()> {
        self.0.write_zeroes(range, turn)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
}

/// As `hexdump -C` does it.
fn text(bytes: &[u8], offset: u64) -> String {
    let mut line = format!("{offset:08x} ");
    for column in 0..LINE {
        if column % 8 == 0 {
            line.push(' ');
        }
        // Writing to a string does not fail.
        let _ = match bytes.get(column) {
            Some(byte) => write!(line, "{byte:02x} "),
            None => write!(line, "   "),
        };
    }
    let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
    line.push_str(&format!(" |{}|", bytes.iter().map(shown).collect::<String>()));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_hexdump() {
        assert_eq!(
            text(b"backup\0\xff of disk", 0x12340),
            "00012340  62 61 63 6b 75 70 00 ff  20 6f 66 20 64 69 73 6b  |backup.. of disk|"
        );
        assert_eq!(text(b"ab", 0), "00000000  61 62                                             |ab|");
    }
}
