//! Backup suite for libvirt/QEMU virtual machines.
//!
//! A backup chain is a block device: every command is a copy between two block-shaped things. The
//! modules form layers, and imports go only within a layer or to one above it in this list:
//!
//! | layer | modules |
//! |---|---|
//! | base | [`units`], [`error`], [`fault`], [`cancel`], [`child`], [`lock`], [`proc_locks`], [`extent`], [`file_writer`], [`phrases`], [`side_by_side`], [`turnstile`] |
//! | formats | [`stored`] (a file where it lies: a directory, a zip file), [`stream`] (one disk in one backup), [`set`] (all files of a domain) |
//! | drivers | [`host`], [`libvirt`], [`nbd`], [`qemu`], [`guestfs`]: one outside system each; `unsafe` only in their `sys` files |
//! | engine | [`block`], [`chain_device`], [`pipeline`], [`mapped`] |
//! | front | [`cli`], [`commands`], [`ui`], [`signals`], [`exit`] |
//!
//! `docs/architecture.md` says what each of them owns.

pub mod block;
pub mod cancel;
pub mod chain_device;
pub mod child;
pub mod cli;
pub mod commands;
pub mod error;
pub mod exit;
pub mod extent;
pub mod fault;
pub mod file_writer;
pub mod guestfs;
pub mod host;
pub mod libvirt;
pub mod lock;
pub mod mapped;
pub mod nbd;
pub mod phrases;
pub mod pipeline;
pub mod proc_locks;
pub mod qemu;
pub mod set;
pub mod side_by_side;
pub mod signals;
pub mod stored;
pub mod stream;
pub mod target;
pub mod turnstile;
pub mod ui;
pub mod units;
