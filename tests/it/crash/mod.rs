//! Runs that fail, are killed, or lose what they work with: each costs only itself. The next run commits,
//! restores byte for byte, and leaves nothing behind.

mod daemon;
mod ended;
pub mod guest;
mod leaks;
mod locks;
mod others;
mod points;
mod power_loss;
mod raw;
mod scratch;
mod signals;
mod write_errors;
