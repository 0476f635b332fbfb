//! What people see: [`log`] (messages on stderr and in the set's log file) and [`progress`]. Data
//! goes to stdout, from the commands themselves.

mod journal;
mod lines;
pub mod log;
pub mod progress;
pub mod screen;
mod syslog;
