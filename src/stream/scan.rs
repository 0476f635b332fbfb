//! Builds the table of a stream without an index in one pass.
