//! The next run after a power loss, while the domain went on: the set was on another disk, say.

use std::collections::HashSet;
use std::path::PathBuf;

use super::disk::Tree;
use super::{LOSSES, RUNS, Traced, begins_job, case, change, fingerprint, lay_out, root};
use crate::support::{Case, Lab};

/// States of one run that the next run is tried on; each takes two seconds.
const TRIED: usize = 8;

#[test]
fn the_next_run_commits_after_a_power_loss() {
    let lab = Lab::up();
    let case = case(&lab);
    for options in &RUNS[..2] {
        let traced = Traced::backup(&case, options);
        change(&case);
        let references = case.domain.snapshot_references(&["vda", "vdb"]);
        let domain = Saved::of(&case);
        let trees = trees(traced);
        let last = trees.len() - 1;
        for number in 0..TRIED {
            lay_out(&trees[number * last / (TRIED - 1)], root(&case));
            domain.put_back(&case);
            case.backup(&[]).succeeds();
            case.restores(&[], &["vda", "vdb"], &references);
            case.no_traces();
        }
        lay_out(&trees[last], root(&case));
        domain.put_back(&case);
    }
}

/// What a crash can leave from the begin of the job on; the last is that of the whole run.
fn trees(traced: Traced) -> Vec<Tree> {
    let (mut seen, mut trees, mut begun) = (HashSet::new(), Vec::new(), false);
    let end = traced.replay(|disk, call, changed| {
        begun |= call.is_some_and(begins_job);
        for loss in LOSSES.into_iter().filter(|_| begun && changed) {
            let tree = disk.tree(loss);
            if seen.insert(fingerprint(&tree)) {
                trees.push(tree);
            }
        }
    });
    trees.push(end.tree(super::Loss::None));
    trees
}

/// A domain's images with their bitmaps, and its checkpoints.
struct Saved {
    images: Vec<(PathBuf, PathBuf)>,
    checkpoints: Vec<PathBuf>,
}

impl Saved {
    #[track_caller]
    fn of(case: &Case<'_>) -> Saved {
        let directory = case.lab.fresh_directory();
        let mut checkpoints = Vec::new();
        for name in case.checkpoints() {
            let xml = case.lab.virsh(&[&"checkpoint-dumpxml", &case.domain.name(), &name, &"--no-domain"]);
            checkpoints.push(directory.join(&name));
            std::fs::write(directory.join(&name), xml).unwrap();
        }
        case.domain.stop();
        let images = ["vda", "vdb"].map(|disk| (case.domain.image(disk), directory.join(disk)));
        for (image, copy) in &images {
            std::fs::copy(image, copy).unwrap();
        }
        Saved { images: images.to_vec(), checkpoints }
    }

    #[track_caller]
    fn put_back(&self, case: &Case<'_>) {
        case.domain.stop();
        for name in case.checkpoints() {
            case.lab.virsh(&[&"checkpoint-delete", &case.domain.name(), &name, &"--metadata"]);
        }
        for (image, copy) in &self.images {
            std::fs::write(image, std::fs::read(copy).unwrap()).unwrap();
        }
        for xml in &self.checkpoints {
            case.lab.virsh(&[&"checkpoint-create", &case.domain.name(), xml, &"--redefine"]);
        }
        case.domain.start();
    }
}
