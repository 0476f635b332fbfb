//! `virtkeep status`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Talk;

/// Say for monitoring whether the newest backup of each set is young and whole.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {
    /// Directories of sets; repeatable.
    #[arg(short, long, value_name = "SET", num_args = 1.., required = true)]
    pub input: Vec<PathBuf>,

    /// Critical where the newest backup is older than this, such as 26h or 8d; it is as old as its content.
    #[arg(long, value_name = "AGE", default_value = "26h", value_parser = parse_age)]
    pub max_age: Duration,

    /// Warn where it is older than this.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub warn_age: Option<Duration>,

    /// Warn where a restore of the newest point would read more runs than this.
    #[arg(long, value_name = "N")]
    pub max_chain: Option<usize>,

    /// Also write the figures as a text file for Prometheus' node exporter (*.prom), as a whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// Spans of time as they are written by people: `26h`, `1d 2h`, `90 min`.
fn parse_age(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|_| "a time such as 26h or 8d".to_owned())?;
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let age = span.to_duration(relative).ok().and_then(|age| Duration::try_from(age).ok());
    age.filter(|age| !age.is_zero()).ok_or_else(|| "a time of hours or days, such as 26h or 8d".to_owned())
}

const EXAMPLES: &str = "Examples:
  virtkeep status -i /backup/web                  for Nagios, Icinga, Zabbix
  virtkeep status -i /backup/* --max-age 8d       several: the worst counts
  virtkeep status -i /backup/web/*                the newest month counts
  virtkeep status -i /backup/web --metrics /var/lib/virtkeep/web.prom

Of several sets of one domain only the newest has to be fresh: a new chain ends the one before. The older \
ones have to be whole.

Only manifests and the sizes of files are read: `virtkeep verify` reads the data. A failed run leaves \
nothing in the set but its log; that it failed shows in the age of the newest backup.

Increments leave raw disks out: the line tells how old the newest image of each is.

Exit status, as monitoring plugins have it: 0 OK, 1 WARNING (old, long chain, old image of a raw disk, the run \
had warnings or was left unfinished), 2 CRITICAL (too old, none, damaged), 3 UNKNOWN (the set can't be read).";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(parse_age("26h").unwrap(), Duration::from_secs(26 * 3600));
        assert_eq!(parse_age("1d 2h").unwrap(), Duration::from_secs(26 * 3600));
        for bad in ["", "26", "0s", "-1h", "1 month", "soon", "99999999999999999999d"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
