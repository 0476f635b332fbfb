//! Domains on another host: a real sshd, libvirtd and QEMU in a network namespace of their own, see `tests/hosts.sh`.

mod guest;
pub mod hosts;
mod lost;
mod offline;
mod refused;
mod restored;
mod traces;
mod ways;
