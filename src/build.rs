//! Finds the C library libnbd with pkg-config; there is no binding crate for it on the registry.

#![allow(clippy::print_stdout, clippy::print_stderr)]

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    // 1.14 is Debian 12's; everything declared in `nbd/sys.rs` is in that release.
    if let Err(error) = pkg_config::Config::new().atleast_version("1.14").probe("libnbd") {
        eprintln!(
            "{error}\nhint: install the development files of libnbd and libvirt (Debian: apt-get install pkg-config libnbd-dev libvirt-dev)"
        );
        std::process::exit(1);
    }
}
