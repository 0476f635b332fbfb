//! `virtkeep unmap`.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::boot::request::{self, Order};
use crate::cli::map::Unmap;
use crate::commands::Session;
use crate::error::{Error, Kind};
use crate::exit::Exit;

/// Time for a map to answer what is in flight, and to write what it must.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends a map and waits until it has ended. Before, the domain that runs from it gets disks of its own, if that is asked
/// for.
pub fn run(args: &Unmap, session: &Session) -> Result<Exit> {
    let process = process_of(&args.map)?;
    check(process)?;
    match &args.copy_to {
        Some(place) => {
            let copy_to = std::path::absolute(place).map_err(|error| Error::io("find", error).path(place))?;
            // It ends by itself then.
            request::ask(process, &Order { copy_to, define: args.define }, session)?;
        }
        None => kill_process(process, Signal::TERM).map_err(|error| Error::io("end the map", error))?,
    }
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        match test_kill_process(process) {
            Err(Errno::SRCH) => return Ok(Exit::Done),
            _ if is_zombie(process) => return Ok(Exit::Done),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    Err(Error::new(Kind::Busy, format!("process {} does not end", process.as_raw_nonzero())).into())
}

/// The process that a number or a socket names.
fn process_of(map: &Path) -> Result<Pid> {
    let number = map.to_str().and_then(|text| text.parse::<i32>().ok());
    if let Some(process) = number.filter(|&number| number > 0).and_then(Pid::from_raw) {
        return Ok(process);
    }
    let failed = |error: std::io::Error| {
        let hint = "it takes the path of a map's socket, or the number of its process";
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Error::new(Kind::NotFound, "nobody listens there").path(map),
            _ => Error::io("connect", error).path(map).hint(hint),
        }
    };
    let stream = UnixStream::connect(map).map_err(failed)?;
    let peer = socket_peercred(&stream).map_err(|error| failed(error.into()))?;
    Ok(peer.pid)
}

/// Refuses to end what is no map.
fn check(process: Pid) -> Result<()> {
    let number = process.as_raw_nonzero();
    let path = format!("/proc/{number}/cmdline");
    let Ok(line) = std::fs::read(&path) else {
        return Err(Error::new(Kind::NotFound, format!("there is no process {number}")).into());
    };
    let mut words = line.split(|&byte| byte == 0);
    let is_map = words.any(|word| word == b"map");
    // A program that was replaced meanwhile is called "virtkeep (deleted)".
    let program = |process: &str| {
        let exe = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
        let name = exe.file_name()?.to_string_lossy().into_owned();
        Some(name.trim_end_matches(" (deleted)").to_owned())
    };
    if is_map && program(&number.to_string()) == program("self") {
        return Ok(());
    }
    Err(Error::usage(format!("process {number} is no map of this program"))
        .hint("end it by other means, if it is one")
        .into())
}

fn is_zombie(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
