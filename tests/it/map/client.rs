//! An NBD client that sends whatever a test wants. Numbers as in the protocol.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Commands.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

/// A connection.
pub struct Client {
    pub stream: UnixStream,
    pub structured: bool,
    pub size: u64,
}

/// What a request was answered with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The protocol's error, 0 for none.
    pub error: u32,
    /// The content of a read.
    pub data: Vec<u8>,
    /// Lengths and flags of a status.
    pub extents: Vec<(u32, u32)>,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn greeted(socket: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(socket).unwrap();
        // Not to hang where the server fails.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream
    }

    /// Agrees on the export `name`, with all there is or with as little as possible.
    pub fn connect(socket: &Path, name: &str, structured: bool) -> Client {
        let mut stream = Self::greeted(socket);
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        if structured {
            assert_eq!(option(&mut stream, 8, &[]), [(1, vec![])]);
            let mut query = string(name);
            query.extend(1u32.to_be_bytes());
            query.extend(string("base:allocation"));
            let replies = option(&mut stream, 10, &query);
            assert_eq!(replies.len(), 2, "{replies:?}");
        }
        let mut go = string(name);
        go.extend(0u16.to_be_bytes());
        let replies = option(&mut stream, 7, &go);
        let info = &replies.iter().find(|(kind, _)| *kind == 3).expect("no information").1;
        assert_eq!(replies.last().unwrap().0, 1, "{replies:?}");
        let size = u64::from_be_bytes(info[2..10].try_into().unwrap());
        Client { stream, structured, size }
    }

    /// Sends a request.
    pub fn send(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        self.stream.write_all(&request(flags, command, cookie, offset, length)).unwrap();
    }

    /// Receives one whole reply: its cookie and what it says. `range` is what was asked for.
    pub fn receive(&mut self, wanted: impl Fn(u64) -> (u64, u32)) -> (u64, Answer) {
        let mut answer = Answer::default();
        let mut covered = 0;
        loop {
            let mut magic = [0; 4];
            self.stream.read_exact(&mut magic).unwrap();
            if u32::from_be_bytes(magic) == 0x6744_6698 {
                let mut rest = [0; 12];
                self.stream.read_exact(&mut rest).unwrap();
                answer.error = u32::from_be_bytes(rest[..4].try_into().unwrap());
                let cookie = u64::from_be_bytes(rest[4..].try_into().unwrap());
                if answer.error == 0 && !self.structured {
                    answer.data.resize(wanted(cookie).1 as usize, 0);
                    self.stream.read_exact(&mut answer.data).unwrap();
                }
                return (cookie, answer);
            }
            assert_eq!(u32::from_be_bytes(magic), 0x668e_33ef);
            let mut rest = [0; 16];
            self.stream.read_exact(&mut rest).unwrap();
            let flags = u16::from_be_bytes(rest[..2].try_into().unwrap());
            let kind = u16::from_be_bytes(rest[2..4].try_into().unwrap());
            let cookie = u64::from_be_bytes(rest[4..12].try_into().unwrap());
            let mut payload = vec![0; u32::from_be_bytes(rest[12..].try_into().unwrap()) as usize];
            self.stream.read_exact(&mut payload).unwrap();
            let (start, length) = wanted(cookie);
            let place = |payload: &[u8]| (u64::from_be_bytes(payload[..8].try_into().unwrap()) - start) as usize;
            match kind {
                0 => assert!(payload.is_empty() && flags == 1),
                1 | 2 => {
                    answer.data.resize(length as usize, 0xee);
                    let first = place(&payload);
                    if kind == 1 {
                        answer.data[first..first + payload.len() - 8].copy_from_slice(&payload[8..]);
                        covered += payload.len() - 8;
                    } else {
                        let len = u32::from_be_bytes(payload[8..].try_into().unwrap()) as usize;
                        answer.data[first..first + len].fill(0);
                        covered += len;
                    }
                }
                5 => {
                    assert_eq!(payload[..4], 1u32.to_be_bytes());
                    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
                    answer.extents =
                        payload[4..].chunks(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect();
                }
                _ if kind & 1 << 15 != 0 => answer.error = u32::from_be_bytes(payload[..4].try_into().unwrap()),
                _ => panic!("a chunk of kind {kind}"),
            }
            // Replies may be interleaved; this client asks for one thing at a time where it takes chunks.
            if flags & 1 == 1 {
                assert!(answer.error != 0 || covered == answer.data.len(), "{covered} of {}", answer.data.len());
                return (cookie, answer);
            }
        }
    }

    /// One request and its reply.
    pub fn ask(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> Answer {
        self.send(flags, command, 7, offset, length);
        // Only reads have content.
        let length = if command == READ { length } else { 0 };
        let (cookie, answer) = self.receive(|_| (offset, length));
        assert_eq!(cookie, 7);
        answer
    }

    /// Reads, which must succeed.
    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let answer = self.ask(0, READ, offset, length);
        assert_eq!(answer.error, 0, "read of {length} at {offset}");
        answer.data
    }

    /// Writes; the error.
    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let mut message = request(flags, WRITE, 9, offset, data.len() as u32);
        message.extend(data);
        self.stream.write_all(&message).unwrap();
        self.receive(|_| (0, 0)).1.error
    }
}

/// The bytes of a request.
pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::from(0x2560_9513u32.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// A string with its length.
pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = Vec::from((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// Sends an option and returns all replies to it: kind and data.
pub fn option(stream: &mut UnixStream, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut message = Vec::from(*b"IHAVEOPT");
    message.extend(option.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    stream.write_all(&message).unwrap();
    let mut replies = Vec::new();
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(u64::from_be_bytes(head[..8].try_into().unwrap()), 0x3_e889_0455_65a9);
        assert_eq!(u32::from_be_bytes(head[8..12].try_into().unwrap()), option);
        let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let mut data = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut data).unwrap();
        replies.push((kind, data));
        if kind == 1 || kind & 1 << 31 != 0 {
            return replies;
        }
    }
}
