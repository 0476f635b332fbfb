//! The backup's side of [`crate::commands::guard`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::cli::Hypervisor;
use crate::commands::connect;
use crate::commands::guard::{READY, Way};
use crate::error::{Error, Kind, Result};
use crate::set::intent::Held;

/// How long the end of a run waits for the guard's.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that lets the guest go should this one be killed. Dropped, it ends: whatever it still guards
/// is released then.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    /// None only while dropping.
    orders: Option<ChildStdin>,
    held: Held,
}

impl Guard {
    /// Starts it and waits until it has a connection of its own. It lets a guest that stands still go after
    /// `limit`, also while this process lives.
    ///
    /// # Errors
    /// Where it can't be started or can't connect; it has said why.
    pub fn start(hypervisor: &Hypervisor, domain: Uuid, limit: Duration) -> Result<Self> {
        let way = Way {
            uri: connect::uri(hypervisor),
            user: hypervisor.user.clone(),
            password: connect::password(hypervisor)?,
            ssh_user: hypervisor.ssh_user.clone(),
            ssh_port: hypervisor.ssh_port,
            ssh_private_key: hypervisor.ssh_private_key.clone(),
            domain,
            limit: limit.as_secs(),
        };
        // The link is good even where the program was replaced since it was started.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("virtkeep").arg("guard").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| Error::io("start the guard", error))?;
        let orders = child.stdin.take();
        let answers = child.stdout.take();
        let mut guard = Self { child, orders, held: Held::default() };
        guard.send(&way)?;
        let mut answer = String::new();
        let read = answers.map(|pipe| BufReader::new(pipe).read_line(&mut answer));
        match read {
            Some(Ok(_)) if answer.trim_end() == READY => Ok(guard),
            _ => Err(Error::new(Kind::Io, "the guard did not start")),
        }
    }

    /// Says what to undo from now on: before it is done, and after it has been undone.
    ///
    /// # Errors
    /// [`Kind::Io`] if the guard is gone.
    pub fn watch(&mut self, held: Held) -> Result<()> {
        if held != self.held {
            self.send(&held)?;
            self.held = held;
        }
        Ok(())
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("tell the guard", error);
        let mut line = serde_json::to_vec(message).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // A child without the pipe that was asked for does not happen.
        self.orders.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&line)).map_err(failed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.orders.take());
        // One with nothing to do ends at once. One that still tries is left to itself: it says on stderr
        // how that ends.
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}
