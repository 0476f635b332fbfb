//! How a command line that is wrong ends.

use std::ffi::OsString;

use clap::Error;

use super::config::read::command_of;
use crate::exit::Exit;

/// The exit status: 2 is an alarm for monitoring systems, so their plugin ends with 3.
pub fn status(error: &Error, words: &[OsString]) -> i32 {
    if error.use_stderr() && is_plugin(words) { Exit::UNKNOWN.code() } else { error.exit_code() }
}

/// Whether the command is one that monitoring systems call.
pub fn is_plugin(words: &[OsString]) -> bool {
    command_of(words).as_deref() == Some("status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::read::program;

    #[test]
    fn a_plugin_that_is_called_wrongly_knows_nothing() {
        let status_of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            status(&program().try_get_matches_from(&words).unwrap_err(), &words)
        };
        assert_eq!(status_of("virtkeep status -i /a --no-such"), 3);
        assert_eq!(status_of("virtkeep status"), 3);
        assert_eq!(status_of("virtkeep status --help"), 0);
        assert_eq!(status_of("virtkeep dump --no-such"), 2);
    }
}
