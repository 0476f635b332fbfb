//! NBD as a client: one connection to one export, and what the server knows of its blocks. The wire
//! protocol is libnbd's business there; [`sys`] is the only file that touches it. And NBD as a server:
//! [`server`].

pub mod block_status;
pub mod capabilities;
pub mod client;
pub mod command;
mod drive;
pub mod server;
pub mod sys;
pub mod uri;

#[cfg(test)]
pub(crate) mod testing;
