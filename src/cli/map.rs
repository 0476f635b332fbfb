//! `virtkeep map` and `virtkeep unmap`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Talk;

/// Serve a restore point's disks over NBD.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Map {
    /// Directory of the set, or its zip files: full.zip,inc1.zip; repeatable.
    #[arg(short, long, value_name = "SET", required_unless_present = "file")]
    pub input: Vec<PathBuf>,

    /// Only these disks (target names such as vda); repeatable, or separated by commas.
    #[arg(short, long, value_name = "DISK", value_delimiter = ',', conflicts_with = "file")]
    pub disk: Vec<String>,

    /// Restore point: a checkpoint, a run id (its first 4 characters will do), or a date in local time
    /// (YYYY-MM-DD, or with HH:MM too), which means the newest run started by then [default: the
    /// newest point]
    #[arg(short, long, value_name = "POINT", conflicts_with = "file")]
    pub until: Option<String>,

    /// One disk from exactly these streams, the full first.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub file: Vec<PathBuf>,

    /// Unix socket to listen on [default: one in the user's run directory]
    #[arg(short, long, value_name = "PATH", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,

    /// TCP address and port to listen on, such as 127.0.0.1:10809; port 0 takes a free one.
    #[arg(short, long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// Use TLS, and serve only clients with a certificate: directory with ca-cert.pem, server-cert.pem and
    /// server-key.pem, as QEMU has it.
    #[arg(long, value_name = "DIR", requires = "listen")]
    pub tls_cert: Option<PathBuf>,

    /// Let clients write. What they write is kept beside the backup, which is never changed, and is gone
    /// when the map ends.
    #[arg(short, long)]
    pub writable: bool,

    /// Keep what clients write in this file, and begin with what is in it already; one disk, implies
    /// --writable.
    #[arg(long, value_name = "FILE")]
    pub overlay: Option<PathBuf>,

    /// Directory for what clients write, without --overlay [default: $TMPDIR, or /var/tmp]
    #[arg(long, value_name = "DIR", conflicts_with = "overlay")]
    pub overlay_dir: Option<PathBuf>,

    /// Run a shell command with the URI of the first disk in $uri, of a disk such as vda in $uri_vda, the
    /// socket in $unixsocket; end the map after it, with its exit status.
    #[arg(short, long, value_name = "CMD", conflicts_with_all = ["detach", "fuse", "device"])]
    pub exec: Option<String>,

    /// Go on in the background once clients are served; virtkeep unmap ends it. Messages, of damage say, go
    /// to --log-file from then on, or nowhere.
    #[arg(long)]
    pub detach: bool,

    /// Write messages to this file, too, with their times.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Show each disk as a file of its name in this directory, by nbdfuse (package libnbd-bin or
    /// nbdfuse); needs no root.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tls_cert", "device"])]
    pub fuse: Option<PathBuf>,

    /// Attach the disk to this device of the kernel's nbd module, by nbd-client; one disk, needs root.
    #[arg(long, value_name = "/dev/nbdN", conflicts_with = "tls_cert")]
    pub device: Option<PathBuf>,

    /// Memory for blocks that were read.
    #[arg(long, value_name = "SIZE", default_value = "48M", value_parser = crate::units::parse_bytes)]
    pub cache: u64,

    /// Directory in which the tables of virtnbdbackup's streams are kept, so that those are read as a whole only
    /// the first time [default: $VIRTKEEP_CACHE_DIR; /var/cache/virtkeep as root, ~/.cache/virtkeep otherwise]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// End a map.
#[derive(Debug, Args)]
pub struct Unmap {
    /// The map's Unix socket, or its process id.
    #[arg(value_name = "SOCKET|PID")]
    pub map: PathBuf,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

const EXAMPLES: &str = "Examples:
  virtkeep map -i /backup/web -d vda                              URIs on standard output, until Ctrl-C
  virtkeep map -i /backup/web -u 2026-11-20 -d vda -e 'nbdinfo --map \"$uri\"'
  virtkeep map -i /backup/web -d vda -e 'nbdcopy \"$uri\" vda.raw'
  virtkeep map -i /backup/web -d vda -e 'guestfish --ro --format=raw -a \"$uri\" -i cat /etc/fstab'
  virtkeep map -i /backup/web -d vda --fuse /mnt/web              the disk as the file /mnt/web/vda
  virtkeep map -i /backup/web -d vda --writable --socket /run/web.sock --detach
  virtkeep unmap /run/web.sock

Nothing is restored and nothing mounted: blocks are read, and proven, when they are asked for. A
damaged block is an input/output error for who reads it, and a line here.";
