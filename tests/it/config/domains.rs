//! Real backups of domains that have sections.

use super::{configured, file};
use crate::support::{Lab, compare, listing, template, virtkeep};

#[test]
fn each_domain_is_backed_up_as_its_section_says() {
    let lab = Lab::up();
    let (a, b) = (lab.domain("a", &["vda:4M"]), lab.domain("b", &["vda:4M", "vdb:2M"]));
    a.write("vda", 0xaa, 0, 1 << 20);
    b.write("vda", 0xbb, 0, 1 << 20);
    let (output, own, checkpoints) = (lab.fresh_directory(), lab.fresh_directory(), lab.fresh_directory());
    let text = format!(
        "uri = {:?}\nscratchdir = {:?}\nnoprogress = true\n\
         [backup]\noutput = {:?}\ncheckpointdir = {:?}\ncompress = 2\n\
         [domain.b]\noutput = {:?}\nexclude = ['vdb']\ncompress = false\n",
        lab.uri(),
        lab.scratch(),
        template(&output),
        checkpoints,
        template(&own.join("set")),
    );
    let config = file(&lab.fresh_directory(), &text);
    configured(&config, &[], &[&"backup", &"--all", &"--parallel", &"2"]).succeeds();
    let set = own.join("set");
    assert_eq!((listing(&output), listing(&own)), (vec!["a".to_owned()], vec!["set".to_owned()]));
    assert!(set.join("vda.full.data").exists() && !set.join("vdb.full.data").exists());
    assert_eq!(listing(&checkpoints), ["a", "b"]);
    // What compresses well is small only where it was to be compressed.
    let size = |set: &std::path::Path| set.join("vda.full.data").metadata().unwrap().len();
    assert!(size(&output.join("a")) < 1 << 19 && size(&set) > 1 << 20);

    // Alone it is the same set; by its UUID it is the same domain. A variable and the command line are stronger.
    b.write("vda", 0xbc, 1 << 20, 64 << 10);
    let reference = b.snapshot_reference("vda");
    let checkpoint_option = format!("--checkpointdir={}", checkpoints.join("b").display());
    configured(&config, &[], &[&"backup", &"-d", &"b", &checkpoint_option]).succeeds();
    let uuid = lab.virsh(&[&"domuuid", &"b"]).trim().to_owned();
    let log = configured(&config, &[], &[&"backup", &"-d", &uuid, &checkpoint_option]).succeeds();
    assert_eq!(listing(&set).iter().filter(|name| name.starts_with("vda.inc") && name.ends_with(".data")).count(), 2);
    assert!(!log.stderr.contains("vdb: full"), "{}", log.stderr);
    let out = lab.fresh_directory();
    virtkeep(&[&"restore", &"-n", &"-i", &set, &"-o", &out]).succeeds();
    compare(&out.join(b.image("vda").file_name().unwrap()), "qcow2", &reference);
    let copy = lab.fresh_directory();
    let variables = [("VIRTKEEP_BACKUP_LEVEL", "copy"), ("VIRTKEEP_BACKUP_EXCLUDE", "vda")];
    configured(&config, &variables, &[&"backup", &"-d", &"b", &"-o", &copy.join("c")]).succeeds();
    assert!(copy.join("c/vdb.copy.data").exists() && !copy.join("c/vda.copy.data").exists());

    // A section that only makes sense for a run of its own costs its domain alone.
    let elsewhere = file(&lab.fresh_directory(), &format!("{text}uri = 'test:///default'\n"));
    let run = configured(&elsewhere, &[], &[&"backup", &"--all"]).ends_with(1);
    run.says(&["b: its section in the configuration reaches", "hint: back it up by itself: virtkeep backup -d b"]);
    assert_eq!(
        listing(&output.join("a")).iter().filter(|name| name.starts_with("vda.inc") && name.ends_with(".data")).count(),
        1
    );
}

#[test]
fn a_disk_left_out_everywhere_may_be_missing() {
    let lab = Lab::up();
    lab.domain("a", &["vda:1M"]);
    lab.domain("b", &["vda:1M"]);
    let output = lab.fresh_directory();
    let head = format!("uri = {:?}\nscratchdir = {:?}\nnoprogress = true\n", lab.uri(), lab.scratch());
    let text = format!("{head}[backup]\nexclude = ['vdb']\nlevel = 'copy'\n[domain.b]\nexclude = ['vdc']\n");
    let config = file(&lab.fresh_directory(), &text);
    let backup = |domain: &str, more: &[&str]| {
        let set = lab.fresh_directory();
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"backup", &"-d", &domain, &"-o", &set];
        all.extend(more.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
        configured(&config, &[], &all)
    };
    let uuid = lab.virsh(&[&"domuuid", &"a"]).trim().to_owned();
    for domain in ["a", &uuid] {
        let run = backup(domain, &["--strict"]).succeeds();
        run.says(&["virtkeep: exclude of the configuration: domain a has no disk \"vdb\""]);
        backup(domain, &["-x", "vdb"]).ends_with(1).says(&["domain a has no disk \"vdb\"", "hint: "]);
    }
    // Its own section is about this domain.
    backup("b", &[]).ends_with(1).says(&["domain b has no disk \"vdc\"", "hint: "]);
    let all = configured(&config, &[], &[&"backup", &"--all", &"-o", &output]).ends_with(1);
    all.says(&["error: b: domain b has no disk \"vdc\"", "warning: -x vdb: no domain has such a disk"]);
    assert!(output.join("a/vda.copy.data").exists());
}
