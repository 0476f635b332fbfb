//! The commands that read a set: `virtkeep restore`, `verify` and `dump`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Hypervisor, Talk};

/// Write a restore point's disks to images.
#[derive(Debug, Clone, Args)]
#[command(after_help = RESTORE_EXAMPLES)]
pub struct Restore {
    /// Directory of the set, or its zip files: full.zip,inc1.zip; repeatable.
    #[arg(short, long, value_name = "SET", required_unless_present = "sequence")]
    pub input: Vec<PathBuf>,

    /// Directory for the images and the configuration; or, with one disk and -t raw, an existing file, or a
    /// new one that is called .raw or .img. Not needed where all disks go to devices.
    #[arg(short, long, value_name = "DIR|FILE", required_unless_present = "to_device")]
    pub output: Option<PathBuf>,

    /// Write this disk straight onto an existing block device, as raw data; repeatable. The device must not be
    /// in use; one that is not empty is overwritten with --force only.
    #[arg(long, value_name = "DISK=DEVICE", value_parser = parse_place)]
    pub to_device: Vec<(String, PathBuf)>,

    /// Restore point: a checkpoint, a run id (its first 4 characters will do), or a date in local time: the newest
    /// run started by its end. 2026-11-20 is that whole day, "2026-11-20 06:15" that whole minute; seconds, and T
    /// instead of the space, will do, too [default: the newest point]
    #[arg(short, long, value_name = "POINT", conflicts_with = "sequence")]
    pub until: Option<String>,

    /// Only these disks (target names such as vda); repeatable, or separated by commas.
    #[arg(short, long, value_name = "DISK", value_delimiter = ',')]
    pub disk: Vec<String>,

    /// Restore one disk from exactly these streams, the full first.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub sequence: Vec<PathBuf>,

    /// Write the domain's XML with the restored images' paths.
    #[arg(short = 'c', long)]
    pub adjust_config: bool,

    /// Define the restored domain; implies --adjust-config. A domain that exists is redefined with
    /// --force only, and never while it runs.
    #[arg(short = 'D', long)]
    pub define: bool,

    /// New name for the domain; it gets a new UUID and new MAC addresses, too.
    #[arg(short = 'N', long, value_name = "NAME")]
    pub name: Option<String>,

    /// Allocate the whole size of the images.
    #[arg(short = 'A', long, conflicts_with = "compress")]
    pub preallocate: bool,

    /// Compress the qcow2 images. A disk whose size is no multiple of the cluster size takes the
    /// space of the uncompressed image, too, until it is done.
    #[arg(long)]
    pub compress: bool,

    /// Format of all images; qcow2 holds all data in one file [default: like the originals]
    #[arg(short = 't', long, value_enum)]
    pub format: Option<Format>,

    /// Where the data file of a qcow2 image that has one goes: a new file, or an existing block device;
    /// repeatable [default: beside the image, under its old name]
    #[arg(long, value_name = "DISK=PATH", value_parser = parse_place)]
    pub relocate_data_file: Vec<(String, PathBuf)>,

    /// Restore raw disks that the point does not have, too, from the newest run before it that has them. They
    /// are of that time, the other disks of the point's.
    #[arg(long, conflicts_with = "sequence")]
    pub older_raw: bool,

    /// Overwrite existing images, configuration or devices, as long as nobody uses them.
    #[arg(long)]
    pub force: bool,

    /// Write images and configuration on the host of -U instead of here; -o is a directory there. With --define
    /// the domain is defined there, too. Block devices of another host are not written, and the state of an
    /// emulated TPM is not put back there.
    #[arg(long)]
    pub to_host: bool,

    /// Write through the page cache where it would be avoided: ext4 and XFS on solid-state disks, and solid-state disks
    /// themselves, are written directly, in pieces of a MiB.
    #[arg(long)]
    pub page_cache: bool,

    /// Directory in which the tables of virtnbdbackup's streams are kept, so that those are read as a whole only
    /// the first time [default: $VIRTKEEP_CACHE_DIR; /var/cache/virtkeep as root, ~/.cache/virtkeep otherwise]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// How the hypervisor is reached; only --define and --to-host need one.
    #[command(flatten)]
    pub hypervisor: Hypervisor,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,

    /// What only the drop-in commands ask for.
    #[arg(skip)]
    pub classic: Classic,
}

/// Ways of virtnbdrestore that virtkeep has for the drop-in command alone.
#[derive(Debug, Clone, Default)]
pub struct Classic {
    /// Name of the domain's XML beside the images.
    pub config_name: Option<PathBuf>,
    /// A domain's XML of that name may be overwritten.
    pub replace_config: bool,
    /// The domain is called restore_NAME.
    pub prefix_name: bool,
}

/// What `-t` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The disk byte for byte.
    Raw,
    /// A qcow2 image that holds all data itself.
    Qcow2,
}

impl Restore {
    /// Whether raw images are asked for.
    pub fn wants_raw(&self) -> bool {
        self.format == Some(Format::Raw)
    }
}

/// `DISK=PATH`
fn parse_place(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((disk, path)) if !disk.is_empty() && !path.is_empty() => Ok((disk.to_owned(), path.into())),
        _ => Err("a disk and a path, such as vda=/dev/vg0/web".to_owned()),
    }
}

/// Prove that a set is whole and undamaged.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct Verify {
    /// Directory of the set, or its zip files: full.zip,inc1.zip; repeatable.
    #[arg(short, long, value_name = "SET", required = true)]
    pub input: Vec<PathBuf>,

    /// Only the structure: manifests, chains, heads and indexes, not the data.
    #[arg(long)]
    pub quick: bool,

    /// The content of every restore point: each is resolved as a restore resolves it, and all its data read as a
    /// restore reads it and proven. What several points share is read once. What no restore needs (the ends of
    /// frames, sums over whole files) is not looked at.
    #[arg(long, group = "content", conflicts_with = "quick")]
    pub deep: bool,

    /// The newest restore point against the domain's disks as they are now: a backup job at the level copy reads
    /// them, and leaves nothing on the domain. What the guest wrote since is told apart by the dirty bitmap.
    #[arg(long, group = "content", conflicts_with_all = ["quick", "deep"])]
    pub against_live: bool,

    /// With --against-live: the domain, by its name or UUID [default: the one that the set is of]
    #[arg(short, long, value_name = "NAME", requires = "against_live")]
    pub domain: Option<String>,

    /// With --deep or --against-live: this restore point: a checkpoint, a run id (its first 4 characters will
    /// do), or a date in local time: the newest run started by its end. 2026-11-20 is that whole day,
    /// "2026-11-20 06:15" that whole minute; seconds, and T instead of the space, will do, too [default: all points;
    /// of --against-live the newest]
    #[arg(short, long, value_name = "POINT", requires = "content")]
    pub until: Option<String>,

    /// With --deep or --against-live: only these disks (target names such as vda); repeatable, or separated by
    /// commas.
    #[arg(long, value_name = "DISK", value_delimiter = ',', requires = "content")]
    pub disk: Vec<String>,

    /// With --against-live: directory on the domain's host for the job's scratch files [default: /var/tmp]
    #[arg(long, value_name = "DIR", requires = "against_live")]
    pub scratchdir: Option<PathBuf>,

    /// Directory in which the tables of virtnbdbackup's streams are kept, so that those are read as a whole only
    /// the first time [default: $VIRTKEEP_CACHE_DIR; /var/cache/virtkeep as root, ~/.cache/virtkeep otherwise]
    #[arg(long, value_name = "DIR", requires = "content")]
    pub cache_dir: Option<PathBuf>,

    /// The verdict as JSON.
    #[arg(long)]
    pub json: bool,

    /// With --against-live: how the hypervisor is reached.
    #[command(flatten)]
    pub hypervisor: Hypervisor,

    /// With --against-live: how the data of another host comes here.
    #[command(flatten)]
    pub network: super::backup::Network,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,

    /// As a drop-in command: the verdict is a message, and what is unproven is to be looked at.
    #[arg(skip)]
    pub classic: bool,
}

/// List the restore points of a set.
#[derive(Debug, Args)]
#[command(after_help = DUMP_EXAMPLES)]
pub struct Dump {
    /// Directory of the set, or its zip files: full.zip,inc1.zip; repeatable.
    #[arg(short, long, value_name = "SET", required = true)]
    pub input: Vec<PathBuf>,

    /// JSON for scripts instead of a table.
    #[arg(long, group = "view")]
    pub json: bool,

    /// A tree of what builds on what, with a bar for the size of each run.
    #[arg(long, group = "view")]
    pub tree: bool,

    /// A map of each disk: a strip for each run, of what the run has data of, what it says is zero, and what it left
    /// as it was. It is as wide as the terminal (or $COLUMNS), 80 columns elsewhere.
    #[arg(long, groups = ["view", "drawn"])]
    pub map: bool,

    /// The map as a picture (SVG), written to this file, or with - to standard output.
    #[arg(long, value_name = "FILE", groups = ["view", "drawn"])]
    pub svg: Option<PathBuf>,

    /// With --map or --svg: only these disks (target names such as vda); repeatable, or separated by commas.
    #[arg(short, long, value_name = "DISK", value_delimiter = ',', requires = "drawn")]
    pub disk: Vec<String>,

    /// Directory in which the tables of virtnbdbackup's streams are kept, so that those are read as a whole only
    /// the first time [default: $VIRTKEEP_CACHE_DIR; /var/cache/virtkeep as root, ~/.cache/virtkeep otherwise]
    #[arg(long, value_name = "DIR", requires = "drawn")]
    pub cache_dir: Option<PathBuf>,

    /// How much is said.
    #[command(flatten)]
    pub talk: Talk,
}

const RESTORE_EXAMPLES: &str = "Examples:
  virtkeep restore -i /backup/web -o /restore                  the newest point
  virtkeep restore -i /backup/web -o /restore -u 2026-11-20    as of that day
  virtkeep restore -i full.zip,inc1.zip -o /restore            from zip files
  virtkeep restore -i /backup/web -o /restore -u virtnbdbackup.3 -d vda
  virtkeep restore -i /backup/web -o /var/lib/libvirt/images/new -D -N web-new
  virtkeep restore -i /backup/web -d vda --to-device vda=/dev/vg0/web --force
  virtkeep restore -i /backup/web -o /restore/web.raw -d vda -t raw
  virtkeep restore -i /backup/web -o /var/lib/libvirt/images -D \\
      --to-host -U qemu+ssh://root@host/system
  virtkeep restore -o /restore -s vda.full.data,vda.inc.virtnbdbackup.1.data

Images are called .partial until every byte is proven. Damage ends it with status 4 (nothing is \
defined); `virtkeep verify` then says what is damaged.";

const VERIFY_EXAMPLES: &str = "Examples:
  virtkeep verify -i /backup/web            every byte of every file
  virtkeep verify -i /backup/web --quick    seconds instead of minutes
  virtkeep verify -i /backup/web --deep     each point, as a restore reads it
  virtkeep verify -i /backup/web --deep -u 2026-11-20 --disk vda
  virtkeep verify -i /backup/web --against-live
  virtkeep verify -i full.zip,inc1.zip      zip files of `backup -o -`

Exit status 4 where anything is damaged or missing, and where the domain's disk differs although nothing \
was written there since; 3 where it differs and nothing tells what was written.";

const DUMP_EXAMPLES: &str = "Examples:
  virtkeep dump -i /backup/web
  virtkeep dump -i full.zip,inc1.zip
  virtkeep dump -i /backup/web --tree
  virtkeep dump -i /backup/web --map
  virtkeep dump -i /backup/web --svg web.svg --disk vda
  virtkeep dump -i /backup/web --json | jq -r '.restore_points[-1].id'";
