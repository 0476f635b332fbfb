//! Options of the handshake: what a client asks for and what it is answered. No I/O, so that any bytes
//! can be tried.

use super::export::{Exports, MAX_PAYLOAD, Named};
use super::wire::{self, Fields};

/// Longest name, by the protocol.
pub const MAX_NAME: usize = 4096;
/// Longest description that is sent.
const MAX_DESCRIPTION: usize = 1024;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const START_TLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;

const ERROR: u32 = 1 << 31;
const ERR_UNSUPPORTED: u32 = ERROR | 1;
const ERR_POLICY: u32 = ERROR | 2;
const ERR_INVALID: u32 = ERROR | 3;
const ERR_TLS_REQUIRED: u32 = ERROR | 5;
const ERR_UNKNOWN: u32 = ERROR | 6;
const ERR_TOO_BIG: u32 = ERROR | 9;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// The one meta context there is.
const ALLOCATION: &[u8] = b"base:allocation";
/// Its number in replies.
pub const ALLOCATION_ID: u32 = 1;

/// Whether and when a client must use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    None,
    /// Before anything else.
    Required,
    /// It has begun.
    Active,
}

/// What has been agreed on so far.
#[derive(Debug)]
pub struct Options<'e> {
    exports: &'e Exports,
    /// See [`Tls`].
    pub tls: Tls,
    /// The client wants no 124 zeroes behind the answer to `EXPORT_NAME`.
    pub no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    status_of: Option<Vec<u8>>,
}

/// The end of the handshake.
#[derive(Debug)]
pub struct Agreed<'e> {
    /// What the client uses.
    pub export: &'e Named,
    /// With chunks as replies.
    pub structured: bool,
    /// With `base:allocation`.
    pub status: bool,
}

/// What comes after the answer.
#[derive(Debug)]
pub enum Next<'e> {
    /// Another option.
    Option,
    /// TLS, then another option.
    StartTls,
    /// The transmission.
    Transmission(Agreed<'e>),
    /// The end of the connection.
    Close,
}

impl<'e> Options<'e> {
    /// Nothing is agreed on yet.
    pub fn new(exports: &'e Exports, tls: Tls) -> Self {
        Self { exports, tls, no_zeroes: false, structured: false, status_of: None }
    }

    /// Answers `option` with `data`; the bytes go to `answer`.
    pub fn answer(&mut self, option: u32, data: &[u8], answer: &mut Vec<u8>) -> Next<'e> {
        if self.tls == Tls::Required && !matches!(option, START_TLS | ABORT | EXPORT_NAME) {
            reply(answer, option, ERR_TLS_REQUIRED, b"this server wants TLS");
            return Next::Option;
        }
        match option {
            EXPORT_NAME => return self.export_name(data, answer),
            ABORT => {
                reply(answer, option, REP_ACK, b"");
                return Next::Close;
            }
            START_TLS => return self.start_tls(data, answer),
            LIST => self.list(data, answer),
            INFO | GO => return self.info(option, data, answer),
            STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply(answer, option, REP_ACK, b"");
            }
            STRUCTURED_REPLY => reply(answer, option, ERR_INVALID, b"this option has no data"),
            LIST_META_CONTEXT | SET_META_CONTEXT => self.meta_context(option, data, answer),
            _ => reply(answer, option, ERR_UNSUPPORTED, b"this option is not known"),
        }
        Next::Option
    }

    /// Refuses `option` for being too long.
    pub fn too_big(option: u32, answer: &mut Vec<u8>) {
        reply(answer, option, ERR_TOO_BIG, b"this option is too long");
    }

    fn export_name(&mut self, name: &[u8], answer: &mut Vec<u8>) -> Next<'e> {
        // This option has no way to say no.
        let Some(export) = self.exports.find(name).filter(|_| self.tls != Tls::Required) else { return Next::Close };
        answer.extend(export.export.size().to_be_bytes());
        answer.extend(export.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        self.agree(export, name)
    }

    fn agree(&self, export: &'e Named, name: &[u8]) -> Next<'e> {
        // Contexts were chosen for one export by name; under another name they don't count.
        let status = self.structured && self.status_of.as_deref() == Some(name);
        Next::Transmission(Agreed { export, structured: self.structured, status })
    }

    fn start_tls(&self, data: &[u8], answer: &mut Vec<u8>) -> Next<'e> {
        match self.tls {
            _ if !data.is_empty() => reply(answer, START_TLS, ERR_INVALID, b"this option has no data"),
            Tls::None => reply(answer, START_TLS, ERR_POLICY, b"this server has no TLS"),
            Tls::Active => reply(answer, START_TLS, ERR_INVALID, b"TLS has begun already"),
            Tls::Required => {
                reply(answer, START_TLS, REP_ACK, b"");
                return Next::StartTls;
            }
        }
        Next::Option
    }

    fn list(&self, data: &[u8], answer: &mut Vec<u8>) {
        if !data.is_empty() {
            reply(answer, LIST, ERR_INVALID, b"this option has no data");
            return;
        }
        for export in self.exports.iter() {
            let mut server = Vec::from((export.name.len() as u32).to_be_bytes());
            server.extend(export.name.as_bytes());
            server.extend(cut(&export.description));
            reply(answer, LIST, REP_SERVER, &server);
        }
        reply(answer, LIST, REP_ACK, b"");
    }

    fn info(&self, option: u32, data: &[u8], answer: &mut Vec<u8>) -> Next<'e> {
        let Some((name, wanted)) = decode_info(data) else {
            reply(answer, option, ERR_INVALID, b"this option is malformed");
            return Next::Option;
        };
        let Some(export) = self.exports.find(name) else {
            reply(answer, option, ERR_UNKNOWN, b"there is no such export; the list has those there are");
            return Next::Option;
        };
        let mut info = Vec::from(INFO_EXPORT.to_be_bytes());
        info.extend(export.export.size().to_be_bytes());
        info.extend(export.flags(self.structured).to_be_bytes());
        reply(answer, option, REP_INFO, &info);
        let mut tell = |kind: u16, content: &[u8]| {
            if wanted.contains(&kind) {
                reply(answer, option, REP_INFO, &[&kind.to_be_bytes(), content].concat());
            }
        };
        tell(INFO_NAME, export.name.as_bytes());
        tell(INFO_DESCRIPTION, cut(&export.description));
        let sizes = [1, export.export.preferred_block(), MAX_PAYLOAD];
        // Any offset and length will do, so a client that did not ask is served all the same.
        tell(INFO_BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
        reply(answer, option, REP_ACK, b"");
        if option == GO { self.agree(export, name) } else { Next::Option }
    }

    fn meta_context(&mut self, option: u32, data: &[u8], answer: &mut Vec<u8>) {
        let list = option == LIST_META_CONTEXT;
        if !list {
            self.status_of = None;
        }
        if !self.structured {
            reply(answer, option, ERR_INVALID, b"structured replies come first");
            return;
        }
        let Some((name, queries)) = decode_queries(data) else {
            reply(answer, option, ERR_INVALID, b"this option is malformed");
            return;
        };
        if self.exports.find(name).is_none() {
            reply(answer, option, ERR_UNKNOWN, b"there is no such export; the list has those there are");
            return;
        }
        let chosen = if list && queries.is_empty() {
            true
        } else {
            queries.iter().any(|query| *query == ALLOCATION || list && *query == b"base:")
        };
        if chosen {
            let id = if list { 0 } else { ALLOCATION_ID };
            reply(answer, option, REP_META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION].concat());
            if !list {
                self.status_of = Some(name.to_vec());
            }
        }
        reply(answer, option, REP_ACK, b"");
    }
}

fn cut(description: &str) -> &[u8] {
    let mut end = description.len().min(MAX_DESCRIPTION);
    while !description.is_char_boundary(end) {
        end -= 1;
    }
    &description.as_bytes()[..end]
}

/// Name and what is wanted of it.
fn decode_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string().filter(|name| name.len() <= MAX_NAME)?;
    let count = fields.u16()?;
    // The bytes bound the count.
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
    fields.0.is_empty().then_some((name, wanted))
}

/// Name and queries.
fn decode_queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields = Fields(data);
    let name = fields.string().filter(|name| name.len() <= MAX_NAME)?;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string().filter(|query| query.len() <= MAX_NAME)?);
    }
    fields.0.is_empty().then_some((name, queries))
}

fn reply(answer: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    answer.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
    answer.extend(option.to_be_bytes());
    answer.extend(kind.to_be_bytes());
    // Names, descriptions and contexts: a few KiB.
    answer.extend((data.len() as u32).to_be_bytes());
    answer.extend(data);
}
