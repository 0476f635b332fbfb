//! An image that is served for a run, on the domain's machine: a `qemu-nbd` of ours, here or there.

use std::ffi::OsString;
use std::path::Path;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::serve::Served;
use crate::qemu::img;
use crate::qemu::nbd::{QemuNbd, ServeOptions};

/// The server; ended on drop, and with this process. [`Server::finish`] ends it in order.
#[derive(Debug)]
pub enum Server {
    /// Of an image of this machine.
    Here(QemuNbd),
    /// Of an image of another one, through ssh.
    There(Served),
}

impl Server {
    /// Serves an image of that format read-only.
    ///
    /// # Errors
    /// As for [`QemuNbd::serve`] and [`Served::start`].
    pub fn start(host: &Host, image: &Path, format: &str, options: &ServeOptions, cancel: &Cancel) -> Result<Self> {
        match host {
            Host::Local => Ok(Self::Here(QemuNbd::serve(image, format, options, cancel)?)),
            Host::Ssh(ssh) => {
                let mut arguments = ["--persistent", "--read-only"].map(OsString::from).to_vec();
                arguments.push(format!("--shared={}", options.connections.max(1)).into());
                arguments.extend(options.bitmap.as_ref().map(|bitmap| format!("--bitmap={bitmap}").into()));
                arguments.extend(["--image-opts".into(), "--".into(), img::file_opts(image, format, false)]);
                Ok(Self::There(Served::start(ssh, &arguments, cancel).map_err(|error| error.path(image))?))
            }
            Host::Closed(_) => Err(Error::unsupported("the images of a host whose files can't be got at").path(image)),
        }
    }

    /// The NBD URI to connect to.
    pub fn uri(&self) -> String {
        match self {
            Self::Here(server) => server.uri(),
            Self::There(server) => server.uri(),
        }
    }

    /// Ends the server and checks that it closed the image in order.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io) where it did not.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Here(server) => server.finish(),
            Self::There(server) => server.finish(),
        }
    }
}
