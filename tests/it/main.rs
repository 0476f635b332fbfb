//! Integration tests: the real program against real libvirt, QEMU and NBD servers.
//!
//! Nothing is skipped: a missing tool is a failure, `tests/install.sh --tests` brings it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken assumption ends the test")]

mod bad;
mod config;
mod crash;
mod direct;
mod docs;
mod doctor;
mod drift;
mod dropin;
mod dump;
mod files;
mod fuzz;
mod guest;
mod interop;
mod lab;
mod many;
mod map;
mod offline;
mod packaging;
mod random;
mod raw;
mod rebuild;
mod remote;
mod restore;
mod status;
mod support;
mod verify;
mod watched;
mod zip;
