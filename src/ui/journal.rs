//! Messages to systemd's journal, with fields. Source: systemd's "Native Journal Protocol" and, for
//! `$JOURNAL_STREAM`, systemd.exec(5).

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
use tracing::Level;

use super::lines::About;
use super::syslog::severity;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A journal that hangs must not hold a backup up for longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A way to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    place: PathBuf,
}

/// Whether what is written to stderr goes to the journal: systemd says which socket it gave a service for that.
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let numbers = stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let Some((device, inode)): Option<(u64, u64)> = numbers else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
}

impl Journal {
    /// Opens it.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn open() -> std::io::Result<Self> {
        Self::open_at(Path::new(SOCKET))
    }

    fn open_at(place: &Path) -> std::io::Result<Self> {
        UnixDatagram::unbound()?.connect(place)?;
        // Not connected: a journal that is restarted is found again.
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, place: place.to_owned() })
    }

    /// Sends a message; false where it did not get through.
    pub fn send(&self, level: Level, message: &str, about: &About) -> bool {
        let entry = entry(level, message, about);
        match self.socket.send_to(&entry, &self.place) {
            Ok(_) => true,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) => self.send_file(&entry).is_ok(),
            Err(_) => false,
        }
    }

    /// What is too long for a datagram goes as a file that can't be changed any more.
    fn send_file(&self, entry: &[u8]) -> std::io::Result<()> {
        let file = memfd_create("journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(entry)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let address = SocketAddrUnix::new(&self.place)?;
        sendmsg_addr(&self.socket, &address, &[IoSlice::new(&[])], &mut control, SendFlags::empty())?;
        Ok(())
    }
}

/// A message as the journal takes it.
fn entry(level: Level, message: &str, about: &About) -> Vec<u8> {
    let mut entry = Vec::new();
    let severity = severity(level).to_string();
    let About { domain, disk, run } = about;
    let fields = [
        ("MESSAGE", Some(message)),
        ("PRIORITY", Some(severity.as_str())),
        ("SYSLOG_IDENTIFIER", Some("virtkeep")),
        ("VIRTKEEP_DOMAIN", domain.as_deref()),
        ("VIRTKEEP_DISK", disk.as_deref()),
        ("VIRTKEEP_RUN", run.as_deref()),
    ];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        entry.extend(name.as_bytes());
        if value.contains('\n') {
            // With its length, so that nothing in it is taken for a field.
            entry.push(b'\n');
            entry.extend((value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_fields_and_no_others() {
        let about = About { domain: Some("web".into()), disk: Some("vda".into()), run: None };
        let text = entry(Level::WARN, "less room", &about);
        let expected =
            "MESSAGE=less room\nPRIORITY=4\nSYSLOG_IDENTIFIER=virtkeep\nVIRTKEEP_DOMAIN=web\nVIRTKEEP_DISK=vda\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let evil = entry(Level::ERROR, "a\nPRIORITY=7", &About::default());
        assert!(evil.starts_with(b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=7\nPRIORITY=3\n"), "{evil:?}");
    }

    #[test]
    fn what_is_too_long_for_a_datagram_comes_as_a_file() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        use std::io::{IoSliceMut, Read, Seek};

        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("socket");
        assert!(Journal::open_at(&place).is_err());
        let listener = UnixDatagram::bind(&place).unwrap();
        let journal = Journal::open_at(&place).unwrap();
        let long = "x".repeat(4 << 20);
        assert!(journal.send(Level::INFO, &long, &About::default()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut nothing = [0; 16];
        let received =
            recvmsg(&listener, &mut [IoSliceMut::new(&mut nothing)], &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(received.bytes, 0);
        let files = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let mut file = File::from(files.unwrap());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("MESSAGE=xxx") && text.contains(&long) && text.ends_with("SYSLOG_IDENTIFIER=virtkeep\n")
        );
    }
}
