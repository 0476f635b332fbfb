//! Chains that one tool begins and the other continues.

use super::{Shared, checkpoint, foreign_validates};
use crate::support::Lab;

#[test]
fn chain_goes_on_from_foreign_to_own_and_back() {
    continued_chain(&[true, false, true, false, false, true]);
}

#[test]
fn chain_goes_on_from_own_to_foreign_and_back() {
    continued_chain(&[false, true, false, true, true, false]);
}

/// One chain whose runs are made by virtnbdbackup where `foreign` says so; compressed now and then.
fn continued_chain(foreign: &[bool]) {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let mut points = Vec::new();
    for (round, &by_foreign) in foreign.iter().enumerate() {
        shared.write(round as u8 + 1);
        points.push(shared.point(checkpoint(round as u64)));
        let level = if round == 0 { "full" } else { "inc" };
        let compress: &[&str] = if round % 2 == 1 { &["-z"] } else { &[] };
        if by_foreign {
            shared.foreign(level, compress);
        } else {
            shared.own(level, compress);
        }
        if round == 2 {
            shared.domain.stop();
            shared.domain.start();
        }
    }
    let levels: Vec<String> = shared.dump().into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, ["full", "inc", "inc", "inc", "inc", "inc"], "no run became a full");
    shared.check_unproven();
    shared.check_points(&points);
    shared.check_foreign(points.last().unwrap(), None);
}

#[test]
fn lost_checkpoints_are_redefined_from_what_the_other_saved() {
    let lab = Lab::up();
    for foreign_first in [true, false] {
        let mut shared = Shared::new(&lab);
        // The new chain's first checkpoint is made while an old chain's are still there.
        shared.own("full", &[]);
        shared.own("inc", &[]);
        shared.set = lab.fresh_directory().join("set");
        let mut points = vec![shared.point(checkpoint(0))];
        if foreign_first {
            shared.foreign("full", &[])
        } else {
            drop(shared.own("full", &[]))
        }
        for round in 1..=3 {
            shared.forget_checkpoints();
            shared.write(round);
            points.push(shared.point(checkpoint(round.into())));
            if (round % 2 == 0) == foreign_first {
                shared.foreign("inc", &[]);
            } else {
                shared.own("inc", &[]);
            }
        }
        let levels: Vec<String> = shared.dump().into_iter().map(|(level, _)| level).collect();
        assert_eq!(levels, ["full", "inc", "inc", "inc"]);
        shared.check_points(&points);
        shared.check_foreign(&points[3], None);
        shared.domain.remove();
    }
}

/// With the oldest checkpoints removed by virtkeep.
#[test]
fn a_chain_with_few_checkpoints_is_continued() {
    let lab = Lab::up();
    let shared = Shared::new(&lab);
    let mut points = Vec::new();
    for round in 0..8 {
        shared.write(round + 1);
        points.push(shared.point(checkpoint(round.into())));
        match round {
            0 => drop(shared.own("full", &[])),
            4 | 6 if foreign_validates() => {
                // It wants each checkpoint that has an XML file in the set, and stops before it changes anything.
                shared.try_foreign("inc", &[]).ends_with(1).says(&["Redefining checkpoint failed: [virtnbdbackup.0]"]);
                drop(shared.own("inc", &["--keep-checkpoints", "2"]));
            }
            4 | 6 => shared.foreign("inc", &[]),
            _ => drop(shared.own("inc", &["--keep-checkpoints", "2"])),
        }
        if round == 5 {
            // It is told of all of them again, those that are gone, too.
            shared.forget_checkpoints();
        }
    }
    let levels: Vec<String> = shared.dump().into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, ["full", "inc", "inc", "inc", "inc", "inc", "inc", "inc"]);
    shared.check_points(&points);
    shared.check_foreign(points.last().unwrap(), None);
}
