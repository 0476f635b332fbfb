//! `virtkeep map` and `virtkeep unmap`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::chains::Chains;
use super::{Hypervisor, Talk};

/// Serve a restore point's disks over NBD.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Map {
    /// Whose disks.
    #[command(flatten)]
    pub chains: Chains,

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

    /// Running the machine from its backup.
    #[command(flatten)]
    pub boot: Boot,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,

    /// What only virtnbdmap asks for.
    #[arg(skip)]
    pub classic: Classic,
}

/// Ways of virtnbdmap that virtkeep has for it alone.
#[derive(Debug, Default)]
pub struct Classic {
    /// Name of the export instead of the disk's.
    pub export_name: Option<String>,
    /// What is read is written to the log.
    pub hexdump: bool,
}

/// Running the machine from its backup.
#[derive(Debug, Args)]
#[command(next_help_heading = "Running the machine from its backup")]
pub struct Boot {
    /// Run the machine from the map, at once, as a domain of libvirt's that is forgotten when it ends; implies
    /// --writable. It has no network, and none of the devices of the original's host. Its name is printed.
    #[arg(long, conflicts_with_all = ["file", "fuse", "device", "tls_cert"])]
    pub boot: bool,

    /// Name of the domain; under the original's own name it takes its place, with UUID and MAC addresses [default:
    /// the original's with -boot at the end]
    #[arg(long, value_name = "NAME", requires = "boot")]
    pub name: Option<String>,

    /// Memory of the domain [default: as much as the original's]
    #[arg(long, value_name = "SIZE", requires = "boot", value_parser = crate::units::parse_bytes)]
    pub memory: Option<u64>,

    /// Connect its network cards to this network of libvirt's.
    #[arg(long, value_name = "NETWORK", requires = "boot")]
    pub network: Option<String>,

    /// Connect its network cards to what the original's are connected to.
    #[arg(long, requires = "boot", conflicts_with = "network")]
    pub original_network: bool,

    /// Wait up to so many seconds until the guest agent answers, before anything else is done; if it does not,
    /// that is a failure.
    #[arg(long, value_name = "SECONDS", requires = "boot", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub wait_agent: Option<u64>,

    /// Copy the disks of the running domain to new images in this directory; then the map ends, and the domain goes
    /// on with them.
    #[arg(long, value_name = "DIR", requires = "boot", conflicts_with_all = ["exec", "detach"])]
    pub copy_to: Option<PathBuf>,

    /// Define the domain that goes on, so that it is still known when it ends.
    #[arg(short = 'D', long, requires = "copy_to")]
    pub define: bool,

    /// How the hypervisor is reached.
    #[command(flatten)]
    pub hypervisor: Hypervisor,
}

/// End a map.
#[derive(Debug, Args)]
#[command(after_help = UNMAP_HELP)]
pub struct Unmap {
    /// The map's Unix socket, or its process id.
    #[arg(value_name = "SOCKET|PID")]
    pub map: PathBuf,

    /// Let the domain that runs from the map live on: copy its disks, while it runs, to new images in this
    /// directory, with which it goes on; then the map ends. Ctrl-C and failures leave it running from the map.
    #[arg(long, value_name = "DIR")]
    pub copy_to: Option<PathBuf>,

    /// Define the domain that goes on, so that it is still known when it ends.
    #[arg(short = 'D', long, requires = "copy_to")]
    pub define: bool,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

const UNMAP_HELP: &str = "Examples:
  virtkeep unmap /run/web.sock
  virtkeep unmap 4711 --copy-to /var/lib/libvirt/images --define

QEMU's user makes the images, and must be able to write to the directory. Copies of the files of \
the domain's firmware (UEFI variables, kernel, initial ramdisk) are put beside them. Without \
--define a file NAME.xml is left there, with which `virsh define` keeps the domain.";

const EXAMPLES: &str = "Examples:
  virtkeep map -i /backup/web -d vda                     URIs, until Ctrl-C
  virtkeep map -i /backup/web -u 2026-11-20 -d vda -e 'nbdinfo --map \"$uri\"'
  virtkeep map -i /backup/web -d vda -e 'nbdcopy \"$uri\" vda.raw'
  virtkeep map -i /backup/web -d vda -e 'qemu-img compare -F raw \"$uri\" vda.raw'
  virtkeep map -i /backup/web -d vda --fuse /mnt/web     its file is vda there
  virtkeep map -i /backup/web --boot                     until it shuts down
  virtkeep map -i /backup/web --boot --wait-agent 300 -e true
                                                         does it come up?
  virtkeep map -i /backup/web --boot --network default \\
      --copy-to /var/lib/libvirt/images --define         runs, and is copied
  virtkeep map -i /backup/web -d vda --writable --socket /run/web.sock --detach
  virtkeep unmap /run/web.sock

Nothing is restored and nothing mounted: blocks are read, and proven, when they are asked for. A \
damaged block is an input/output error for who reads it, and a line here.";
