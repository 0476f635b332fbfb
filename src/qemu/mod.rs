//! QEMU's own tools, run as child processes.
