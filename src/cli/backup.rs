//! `virtkeep backup`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::config::Section;
use super::watched::Watched;
use super::{Hypervisor, Talk};
use crate::units::{KIB, MIB};

/// Back up domains, each into a directory of its own. One that is off is read from its images, and can't be
/// started until that is done.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(after_help = EXAMPLES)]
pub struct Backup {
    /// Domain to back up: its name or UUID; repeatable.
    #[arg(short, long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub domain: Vec<String>,

    /// Directory of the set; one domain and one chain each. It is created where it is missing. With several
    /// domains, or --all, each has a directory in it that is called like the domain. Codes in it are
    /// replaced: %d domain, %u its UUID, %Y year, %m month, %e day of the month, %F date, %G-%V year and week
    /// (ISO), %j day of the year, %H %M %S time, %% a percent sign.
    ///
    /// With - one domain's backup goes to standard output as a zip file, the disks one after another, for example
    /// to `ssh host 'cat > web.zip'`; what the next increment needs is kept as --state-dir says.
    #[arg(short, long, value_name = "DIR|-")]
    pub output: PathBuf,

    /// Directory for the records of backups that go to standard output: checkpoints, manifests, lock, no data.
    /// Codes in it are replaced as in -o [default: %d.virtkeep in the working directory]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// What to back up: everything without starting a chain (copy), everything (full), what changed
    /// since the last full or inc and a new checkpoint (inc), or without one (diff). auto is full in
    /// an empty directory and inc where a chain is.
    #[arg(short, long, value_enum, default_value_t = LevelArg::Auto)]
    pub level: LevelArg,

    /// Build the increment on this checkpoint of the chain instead of the newest one, because what was backed
    /// up since is lost, a zip file behind a pipe for example: it need not be there for a restore then.
    #[arg(long, value_name = "CHECKPOINT")]
    pub base: Option<String>,

    /// Only these disks (target names such as vda); repeatable, or separated by commas.
    #[arg(short, long, value_name = "DISK", value_delimiter = ',')]
    pub include: Vec<String>,

    /// All disks but these; repeatable, or separated by commas. With several domains, those that lack one of them are
    /// backed up all the same.
    #[arg(short = 'x', long, value_name = "DISK", value_delimiter = ',')]
    pub exclude: Vec<String>,

    /// Full and copy runs: raw disks too, on files and block devices, as verbatim images. They can't keep a
    /// bitmap: increments and diffs leave them out and say so, and a restore tells from which run they are.
    #[arg(short, long)]
    pub raw: bool,

    /// How full and copy runs are written: as a sparse stream, or as raw images of all their disks, which other
    /// programs can read, and which can't be compressed. Increments are streams in any case. Raw disks need -r
    /// with either.
    #[arg(short = 't', long = "type", value_name = "TYPE", value_enum, default_value_t = OutputType::Stream)]
    pub kind: OutputType,

    /// Compress with LZ4: level 1-2 fast, 3-16 high compression [without a level: 2]
    #[arg(
        short = 'z', long, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
        default_missing_value = "2", value_parser = clap::value_parser!(u8).range(1..=16)
    )]
    pub compress: Option<u8>,

    /// Disks at a time [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub worker: Option<u16>,

    /// Write what the guest zeroed or discarded as data, which takes its space, instead of recording that it is zero:
    /// of increments virtnbdrestore reads nothing else.
    #[arg(long)]
    pub no_sparse_detection: bool,

    /// Do nothing where an increment would be smaller than this (bytes, or with K, M, G, T).
    #[arg(short = 'T', long, value_name = "BYTES", value_parser = crate::units::parse_bytes)]
    pub threshold: Option<u64>,

    /// Print an estimate of the size and exit.
    #[arg(short, long)]
    pub printonly: bool,

    /// Exit with status 3 where there was a warning.
    #[arg(short = 'e', long)]
    pub strict: bool,

    /// Wait so long for another backup of the domain or into the directory to end [default: not at all]
    #[arg(long, value_name = "SECONDS", default_value = "0", hide_default_value = true, value_parser = parse_wait)]
    pub wait: Duration,

    /// Keep the data of a failed run, as NAME.RUN.partial: for a look, nothing uses it.
    #[arg(long)]
    pub keep_partial: bool,

    /// Permissions of new files in the set, in octal; directories get x where there is an r.
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    pub mode: u32,

    /// Remove older checkpoints of the chain than the newest N, at least 2, from the domain once the run is committed:
    /// their bitmaps cost the guest memory. Every point can still be restored, and virtnbdbackup 1.9 can
    /// continue the chain (2.28 refuses); a disk that was in none of the newest N runs is full in its next
    /// one [default: keep all]
    #[arg(long, value_name = "N", value_parser = parse_keep)]
    pub keep_checkpoints: Option<u64>,

    /// Several domains.
    #[command(flatten)]
    pub many: Many,

    /// The guest.
    #[command(flatten)]
    pub guest: Guest,

    /// Places on the domain's host.
    #[command(flatten)]
    pub places: Places,

    /// How fast.
    #[command(flatten)]
    pub speed: Speed,

    /// How the data of another host comes here.
    #[command(flatten)]
    pub network: Network,

    /// How the hypervisor is reached.
    #[command(flatten)]
    pub hypervisor: Hypervisor,

    /// How it is watched.
    #[command(flatten)]
    pub watched: Watched,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,

    /// What only the drop-in commands ask for.
    #[arg(skip)]
    pub classic: Classic,

    /// Whom `-x` was said of.
    #[arg(skip)]
    pub excluded: Excluded,

    /// The configuration's sections of domains, where more than one domain is, or may be, backed up.
    #[arg(skip)]
    #[serde(skip)]
    pub sections: BTreeMap<String, Section>,
}

/// Whom `-x` was said of: whether a disk that the domain lacks is a mistake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Excluded {
    /// This domain.
    #[default]
    Domain,
    /// Every domain that is ever backed up: the configuration has it, and not in the domain's section.
    Any,
    /// All domains of this run.
    Several,
}

/// Ways of virtnbdbackup that virtkeep has for the drop-in commands alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Classic {
    /// Scratch files are called `backup.RUN.DISK`: rules of AppArmor name them.
    pub scratch_names: bool,
    /// The caller has a log file in the set: none is made, and the manifest does not seal one.
    pub own_log: bool,
    /// The log in a zip file has virtnbdbackup's name.
    pub log_name: bool,
    /// `-x` may name disks that the domain does not have.
    pub any_exclude: bool,
    /// An estimate is a message, not data.
    pub estimate_as_message: bool,
    /// The extents must be those that `nbdinfo` reports.
    pub compare_extents: bool,
}

/// Which domains of a host, and how many at a time.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Several domains")]
pub struct Many {
    /// All domains that run.
    #[arg(long)]
    pub all: bool,

    /// With --all: those that are stopped, too.
    #[arg(long, requires = "all", conflicts_with = "domain")]
    pub inactive: bool,

    /// With --all: not this one, by its name or a pattern of names (*, ?, [abc]); repeatable.
    #[arg(long, value_name = "NAME", requires = "all", conflicts_with = "domain")]
    pub exclude_domain: Vec<String>,

    /// Domains at a time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub parallel: u16,

    /// Where runs at the same time note what room for scratch files they may take.
    #[arg(skip)]
    pub shared: Option<PathBuf>,

    /// The process of a domain tells its progress to the one that draws the bars.
    #[arg(skip)]
    pub tells: bool,
}

/// What happens to the guest at the moment of the backup.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Guest")]
pub struct Guest {
    /// Freeze only these filesystems; repeatable, or separated by commas [default: all]
    #[arg(short = 'F', long, value_name = "MOUNTPOINT", value_delimiter = ',')]
    pub freeze_mountpoint: Vec<String>,

    /// Give up freezing after this many seconds; the backup goes on without.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub freeze_timeout: Duration,

    /// Thaw and resume the guest after this many seconds even if the backup's job has not begun by then:
    /// because the host hangs, or the backup was stopped with Ctrl-Z.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub freeze_limit: Duration,

    /// Do not freeze the guest's filesystems.
    #[arg(long, conflicts_with_all = ["require_freeze", "freeze_mountpoint"])]
    pub no_freeze: bool,

    /// Fail where the guest's filesystems can't be frozen; those of a domain that is off need not be.
    #[arg(long)]
    pub require_freeze: bool,

    /// Pause the domain, if it runs, while the job starts.
    #[arg(long)]
    pub pause: bool,

    /// Save the media in CD-ROM and floppy drives, too, where they are image files of at most 64 MiB: the
    /// seeds of cloud-init are. A restore puts them beside the disks.
    #[arg(long)]
    pub include_cdrom: bool,

    /// Ask a Windows guest for the BitLocker recovery keys of its volumes, through its agent, and save them
    /// in the set, readable by its owner only. Whoever can read the set can read the disks then.
    #[arg(long)]
    pub bitlocker_keys: bool,

    /// Start a stopped domain, paused, for the backup; it is ended afterwards if it is still paused. Its owner
    /// can resume it meanwhile, while one that is read from its images can't be started.
    #[arg(short = 'S', long)]
    pub start_domain: bool,
}

/// Where things lie.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Places")]
pub struct Places {
    /// Keep the checkpoints' XML here, too, and redefine lost checkpoints from it.
    #[arg(short = 'C', long, value_name = "DIR")]
    pub checkpointdir: Option<PathBuf>,

    /// Directory on the domain's host for the job's scratch files; QEMU writes there what the guest
    /// overwrites while the backup runs, at most the size of its disks.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub scratchdir: PathBuf,

    /// Fail where the scratch directory has less room than the size of the disks, which is what the guest
    /// could overwrite meanwhile; else that is a warning.
    #[arg(long)]
    pub scratch_required: bool,

    /// Give the run up when less than this is left free in the scratch directory, so that the guest's
    /// writes don't fail [default: the larger of 1G and 5 %, of a small file system a quarter]
    #[arg(long, value_name = "BYTES", value_parser = crate::units::parse_bytes)]
    pub scratch_reserve: Option<u64>,

    /// Socket on the domain's host at which QEMU serves the disks [default: a new one in the
    /// domain's own directory, below /var/lib/libvirt/qemu, or in the scratch directory]
    #[arg(short = 'f', long, value_name = "PATH")]
    pub socketfile: Option<PathBuf>,
}

/// How fast the disks are read.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Speed")]
pub struct Speed {
    /// Read at most so many bytes a second, all disks of a domain together (with K, M, G): the guest's own reads
    /// and writes wait less. nice helps a little where processors are short, ionice with what is written: it is QEMU
    /// that reads the disks, not this process.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub rate_limit: Option<u64>,

    /// Read at most so many bytes a second of each disk.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub disk_rate_limit: Option<u64>,

    /// Connections to the server for each disk, each with a thread that reads, digests and compresses; one where
    /// the server allows no more, 90 in all [default: one for each processor, two where small pieces changed, shared by
    /// the disks that are copied at once, up to 6 for a disk, 16 with -z 3 and higher; of another host 12 together]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: Option<u8>,

    /// Bytes of one read request, 4K to 32M [default: 256K]
    #[arg(long, value_name = "BYTES", value_parser = parse_request)]
    pub request_size: Option<u64>,

    /// Write through the page cache where it would be avoided: ext4 and XFS on solid-state disks are written directly,
    /// in pieces of a MiB.
    #[arg(long)]
    pub page_cache: bool,
}

/// How the data of a domain on another host comes here.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Data of another host")]
pub struct Network {
    /// Read the disks through the ssh connection: nothing has to be open but sshd. This is the default; with
    /// the option it is tried even where it is not sure that the user may open QEMU's socket.
    #[arg(long, conflicts_with_all = ["nbd_port", "nbd_ip", "tls", "tls_cert"])]
    pub nbd_over_ssh: bool,

    /// Read the disks over TCP, at this port of the host; unencrypted without --tls, and open to everybody who
    /// reaches the port while the backup runs [default with -I or --tls: 10809]
    #[arg(short = 'P', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub nbd_port: Option<u16>,

    /// Address of the host at which QEMU serves the disks over TCP [default: the one of the URI]
    #[arg(short = 'I', long, value_name = "ADDRESS")]
    pub nbd_ip: Option<String>,

    /// Read the disks over TCP with TLS, and never without. The host needs libvirt's certificates for backups
    /// (backup_tls_x509_cert_dir in qemu.conf).
    #[arg(long)]
    pub tls: bool,

    /// Directory with ca-cert.pem, client-cert.pem and client-key.pem for --tls [default: ~/.pki/libnbd, then
    /// the system's authorities]
    #[arg(long, value_name = "DIR", requires = "tls")]
    pub tls_cert: Option<PathBuf>,
}

/// What `-t` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum OutputType {
    /// Sparse streams.
    #[default]
    Stream,
    /// Raw images.
    Raw,
}

/// What `-l` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum LevelArg {
    /// Everything, without a checkpoint.
    Copy,
    /// Everything; a chain starts.
    Full,
    /// What changed since the last full or inc.
    Inc,
    /// As inc, without a checkpoint.
    Diff,
    /// full or inc, as the directory demands.
    Auto,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("seconds from 1 to 3600".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match crate::units::parse_bytes(text.trim_end_matches("/s")) {
        Ok(0) => Err("no backup would ever be done".to_owned()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_request(text: &str) -> Result<u64, String> {
    match crate::units::parse_bytes(text) {
        Ok(size) if (4 * KIB..=32 * MIB).contains(&size) => Ok(size),
        Ok(_) => Err("4K to 32M".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    text.parse::<u32>().map(|seconds| Duration::from_secs(seconds.into())).map_err(|_| "a number of seconds".to_owned())
}

fn parse_keep(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count >= 2).ok_or_else(|| "a number, at least 2".to_owned())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & 0o600 == 0o600 && mode & !0o666 == 0 => Ok(mode),
        _ => Err("octal digits such as 0640; the owner reads and writes, nobody executes".to_owned()),
    }
}

const EXAMPLES: &str = "Examples:
  virtkeep backup -d web -o /backup/web          full at first, then incremental
  virtkeep backup -d web -o /backup/web -z       the same, compressed
  virtkeep backup -d web -o /backup/web-2026-11 -l full
                                                 a new chain in a new directory
  virtkeep backup -d web -o /tmp/web -l copy -x vdb
                                                 a copy, without disk vdb
  virtkeep backup -d web -o /backup/web -p       how much would it be?
  virtkeep backup -d web -o - --state-dir /var/lib/virtkeep/web \\
      | ssh host 'cat > web.1.zip'               a zip file elsewhere
  virtkeep backup --all -o /backup/%d/%Y-%m      all, a new chain each month
  virtkeep backup --all --exclude-domain 'test-*' --parallel 2 -o /backup
                                                 into /backup/NAME, two at once

The set's directory belongs to one domain and one chain. A failed run is undone: the next one goes on \
from the last run that was committed. A full into a new directory ends the domain's chain in the old \
one, also by way of -l auto; only -l copy leaves it alone. Of several domains one that fails never \
stops the others; the status is the worst of all.

With -o - the run is over when the reader has taken every byte; what becomes of them then is not known. \
So a full leaves the checkpoints of the chain before until a run after it has succeeded, and --base \
goes on from an older checkpoint where a zip file was lost. Let the shell say when the reader failed: \
set -o pipefail.";
