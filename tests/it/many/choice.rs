//! Which domains are backed up, and where to.

use super::{backup, data, row};
use crate::support::{Lab, compare, listing, virtkeep};

#[test]
fn every_running_domain_has_a_directory_of_its_own() {
    let lab = Lab::up();
    let (a, b) = (lab.domain("a", &["vda:4M"]), lab.domain("b b", &["vda:4M", "vdb:2M"]));
    lab.domain("off", &["--off", "vda:1M"]);
    a.write("vda", 0xaa, 0, 1 << 20);
    b.write("vda", 0xbb, 0, 2 << 20);
    let output = lab.fresh_directory();
    let run = backup(&lab, &output, &["--all", "--parallel", "2"]).succeeds();
    assert_eq!(listing(&output), ["a", "b b"]);
    assert_eq!(row(&run, "a")[..5], ["a", "full", "1.0", "MiB", "1.0"]);
    run.says(&["2 domains", "a: Finished successfully", "b b: Finished successfully"]);
    for (domain, pattern) in [(&a, 0xac), (&b, 0xbc)] {
        domain.write("vda", pattern, 1 << 20, 64 << 10);
        let reference = domain.snapshot_reference("vda");
        let out = lab.fresh_directory();
        let set = output.join(domain.name());
        let run = backup(&lab, &output, &["--all"]).succeeds();
        assert_eq!(row(&run, "a")[1], "inc");
        virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out]).succeeds();
        compare(&out.join(domain.image("vda").file_name().unwrap()), "qcow2", &reference);
    }
    // One domain alone is no other case where all are asked for.
    let run = backup(&lab, &output, &["--all", "--exclude-domain", "b*"]).succeeds();
    assert_eq!(data(&output.join("a")).len(), 4);
    run.says(&["b b: left out, as asked", "1 domain, "]);
    backup(&lab, &output, &["--all", "--inactive", "-l", "full"]).ends_with(2);
    assert_eq!(listing(&output), ["a", "b b", "off"]);
    assert_eq!(data(&output.join("off")), ["vda.full.data"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let lab = Lab::up();
    lab.domain("a", &["vda:1M"]);
    lab.domain("b", &["vda:1M"]);
    let uuid = lab.virsh(&[&"domuuid", &"b"]);
    let output = lab.fresh_directory();
    for (options, words) in [
        (&["-d", "a", "-d", "a"][..], "named twice"),
        (&["-d", "b", "-d", uuid.trim()], "domain b is named twice"),
        (&["--all", "-d", "a"], "cannot be used with"),
        (&["-d", "a", "--exclude-domain", "b"], "cannot be used with"),
        (&["-d", "a", "--inactive"], "cannot be used with"),
        (&[], "--domain"),
        (&["--all", "--exclude-domain", "[a"], "no pattern"),
        (&["--all", "-f", "/tmp/x"], "--socketfile"),
        (&["--all", "--parallel", "2", "-P", "10809"], "one port"),
    ] {
        backup(&lab, &output, options).ends_with(2).says(&[words]);
    }
    backup(&lab, std::path::Path::new("-"), &["--all"]).ends_with(2).says(&["standard output takes one"]);
    for options in [&["--all"][..], &["-d", "a"]] {
        backup(&lab, &output.join("%x"), options).ends_with(2).says(&["%x is no code", "hint: "]);
    }
    let run = backup(&lab, &output, &["--all", "--exclude-domain", "?", "--exclude-domain", "web"]).ends_with(3);
    run.says(&["no domain is backed up", "--exclude-domain web: there is no such domain"]);
    assert_eq!(listing(&output), [""; 0]);
}

#[test]
fn a_disk_left_out_of_all_may_be_missing_from_some() {
    let lab = Lab::up();
    lab.domain("a", &["vda:1M"]);
    lab.domain("b", &["vda:1M", "vdb:1M"]);
    for domains in [&["--all"][..], &["-d", "a", "-d", "b"]] {
        let output = lab.fresh_directory();
        let run = backup(&lab, &output, &[domains, &["-x", "vdb", "--strict", "-l", "copy"]].concat()).succeeds();
        assert!(!run.stderr.contains("no disk") && !run.stderr.contains("such a disk"), "{}", run.stderr);
        assert_eq!(
            (data(&output.join("a")), data(&output.join("b"))),
            (vec!["vda.copy.data".into()], vec!["vda.copy.data".into()])
        );
        // What none of them has is a mistake, and said once; the backups are as good as without.
        let output = lab.fresh_directory();
        let run = backup(&lab, &output, &[domains, &["-x", "vdb,vdx", "--strict", "-l", "copy"]].concat()).succeeds();
        assert_eq!(run.stderr.matches("vdx").count(), 1, "{}", run.stderr);
        run.says(&["warning: -x vdx: no domain has such a disk"]);
    }
    let output = lab.fresh_directory();
    let names = ["--exclude-domain", "nosuch", "--exclude-domain", "test-*", "--strict"];
    let run = backup(&lab, &output, &[&["--all", "-l", "copy"], &names[..]].concat()).succeeds();
    run.says(&[
        "warning: --exclude-domain nosuch: there is no such domain",
        "virtkeep: --exclude-domain test-*: there is",
    ]);
    let alone = output.join("alone");
    backup(&lab, &alone, &["-d", "a", "-x", "vdb"]).ends_with(1).says(&["domain a has no disk \"vdb\"", "hint: "]);
}

#[test]
fn estimates_and_thresholds_are_each_domain_s_own() {
    let lab = Lab::up();
    let (a, b) = (lab.domain("a", &["vda:4M"]), lab.domain("b", &["vda:4M"]));
    let output = lab.fresh_directory();
    backup(&lab, &output, &["--all"]).succeeds();
    a.write("vda", 1, 0, 64 << 10);
    b.write("vda", 1, 0, 2 << 20);
    let run = backup(&lab, &output, &["-d", "a", "-d", "b", "-p"]).succeeds();
    assert_eq!(
        run.stdout,
        "a: vda: 65536 bytes (64.0 KiB) changed since virtnbdbackup.0\n\
         a: Estimated backup size: 65536 bytes (64.0 KiB)\n\
         b: vda: 2097152 bytes (2.0 MiB) changed since virtnbdbackup.0\n\
         b: Estimated backup size: 2097152 bytes (2.0 MiB)\n\
         Estimated backup size: 2162688 bytes (2.1 MiB), 2 domains\n"
    );
    let checkpoints = lab.fresh_directory();
    let run = backup(&lab, &output, &["--all", "-T", "1M", "-C", checkpoints.to_str().unwrap()]).succeeds();
    assert_eq!(run.stdout, "");
    assert_eq!(
        row(&run, "a")[1..],
        ["-", "-", "-", "0.0", "s", "nothing", "to", "do"].map(|word| {
            // How long it took is not the matter.
            if word == "0.0" { row(&run, "a")[4].clone() } else { word.to_owned() }
        })
    );
    assert_eq!(row(&run, "b")[1..4], ["inc", "2.0", "MiB"]);
    assert_eq!((data(&output.join("a")).len(), data(&output.join("b")).len()), (1, 2));
    assert_eq!(listing(&checkpoints.join("b")), ["virtnbdbackup.1.xml"]);
}
