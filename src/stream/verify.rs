//! Checks every byte of a stream.
