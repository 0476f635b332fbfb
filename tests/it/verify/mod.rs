//! `verify` beyond the files: the content of every restore point, and the domain as it is now.

mod deep;
mod host;
mod live;
