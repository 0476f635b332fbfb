//! Bad input and bad luck: what is refused names the thing and the remedy, nothing is left behind,
//! and the next good run works.

mod chain;
mod damage;
mod hostile;
mod identity;
mod interrupt;
mod loss;
mod names;
mod restore;
mod stopped;
mod target;
mod terminal;
mod user;
