//! QEMU's own tools, run as child processes: qcow2 and the other formats are their business.

pub mod bitmap;
pub mod img;
pub mod lock;
pub mod nbd;
pub mod process;
