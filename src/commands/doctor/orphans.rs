//! Bitmaps of a run that did not finish, whose checkpoint libvirt has lost: a transient domain that was
//! started again, a cluster's restart.

use crate::libvirt::block_nodes::DiskBitmaps;
use crate::libvirt::checkpoint::Checkpoint;
use crate::set::intent::Intent;

/// The targets of the disks with one of the run of `intent`, which is neither committed nor undone. A bitmap has a name and nothing
/// else: it is the run's where the run was to make a checkpoint of that name, libvirt knows no other of
/// it, and no disk has it that the run did not copy.
pub fn of_run(intent: &Intent, known: &[Checkpoint], disks: &[DiskBitmaps]) -> Vec<String> {
    let Some(name) = &intent.checkpoint else { return Vec::new() };
    if known.iter().any(|checkpoint| checkpoint.name == *name) {
        return Vec::new();
    }
    let with_it: Vec<&str> =
        disks.iter().filter(|disk| disk.conditions().contains_key(name)).map(|disk| disk.target.as_str()).collect();
    let copied = |target: &&str| {
        let end = format!(".{target}.scratch");
        intent.scratch.iter().any(|path| path.to_string_lossy().ends_with(&end))
    };
    if !with_it.iter().all(copied) {
        return Vec::new();
    }
    with_it.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::libvirt::block_nodes::{Bitmap, Condition, Layer};
    use crate::set::Level;
    use crate::set::intent::Held;

    fn disk(target: &str, bitmaps: &[&str]) -> DiskBitmaps {
        let bitmap = |name: &&str| Bitmap { name: (*name).to_owned(), condition: Condition::Broken };
        let layer = Layer { bitmaps: bitmaps.iter().map(bitmap).collect(), ..Layer::default() };
        DiskBitmaps { target: target.into(), layers: vec![layer] }
    }

    #[test]
    fn only_what_is_provably_the_runs_is_its_own() {
        let intent = Intent {
            run: Uuid::from_u128(1),
            domain_uuid: Uuid::from_u128(2),
            uri: String::new(),
            level: Level::Inc,
            checkpoint: Some("virtnbdbackup.1".into()),
            socket: "/s".into(),
            scratch: vec!["/v/virtkeep.R.vda.scratch".into(), "/v/virtkeep.R.vdb.scratch".into()],
            files: vec![],
            extra: vec![],
            held: Held::default(),
            instance: None,
        };
        let targets = |known: &[Checkpoint], disks: &[DiskBitmaps]| -> Vec<String> { of_run(&intent, known, disks) };
        let disks = [disk("vda", &["virtnbdbackup.0", "virtnbdbackup.1"]), disk("vdb", &["virtnbdbackup.1"])];
        assert_eq!(targets(&[], &disks), ["vda", "vdb"]);
        assert_eq!(targets(&[], &disks[..1]), ["vda"]);
        assert_eq!(targets(&[], &[disk("vda", &["virtnbdbackup.0"])]), [""; 0]);
        // A disk that the run never copied has it, too.
        assert_eq!(targets(&[], &[disk("vda", &["virtnbdbackup.1"]), disk("vdc", &["virtnbdbackup.1"])]), [""; 0]);
        let xml = "<domaincheckpoint><name>virtnbdbackup.1</name><creationTime>1</creationTime></domaincheckpoint>";
        assert_eq!(targets(&[Checkpoint::parse(xml).unwrap()], &disks), [""; 0]);
    }
}
