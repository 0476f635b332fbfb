//! An NBD server: newstyle handshake, transmission, many clients.
//!
//! ```text
//! listener ─ accept ─▶ connection: handshake ─▶ threads: receive a request ─▶ answer it
//!                                                  └ one receives, the others work or send
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | numbers of the protocol, headers of replies |
//! | [`option`] | the options of the handshake: parsing and answers, no I/O |
//! | [`request`] | the requests of the transmission: parsing and rules, no I/O |
//! | [`handshake`] | the conversation up to the transmission |
//! | [`export`] | what is served: [`export::Export`] |
//! | [`gate`] | turns of clients at work that takes a processor |
//! | `transmission` | the threads of one connection |
//! | [`listener`] | sockets, counts of connections, the end |
//! | [`stream`] | a connection's bytes: Unix, TCP, TLS |
//! | [`tls`] | certificates |
//!
//! A client holds its own threads and their buffers, and no more: one that stops reading stops itself.
//! Everything that it sends is bounded before it is believed. The protocol is `doc/proto.md` of the
//! repository `NetworkBlockDevice/nbd`.

pub mod export;
pub mod gate;
pub mod handshake;
pub mod listener;
pub mod option;
pub mod request;
pub mod stream;
pub mod tls;
mod transmission;
pub mod wire;
