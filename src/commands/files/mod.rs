//! `virtkeep ls` and `virtkeep cp`: files out of a restore point.
//!
//! ```text
//! guestfish there? -> open the chains -> serve them on a socket of our own -> the appliance
//!   -> the volumes -> the one that is meant, mounted -> list, or copy -> appliance and server end
//! ```

pub mod cp;
mod destination;
mod guest;
pub mod ls;
mod place;
mod text;
mod unpack;
mod write;
