//! What the tests share: a private libvirtd, domains written to from outside, runs of the program,
//! references to compare with.

mod background;
mod case;
mod compare;
mod domain;
mod lab;
mod loop_device;
mod random;
mod run;

pub use background::{Background, SLOWLY, random_disk, spawn, spawn_arguments, spawn_command, spawn_with};
pub use case::{Case, KIB, MIB, copy_of, files, listing, template};
pub use compare::{compare, content};
pub use domain::{Operation, TestDomain};
pub use lab::Lab;
pub use loop_device::Loop;
pub use random::Random;
pub use run::{CACHE, CONFIG, Run, program, run, virtkeep};
