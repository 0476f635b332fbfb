//! What kind of qcow2 image is made: the options of `qemu-img create`, as numbers.

use crate::error::{Error, Result};
use crate::qemu::img::CreateOptions;

/// Bytes of a cluster where nothing else is asked for, as with `qemu-img`.
const USUAL_CLUSTER: u64 = 64 << 10;

/// Bits of a reference count where nothing else is asked for, and always in version 2.
const USUAL_REFCOUNT_BITS: u64 = 16;

/// Cluster sizes that QEMU opens.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Smallest cluster that has subclusters.
const MIN_EXTENDED_CLUSTER: u64 = 16 << 10;

/// Parts of a cluster that are allocated one by one in an image with subclusters.
pub const SUBCLUSTERS: u64 = 32;

/// Properties of an image that say where its parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes the guest sees.
    pub size: u64,
    /// Bytes of a cluster, a power of two.
    pub cluster: u64,
    /// Bits of a reference count, a power of two.
    pub refcount_bits: u64,
    /// Version 2, `compat=0.10`.
    pub is_old: bool,
    /// Reference counts may be rebuilt after a crash.
    pub lazy_refcounts: bool,
    /// Subclusters.
    pub extended_l2: bool,
    /// Clusters that will be compressed are so with zstd.
    pub zstd: bool,
}

impl Geometry {
    /// The geometry of an image of `size` bytes that is made with `options`. Data file and space to set aside are
    /// not part of it.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) for what no qcow2 image can be: options come from
    /// manifests.
    pub fn new(size: u64, options: &CreateOptions) -> Result<Self> {
        let is_old = match options.compat.as_deref() {
            None | Some("1.1" | "v3") => false,
            Some("0.10" | "v2") => true,
            Some(other) => return Err(cannot_be(format!("compat={other:?}"))),
        };
        let zstd = match options.compression_type.as_deref() {
            None | Some("zlib") => false,
            Some("zstd") => true,
            Some(other) => return Err(cannot_be(format!("compression_type={other:?}"))),
        };
        let geometry = Self {
            size,
            cluster: options.cluster_size.unwrap_or(USUAL_CLUSTER),
            refcount_bits: options.refcount_bits.filter(|_| !is_old).unwrap_or(USUAL_REFCOUNT_BITS),
            is_old,
            lazy_refcounts: options.lazy_refcounts.unwrap_or_default() && !is_old,
            extended_l2: options.extended_l2.unwrap_or_default() && !is_old,
            zstd: zstd && !is_old,
        };
        geometry.check()?;
        Ok(geometry)
    }

    fn check(&self) -> Result<()> {
        let Self { size, cluster, refcount_bits, extended_l2, .. } = *self;
        let possible = cluster.is_power_of_two() && CLUSTER_BITS.contains(&cluster.trailing_zeros());
        if !possible {
            return Err(cannot_be(format!("cluster_size={cluster}")));
        }
        if extended_l2 && cluster < MIN_EXTENDED_CLUSTER {
            return Err(cannot_be(format!(
                "extended_l2=on and cluster_size={cluster}, which is under {MIN_EXTENDED_CLUSTER}"
            )));
        }
        if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
            return Err(cannot_be(format!("refcount_bits={refcount_bits}")));
        }
        if size % 512 != 0 {
            return Err(cannot_be(format!("a size of {size} bytes")));
        }
        Ok(())
    }

    /// Bytes of an entry of an L2 table.
    pub fn l2_entry(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Clusters of the guest that an L2 table is for.
    pub fn l2_entries(&self) -> u64 {
        self.cluster / self.l2_entry()
    }

    /// Clusters of the file that a refcount block is for.
    pub fn refcounts(&self) -> u64 {
        self.cluster * 8 / self.refcount_bits
    }
}

fn cannot_be(what: String) -> Error {
    Error::unsupported(format!("no qcow2 image can have {what}"))
}
