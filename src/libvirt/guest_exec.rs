//! A program run inside the guest by its agent.

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::Domain;
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};

/// Between two questions whether it has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What a program in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Its exit status; none where a signal or an exception ended it.
    pub status: Option<i64>,
    /// Its standard output, at most as much as the agent keeps (16 MiB).
    pub output: Vec<u8>,
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    #[serde(rename = "exitcode")]
    exit_code: Option<i64>,
    out_data: Option<String>,
}

/// Runs `program`, which the guest finds on its search path, and waits for its end. After `limit` it is
/// left to itself.
///
/// # Errors
/// By libvirt's code: there is no agent, it refuses to run programs, the guest has no such program.
/// [`Kind::Busy`] if it does not end in time, [`Kind::Cancelled`].
pub fn run(domain: &Domain, program: &str, arguments: &[&str], limit: Duration, cancel: &Cancel) -> Result<Executed> {
    let deadline = Instant::now() + limit;
    let what = format!("run {program} in the guest");
    let started = json!({"path": program, "arg": arguments, "capture-output": true});
    let Started { pid } = ask(domain, &what, "guest-exec", &started, limit)?;
    loop {
        cancel.check()?;
        let status: Status = ask(domain, &what, "guest-exec-status", &json!({"pid": pid}), limit)?;
        if status.exited {
            let output = STANDARD.decode(status.out_data.unwrap_or_default());
            let output = output.map_err(|error| bad(domain, &what).caused_by(error))?;
            return Ok(Executed { status: status.exit_code, output });
        }
        if Instant::now() >= deadline {
            let message = format!("domain {}: {what}: it does not end within {} s", domain.name(), limit.as_secs());
            return Err(Error::new(Kind::Busy, message));
        }
        thread::sleep(LOOK);
    }
}

fn ask<T: for<'d> Deserialize<'d>>(
    domain: &Domain,
    what: &str,
    command: &str,
    arguments: &serde_json::Value,
    limit: Duration,
) -> Result<T> {
    let command = json!({"execute": command, "arguments": arguments}).to_string();
    let seconds = i32::try_from(limit.as_secs().max(1)).unwrap_or(i32::MAX);
    let answer = domain.during(what, domain.sys.agent_command(&command, seconds))?;
    let answer: Answer<T> = serde_json::from_str(&answer).map_err(|error| bad(domain, what).caused_by(error))?;
    Ok(answer.value)
}

fn bad(domain: &Domain, what: &str) -> Error {
    Error::new(Kind::Protocol, format!("domain {}: {what}: the agent's answer makes no sense", domain.name()))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = r#"{"return":{"exited":true,"exitcode":3,"out-data":"YWI=","out-truncated":false}}"#;
        let answer: Answer<Status> = serde_json::from_str(text).unwrap();
        assert!(answer.value.exited && answer.value.exit_code == Some(3));
        assert_eq!(STANDARD.decode(answer.value.out_data.unwrap()).unwrap(), b"ab");
        let answer: Answer<Status> = serde_json::from_str(r#"{"return":{"exited":false}}"#).unwrap();
        assert!(!answer.value.exited && answer.value.out_data.is_none());
    }
}
