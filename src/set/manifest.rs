//! The manifest: the commit record of one run. A run is in the set when its manifest is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Level;
use super::layout::{Layout, index_name};
use super::moment;
use crate::error::{Error, Result};
use crate::stored::StoredFile;

/// Version of the manifest's structure that is written and understood.
pub const VERSION: u32 = 1;

/// A manifest describes a few disks and files; more than this is not one of ours.
const MAX_SIZE: u64 = 16 << 20;

/// What one run made: its level, its disks, every file with its digest, how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub virtkeep_manifest: u32,
    /// Identity of the run; stands in its checkpoint and in every one of its streams, too.
    pub run: Uuid,
    /// The domain's name at the time.
    pub domain: String,
    /// The domain's UUID: a set belongs to one domain.
    pub domain_uuid: Uuid,
    /// Level of the run. Single disks of an increment can be full, see [`Disk::level`].
    pub level: Level,
    /// The checkpoint that the run made (full, inc).
    pub checkpoint: Option<String>,
    /// Begin of the run.
    #[serde(with = "moment")]
    pub started: jiff::Zoned,
    /// End of the run.
    #[serde(with = "moment")]
    pub finished: jiff::Zoned,
    /// The moment whose content the streams hold: the backup job's begin.
    #[serde(with = "moment")]
    pub point_in_time: jiff::Zoned,
    /// Name of the host that ran virtkeep, and the directory as it was named there.
    pub host: String,
    /// See [`Manifest::host`].
    pub directory: String,
    /// Program versions: `virtkeep`, `libvirt_daemon`, `hypervisor`.
    pub versions: BTreeMap<String, String>,
    /// How the filesystem freeze went, in words.
    pub freeze: String,
    /// The disks with a stream in this run.
    pub disks: Vec<Disk>,
    /// Disks of the domain without one, and why.
    pub skipped: Vec<Skipped>,
    /// Every other file of the run: configuration, checkpoint XML, sums, the log.
    pub files: Vec<FileRecord>,
    /// Warnings that were given.
    pub warnings: Vec<String>,
}

/// One disk's stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Target name (`vda`).
    pub target: String,
    /// Level of this disk's stream: full in an increment whose base was lost.
    pub level: Level,
    /// Name of the data file.
    pub file: String,
    /// The checkpoint that the stream builds on; none for full and copy.
    pub base_checkpoint: Option<String>,
    /// The run that made that checkpoint; none where virtnbdbackup did.
    pub base_run: Option<Uuid>,
    /// Size of the disk as the guest sees it, in bytes.
    pub virtual_size: u64,
    /// Guest bytes that the stream carries.
    pub data_size: u64,
    /// Guest bytes that are recorded as zeroes (inc, diff): they changed; on standard output, where it can't be told
    /// what the chain holds, also those that did not.
    pub zeroed_size: u64,
    /// Size of the data file.
    pub stored_size: u64,
    /// Adler-32 of the data file.
    pub adler32: u32,
    /// Digest of the stream's index, in hex.
    pub index_digest: String,
    /// Path of the guest's image on the host.
    pub image: String,
    /// The data file is the disk's image as the guest sees it, and its index is in a file beside it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub raw: bool,
    /// It is so because the run was asked for raw images: the disk's own image is none, and increments build on it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub raw_by_choice: bool,
}

impl Disk {
    /// The files with the disk's data.
    pub fn files(&self) -> Vec<String> {
        data_files(&self.file, self.raw)
    }
}

/// The files of a disk whose data file is `file`.
pub fn data_files(file: &str, raw: bool) -> Vec<String> {
    [file.to_owned()].into_iter().chain(raw.then(|| index_name(file))).collect()
}

/// A disk that the run left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Target name.
    pub target: String,
    /// Why.
    pub reason: String,
}

/// A file of a run that is not a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Name within the set.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The disk that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk: Option<String>,
    /// Path of the original on the domain's host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content, in hex.
    pub blake3: String,
}

/// What a file of a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The domain's XML, inactive where it has one.
    DomainXml,
    /// What `qemu-img info` says of a disk's image.
    ImageInfo,
    /// The checkpoint's XML.
    CheckpointXml,
    /// UEFI variables.
    Nvram,
    /// Firmware.
    Loader,
    /// A kernel that the domain boots directly.
    Kernel,
    /// The kernel's initial file system.
    Initrd,
    /// Says that the domain starts with its host.
    Autostart,
    /// What the guest agent tells of the guest.
    GuestInfo,
    /// The medium in a CD-ROM or floppy drive.
    Medium,
    /// The state of an emulated TPM, a tar of swtpm's files.
    TpmState,
    /// BitLocker's recovery keys of a volume.
    RecoveryKeys,
    /// Adler-32 of a data file.
    Checksum,
    /// The run's log.
    Log,
}

impl FileRecord {
    /// The record of a file with `content`.
    pub fn of(name: impl Into<String>, role: Role, content: &[u8]) -> Self {
        let blake3 = blake3::hash(content).to_hex().to_string();
        Self { name: name.into(), role, disk: None, origin: None, size: content.len() as u64, blake3 }
    }

    /// The record with the disk that the file belongs to.
    pub fn of_disk(mut self, target: &str) -> Self {
        self.disk = Some(target.to_owned());
        self
    }

    /// The record with the path of the file's original.
    pub fn copied_from(mut self, origin: &str) -> Self {
        self.origin = Some(origin.to_owned());
        self
    }
}

/// What is written: the manifest and the digest of its own text, so that a flipped bit in it shows.
#[derive(Serialize, Deserialize)]
struct Sealed<'m> {
    #[serde(borrow)]
    manifest: &'m serde_json::value::RawValue,
    blake3: String,
}

impl Manifest {
    /// Writes the manifest durably: once this returns, the run is committed. After an error it is
    /// not, unless not even its name could be taken back.
    pub fn commit(&self, layout: &Layout) -> Result<()> {
        let path = layout.file(&Layout::manifest_name(self.run))?;
        layout.write_atomically(&path, self.encode()?.as_bytes()).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })
    }

    /// The file's text.
    pub fn encode(&self) -> Result<String> {
        let failed = |error| Error::corrupt("manifest can't be encoded").caused_by(error);
        let text = serde_json::value::to_raw_value(self).map_err(failed)?;
        let blake3 = blake3::hash(text.get().as_bytes()).to_hex().to_string();
        let mut sealed = serde_json::to_string(&Sealed { manifest: &text, blake3 }).map_err(failed)?;
        sealed.push('\n');
        Ok(sealed)
    }

    /// Reads a manifest and proves it against its digest.
    ///
    /// # Errors
    /// [`Corrupt`](crate::error::Kind::Corrupt) for anything but a whole manifest of a known version.
    pub fn read(file: impl Into<StoredFile>) -> Result<Self> {
        let file = file.into();
        let text = String::from_utf8(file.read(MAX_SIZE)?)
            .map_err(|error| Error::corrupt("manifest is no text").caused_by(error).path(file.path()))?;
        Self::decode(&text).map_err(|error| error.path(file.path()))
    }

    fn decode(text: &str) -> Result<Self> {
        let damaged = || Error::corrupt("manifest is damaged").hint("`virtkeep verify` lists what else is");
        let body = text.strip_suffix('\n').ok_or_else(damaged)?;
        let sealed: Sealed = serde_json::from_str(body).map_err(|error| damaged().caused_by(error))?;
        let digest = blake3::hash(sealed.manifest.get().as_bytes()).to_hex();
        if digest.as_str() != sealed.blake3 {
            return Err(damaged());
        }
        let manifest: Self = serde_json::from_str(sealed.manifest.get()).map_err(|error| damaged().caused_by(error))?;
        if manifest.virtkeep_manifest != VERSION {
            return Err(Error::unsupported(format!("manifest version {}", manifest.virtkeep_manifest))
                .hint("this set was written by a newer virtkeep"));
        }
        // The same manifest is written one way only, so that no byte of the file can change unseen.
        if manifest.encode()? != text {
            return Err(damaged());
        }
        Ok(manifest)
    }

    /// The stream of a disk, if the run has one.
    pub fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest of a full backup of `vda` at a fixed time.
    pub(crate) fn sample() -> Manifest {
        let time = jiff::Timestamp::from_second(1_767_323_045)
            .unwrap()
            .to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(1)));
        Manifest {
            virtkeep_manifest: VERSION,
            run: Uuid::from_u128(7),
            domain: "web 1".into(),
            domain_uuid: Uuid::from_u128(9),
            level: Level::Full,
            checkpoint: Some("virtnbdbackup.0".into()),
            started: time.clone(),
            finished: time.clone(),
            point_in_time: time,
            host: "host".into(),
            directory: "/backup".into(),
            versions: BTreeMap::new(),
            freeze: "frozen".into(),
            disks: vec![Disk {
                target: "vda".into(),
                level: Level::Full,
                file: "vda.full.data".into(),
                base_checkpoint: None,
                base_run: None,
                virtual_size: 1 << 20,
                data_size: 4096,
                zeroed_size: 0,
                stored_size: 5000,
                adler32: 1,
                index_digest: "00".into(),
                image: "/images/web.qcow2".into(),
                raw: false,
                raw_by_choice: false,
            }],
            skipped: vec![],
            files: vec![FileRecord::of("vmconfig.virtnbdbackup.0.xml", Role::DomainXml, b"<domain/>")],
            warnings: vec![],
        }
    }

    #[test]
    fn manifest_survives_the_round_trip() {
        let manifest = sample();
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let text = sample().encode().unwrap().into_bytes();
        for position in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[position] ^= 1 << bit;
                let found = String::from_utf8(damaged).map_or(true, |text| Manifest::decode(&text).is_err());
                assert!(found, "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn every_strict_prefix_is_an_error() {
        let text = sample().encode().unwrap();
        for length in 0..text.len() {
            assert!(Manifest::decode(&text[..length]).is_err(), "{length}");
        }
    }
}
