//! The run after a power loss.
