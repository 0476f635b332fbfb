//! NBD as a client: one connection to one export, and what the server knows of its blocks.
//!
//! The wire protocol is libnbd's business; [`sys`] is the only file that touches it.

pub mod block_status;
pub mod capabilities;
pub mod client;
pub mod command;
mod drive;
pub mod sys;
pub mod uri;

#[cfg(test)]
pub(crate) mod testing;
