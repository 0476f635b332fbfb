//! `virtnbdmap`.

use anyhow::Result;

use super::words::Words;
use crate::cli::Command;
use crate::cli::dropin::map::Options;
use crate::cli::map::{Classic, Map};
use crate::commands::{Session, map};
use crate::error::{self, Error};
use crate::exit::Exit;

/// Maps a chain of files to a block device until a signal.
pub fn run(options: &Options, session: &Session) -> Result<Exit> {
    map::run(&translate(options)?, session)
}

/// virtkeep's own options for the same. Threads and block size are the server's own affair.
fn translate(options: &Options) -> error::Result<Map> {
    let words = Words::of("map")
        .with("file", &options.file)
        .with("device", &options.device)
        .with("listen", format!("{}:{}", bracketed(&options.listen_address), options.listen_port))
        // What is written is gone at the end, as there.
        .flag("writable", !options.readonly)
        .logging(&options.logging);
    match words.parse()? {
        Command::Map(args) => {
            let classic = Classic { export_name: Some(options.export_name.clone()), hexdump: options.hexdump };
            Ok(Map { classic, ..*args })
        }
        _ => Err(Error::usage("not a map")),
    }
}

/// An IPv6 address before a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') && !address.starts_with('[') { format!("[{address}]") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn map(words: &[&str]) -> error::Result<Map> {
        let words: Vec<&str> = ["virtnbdmap"].iter().chain(words).copied().collect();
        translate(&Options::try_parse_from(words).unwrap())
    }

    #[test]
    fn its_options_are_translated() {
        let args = map(&["-f", "a.full.data,a.inc.1.data", "-t", "4", "-b", "512", "-e", "vda"]).unwrap();
        assert_eq!(args.chains.file.len(), 2);
        assert!(args.writable && args.device.as_deref() == Some(std::path::Path::new("/dev/nbd0")));
        assert_eq!(args.listen.unwrap().to_string(), "127.0.0.1:10809");
        let args = map(&["-f", "a", "-r", "-d", "/dev/nbd7", "-l", "::1", "-p", "1"]).unwrap();
        assert!(!args.writable && args.device.as_deref() == Some(std::path::Path::new("/dev/nbd7")));
        assert_eq!(args.listen.unwrap().to_string(), "[::1]:1");
        let args = map(&["-f", "a", "-H", "-e", "disk"]).unwrap();
        assert!(args.classic.hexdump && args.classic.export_name.as_deref() == Some("disk"));
    }
}
