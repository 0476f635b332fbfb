//! A command line of virtkeep's own, put together word by word. What is not said keeps its default.

use std::ffi::{OsStr, OsString};

use clap::Parser;

use crate::cli::dropin::{Logging, Remote};
use crate::cli::{Cli, Command};
use crate::error::{Error, Result};
use crate::host::address::Address;

/// The words.
#[derive(Debug)]
pub struct Words(Vec<OsString>);

impl Words {
    /// Of this command.
    pub fn of(command: &str) -> Self {
        Self(vec!["virtkeep".into(), command.into()])
    }

    /// `--NAME`, if it is `set`.
    pub fn flag(mut self, name: &str, set: bool) -> Self {
        if set {
            self.0.push(format!("--{name}").into());
        }
        self
    }

    /// `--NAME=VALUE`.
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        self.0.push(word);
        self
    }

    /// The same, if there is a value.
    pub fn maybe(self, name: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The same for a number.
    pub fn number(self, name: &str, value: Option<impl ToString>) -> Self {
        self.maybe(name, value.map(|value| value.to_string()))
    }

    /// How the hypervisor is reached.
    pub fn hypervisor(self, remote: &Remote) -> Self {
        let words = self
            .with("uri", &remote.uri)
            .maybe("user", remote.user.as_ref())
            .maybe("password", remote.password.as_ref())
            .maybe("password-file", remote.password_file.as_ref());
        match Address::parse(&remote.uri) {
            None => words,
            Some(_) => words
                .maybe("ssh-user", remote.ssh_user.as_ref())
                .number("ssh-port", remote.ssh_port)
                .maybe("ssh-private-key", remote.ssh_private_key.as_ref()),
        }
    }

    /// How the disks of another machine are read: over TCP, as virtnbdbackup does. For this machine the options
    /// mean nothing.
    pub fn network(self, remote: &Remote) -> Self {
        if Address::parse(&remote.uri).is_none() {
            return self;
        }
        self.number("nbd-port", Some(remote.nbd_port))
            .maybe("nbd-ip", remote.nbd_ip.as_ref())
            .flag("tls", remote.tls)
            .maybe("tls-cert", remote.tls_cert.as_ref().filter(|_| remote.tls))
    }

    /// How much is said.
    pub fn logging(self, logging: &Logging) -> Self {
        self.flag("noprogress", logging.noprogress).flag("nocolor", logging.nocolor).flag("verbose", logging.verbose)
    }

    /// What virtkeep makes of them.
    ///
    /// # Errors
    /// [`Usage`](crate::error::Kind::Usage) where options don't go together.
    pub fn parse(self) -> Result<Command> {
        tracing::debug!("virtkeep's own words: {:?}", hidden(&self.0));
        Cli::try_parse_from(self.0).map(|cli| cli.command).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Error::usage(first)
        })
    }
}

/// The words but for a password.
fn hidden(words: &[OsString]) -> Vec<&OsStr> {
    const SECRET: &[u8] = b"--password=";
    let is_secret = |word: &&OsString| word.as_encoded_bytes().starts_with(SECRET);
    words.iter().map(|word| if is_secret(&word) { OsStr::new("--password=...") } else { word.as_os_str() }).collect()
}
