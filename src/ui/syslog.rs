//! Messages to the system's log: datagrams to `/dev/log`, where syslog daemons and systemd's journal listen.

use std::os::unix::net::UnixDatagram;

use tracing::Level;

const SOCKET: &str = "/dev/log";

/// Facility "user", as virtnbdbackup has it.
const FACILITY: u8 = 1 << 3;

/// A way to the system's log.
#[derive(Debug)]
pub struct Syslog(UnixDatagram);

/// syslog's number for a level.
pub fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Syslog {
    /// Opens it.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn open() -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        // A log daemon that hangs must not hold a backup up.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends a line as it is; what does not get through is lost.
    pub fn send(&self, level: Level, line: &str) {
        let _ = self.0.send(format!("<{}>{line}\0", FACILITY | severity(level)).as_bytes());
    }

    /// Sends a message as other programs do: time, program, process, and the domain that it is about.
    pub fn send_message(&self, level: Level, message: &str, domain: Option<&str>) {
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
        let whose = domain.map(|domain| format!("{domain}: ")).unwrap_or_default();
        let _ = self.0.send(
            format!("<{}>{time} virtkeep[{}]: {whose}{message}", FACILITY | severity(level), std::process::id())
                .as_bytes(),
        );
    }
}
