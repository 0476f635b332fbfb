//! Holds reading back to a number of bytes a second, so that the guest keeps its disks' speed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::Result;

/// What one turn may read at most, as time at the full rate: longer bursts are felt by the guest.
const TURN: Duration = Duration::from_millis(100);

/// Longest sleep before the cancel flag is looked at.
const NAP: Duration = Duration::from_millis(50);

/// A number of bytes a second that threads share. What was not used is lost: a pause earns no burst.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When the next bytes may be read.
    free: Mutex<Instant>,
}

impl Pace {
    /// At least one byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Mutex::new(Instant::now()) }
    }

    /// Bytes to take at a time, so that the rate is even.
    fn turn(&self) -> u64 {
        (u128::from(self.bytes_per_second) * TURN.as_millis() / 1000).max(1) as u64
    }

    /// When `bytes` may be read; those who come later wait for them.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free).max(now);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free = start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        start
    }
}

/// Bytes that one read may take so that all of `paces` are even.
pub fn turn(paces: &[&Pace]) -> u64 {
    paces.iter().map(|pace| pace.turn()).min().unwrap_or(u64::MAX)
}

/// Waits until all of `paces` allow `bytes`.
///
/// # Errors
/// [`Kind::Cancelled`](crate::error::Kind::Cancelled).
pub fn wait(paces: &[&Pace], bytes: u64, cancel: &Cancel) -> Result<()> {
    let now = Instant::now();
    let start = paces.iter().map(|pace| pace.reserve(bytes, now)).max().unwrap_or(now);
    loop {
        cancel.check()?;
        let left = start.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(NAP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_at_the_rate_and_pauses_earn_nothing() {
        let pace = Pace::new(1000);
        let begin = Instant::now() + Duration::from_secs(1);
        assert_eq!(pace.reserve(500, begin), begin);
        assert_eq!(pace.reserve(100, begin), begin + Duration::from_millis(500));
        assert_eq!(pace.reserve(1, begin), begin + Duration::from_millis(600));
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.reserve(1000, later), later);
        assert_eq!(pace.reserve(1, later), later + Duration::from_secs(1));
    }

    #[test]
    fn the_slower_of_two_decides() {
        let (fast, slow) = (Pace::new(1 << 40), Pace::new(20));
        assert_eq!(turn(&[&fast, &slow]), 2);
        assert_eq!(turn(&[]), u64::MAX);
        let cancel = Cancel::new();
        wait(&[&fast, &slow], 1, &cancel).unwrap();
        cancel.cancel();
        // The second of these would last until tomorrow.
        assert!(wait(&[&fast, &slow], 1 << 30, &cancel).is_err());
    }
}
