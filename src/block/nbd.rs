//! An NBD export as a disk to read or to write, over a pool of connections.
//!
//! Several connections are used only if the server says that they see each other's writes
//! (multi-conn); else one.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::block::{BlockSink, BlockSource};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::extent::{self, Extent};
use crate::nbd::block_status::{self, ALLOCATION};
use crate::nbd::client::{Capabilities, Client, Limits, ReadPiece};
use crate::units::{align_down, align_up};

/// Connections to one export; each is used by one thread at a time.
#[derive(Debug)]
struct Pool {
    capabilities: Capabilities,
    idle: Mutex<Vec<Client>>,
    returned: Condvar,
}

impl Pool {
    fn connect(uri: &str, contexts: &[&str], connections: usize, cancel: &Cancel) -> Result<Self> {
        let first = Client::connect(uri, contexts, cancel)?;
        let capabilities = first.capabilities();
        let mut idle = vec![first];
        if capabilities.multi_conn {
            for _ in 1..connections {
                let next = Client::connect(uri, contexts, cancel)?;
                if next.size() != capabilities.size {
                    return Err(Error::unsupported("the NBD export changes its size"));
                }
                idle.push(next);
            }
        }
        Ok(Self { capabilities, idle: Mutex::new(idle), returned: Condvar::new() })
    }

    /// Lends a connection to `work`, waiting until one is free. Connections closed by an error stay
    /// in the pool: what uses them fails too.
    fn with<T>(&self, work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let client = loop {
            match idle.pop() {
                Some(client) => break client,
                None => idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(idle);
        let mut lent = Lent { pool: self, client: Some(client) };
        match &mut lent.client {
            Some(client) => work(client),
            None => Err(Error::usage("no connection")),
        }
    }

    fn connections(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Brings a connection back, after a panic too: others may be waiting for it.
struct Lent<'p> {
    pool: &'p Pool,
    client: Option<Client>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.client.take());
        self.pool.returned.notify_one();
    }
}

/// An NBD export that is read as a disk.
#[derive(Debug)]
pub struct NbdSource {
    pool: Pool,
}

impl NbdSource {
    /// Connects up to `connections` times; `contexts` are asked for besides base:allocation.
    pub fn connect(uri: &str, contexts: &[&str], connections: usize, cancel: &Cancel) -> Result<Self> {
        let contexts: Vec<&str> = std::iter::once(ALLOCATION).chain(contexts.iter().copied()).collect();
        Ok(Self { pool: Pool::connect(uri, &contexts, connections, cancel)? })
    }

    /// What the export can do.
    pub fn capabilities(&self) -> Capabilities {
        self.pool.capabilities
    }

    /// Connections that are idle now; all of them while nobody reads.
    pub fn idle_connections(&self) -> usize {
        self.pool.connections()
    }

    /// The blocks of the whole disk.
    pub fn allocation(&self) -> Result<Vec<Extent>> {
        self.pool.with(block_status::allocation)
    }

    /// The blocks that the bitmap `dirty_context` marks, over the whole disk.
    pub fn changed(&self, dirty_context: &str) -> Result<Vec<Extent>> {
        self.pool.with(|client| block_status::changed(client, dirty_context))
    }

    /// Fills all pieces over one connection; several threads may do so at once.
    pub fn read_scattered(&self, pieces: &mut [ReadPiece<'_>], limits: Limits) -> Result<()> {
        self.pool.with(|client| client.read_scattered(pieces, limits))
    }
}

impl BlockSource for NbdSource {
    fn size(&self) -> u64 {
        self.pool.capabilities.size
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let blocks = widen(&range, &self.pool.capabilities);
        let list = self.pool.with(|client| block_status::allocation_in(client, blocks))?;
        Ok(extent::clip(&list, range).collect())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.pool.with(|client| client.read_at(buffer, offset))
    }
}

/// An NBD export that is written as a disk.
#[derive(Debug)]
pub struct NbdSink {
    pool: Pool,
    zeroed: bool,
    /// Held while the first or last block of a range is read, changed and written back: two ranges
    /// may meet within a block of the server.
    edges: Mutex<()>,
}

impl NbdSink {
    /// Connects up to `connections` times; `zeroed` says that the export reads as zeroes now.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) if the export is read-only or the
    /// server cannot make writes durable.
    pub fn connect(uri: &str, connections: usize, zeroed: bool, cancel: &Cancel) -> Result<Self> {
        let pool = Pool::connect(uri, &[], connections, cancel)?;
        if pool.capabilities.read_only {
            return Err(Error::unsupported("the NBD export is read-only"));
        }
        if !pool.capabilities.flush {
            return Err(Error::unsupported("the NBD server has no flush: what is written there is never safe"));
        }
        Ok(Self { pool, zeroed, edges: Mutex::new(()) })
    }

    /// What the export can do.
    pub fn capabilities(&self) -> Capabilities {
        self.pool.capabilities
    }

    /// The sink, taking `block` bytes (a power of two) for the smallest unit of the server: the
    /// cluster size of an image that is written compressed, which QEMU takes in whole clusters only
    /// and, over 64 KiB, cannot announce. Writes of whole blocks cost one request, others several.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if it is not a possible block.
    pub fn aligned_to(mut self, block: u64) -> Result<Self> {
        let clients = self.pool.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        for client in clients {
            client.require_block(block)?;
            self.pool.capabilities = client.capabilities();
        }
        Ok(self)
    }

    /// Ends all connections in order.
    pub fn disconnect(self) -> Result<()> {
        let clients = self.pool.idle.into_inner().unwrap_or_else(PoisonError::into_inner);
        clients.into_iter().try_for_each(Client::disconnect)
    }

    /// Splits a range into the part that the server takes as it is and the edges that share a
    /// block with others: `(head, middle, tail)`, some of them empty.
    fn split(&self, range: &Range<u64>) -> [Range<u64>; 3] {
        let Capabilities { block_minimum, size, .. } = self.pool.capabilities;
        let start = align_up(range.start, block_minimum).min(range.end);
        // The last block of the disk may be a short one.
        let end = if range.end == size { size } else { align_down(range.end, block_minimum) }.max(start);
        [range.start..start, start..end, end..range.end]
    }

    /// Changes a part of a block (`None`: to zeroes) and leaves the rest as it is.
    fn patch(&self, range: Range<u64>, data: Option<&[u8]>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let whole = widen(&range, &self.pool.capabilities);
        // At most one block on each side, 32 MiB in the worst case.
        let mut block = vec![0; (whole.end - whole.start) as usize];
        let part = (range.start - whole.start) as usize..(range.end - whole.start) as usize;
        let _edge = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        self.pool.with(|client| {
            client.read_at(&mut block, whole.start)?;
            match data {
                Some(data) => block[part].copy_from_slice(data),
                None => block[part].fill(0),
            }
            // QEMU can't compress into a cluster that is allocated already: free it first.
            client.write_zeroes(whole.start, whole.end - whole.start, true)?;
            client.write_at(&block, whole.start)
        })
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.pool.capabilities.size => Ok(()),
            _ => Err(Error::usage("write beyond the end of the export").at(offset)),
        }
    }
}

impl BlockSink for NbdSink {
    fn size(&self) -> u64 {
        self.pool.capabilities.size
    }

    fn block(&self) -> u64 {
        self.pool.capabilities.block_minimum
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        let [head, middle, tail] = self.split(&(offset..offset + data.len() as u64));
        // All ranges lie within `data`.
        let of = |part: &Range<u64>| &data[(part.start - offset) as usize..(part.end - offset) as usize];
        self.patch(head.clone(), Some(of(&head)))?;
        self.pool.with(|client| client.write_at(of(&middle), middle.start))?;
        self.patch(tail.clone(), Some(of(&tail)))
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.check(range.start, range.end - range.start)?;
        let [head, middle, tail] = self.split(&range);
        self.patch(head, None)?;
        self.pool.with(|client| client.write_zeroes(middle.start, middle.end - middle.start, true))?;
        self.patch(tail, None)
    }

    fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    fn flush(&self) -> Result<()> {
        self.pool.with(Client::flush)
    }
}

/// `range` grown to whole blocks of the server.
fn widen(range: &Range<u64>, capabilities: &Capabilities) -> Range<u64> {
    let Capabilities { block_minimum, size, .. } = *capabilities;
    align_down(range.start, block_minimum)..align_up(range.end, block_minimum).min(size)
}

#[cfg(test)]
#[path = "nbd_tests.rs"]
mod tests;
