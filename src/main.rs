//! The `virtkeep` program.
fn main() {}
