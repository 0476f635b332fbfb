//! What is another's: tools, sets, domains; and a domain without a set.

use std::os::unix::net::UnixListener;

use crate::support::{Case, Lab, MIB, listing, run, virtkeep};

#[test]
fn what_is_not_the_sets_own_stays() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    case.backup(&[]).succeeds();
    lab.virsh(&[&"checkpoint-create-as", &"d", &"their-own"]);
    case.domain.stop();
    run("qemu-img", &[&"bitmap", &"--add", &case.domain.image("vda"), &"for'gotten"]).succeeds();
    case.looks(3).follow("bitmap for'gotten");
    case.looks(3).has_not("bitmap for'gotten");
    run("qemu-img", &[&"bitmap", &"--add", &case.domain.image("vda"), &"for'gotten"]).succeeds();
    case.domain.start();
    let stray = |rest: &str| lab.scratch().join(format!("virtkeep.11111111-2222-3333-4444-555555555555.{rest}"));
    std::fs::write(stray("vda.scratch"), b"x").unwrap();
    let socket = UnixListener::bind(stray("sock")).unwrap();
    std::fs::write(lab.scratch().join("virtkeep.txt"), b"x").unwrap();
    std::fs::write(case.set.join("vda.inc.virtnbdbackup.7.data.partial"), b"x").unwrap();
    begin_their_job(&lab);

    let report = case.looks(3);
    report.has("checkpoint their-own", &["look", "another tool", "checkpoint-delete d their-own"]);
    report.has("bitmap for'gotten", &["look", "not known", "vda (good)"]);
    report.has("vda.scratch", &["look", "unknown run", "rm "]);
    report.has("555555555555.sock", &["good", "in use"]);
    report.has_not("virtkeep.txt");
    report.has("virtnbdbackup.7.data.partial", &["look", "another tool", "rm "]);
    report.has("backup job", &["look", "another tool", "domjobabort"]);
    report.has("checkpoint virtnbdbackup.0", &["good"]);
    case.mends_nothing();

    drop(socket);
    let report = case.looks(3);
    report.has("555555555555.sock", &["look", "unknown run", "rm "]);
    case.mends_nothing();
    for what in
        ["vda.scratch", "555555555555.sock", ".partial", "backup job", "checkpoint their-own", "bitmap for'gotten"]
    {
        report.follow(what);
    }
    std::fs::remove_file(lab.scratch().join("virtkeep.txt")).unwrap();
    case.looks(0);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

/// A job such as other tools begin.
fn begin_their_job(lab: &Lab) {
    let xml = lab.fresh_directory().join("job.xml");
    let (socket, scratch) = (lab.scratch().join("their.sock"), lab.scratch().join("their.scratch"));
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file'><driver type='qcow2'/><scratch file='{}'/></disk></disks></domainbackup>",
        socket.display(),
        scratch.display()
    );
    std::fs::write(&xml, text).unwrap();
    lab.virsh(&[&"backup-begin", &"d", &xml]);
}

#[test]
fn a_job_that_is_half_made_is_told_with_the_remedy() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    case.backup(&[]).succeeds();
    // As libvirtd leaves it when it is killed while it begins a job.
    let status = lab.directory().join("run/libvirt/qemu/run/d.xml");
    lab.command("daemon-kill", &[]).succeeds();
    let text = std::fs::read_to_string(&status).unwrap();
    let job = "<job type='none' async='backup' phase='none' flags='0x0' asyncStarted='0'/>";
    let half = text.replacen("<domain ", &format!("{job}<domain "), 1);
    assert_ne!(half, text);
    std::fs::write(&status, half).unwrap();
    lab.command("daemon-start", &[]).succeeds();
    let report = case.looks(3);
    report.has("backup job", &["look", "half-made", "stop libvirtd", "async='backup'", "/d.xml"]);
    report.has("checkpoint virtnbdbackup.0", &["good: vda"]);
    case.mends_nothing();

    lab.command("daemon-kill", &[]).succeeds();
    let text = std::fs::read_to_string(&status).unwrap();
    let begin = text.find("<job type='none' async='backup'").unwrap();
    let end = begin + text[begin..].find('>').unwrap() + 1;
    std::fs::write(&status, format!("{}{}", &text[..begin], &text[end..])).unwrap();
    lab.command("daemon-start", &[]).succeeds();
    case.looks(0);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

#[test]
fn other_sets_and_other_domains() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let other = Case::new(&lab, "other", &["vda:4M"]);
    case.backup(&[]).succeeds();
    let before = case.everything();
    let wrong = other.doctor_of(&case.set, &["--repair"]).ends_with(3).says(&["nothing is mended"]);
    assert!(wrong.stdout.contains("backups of another domain: d\n"), "{}", wrong.stdout);
    assert_eq!(case.everything(), before);

    let second = case.set.with_file_name("second");
    case.backup_to(&second, &[]).succeeds();
    let report = case.looks(0);
    report.has("chain of the set", &["note", "ended", second.to_str().unwrap()]);
    report.has("checkpoint virtnbdbackup.0", &["note", "another set", second.to_str().unwrap()]);
    case.doctor_of(&second, &[]).succeeds();
    // The old set could not be told.
    std::fs::remove_file(case.set.join(".virtkeep/ended")).unwrap();
    case.looks(3).has("checkpoint virtnbdbackup.0", &["look", "another set", "-l full into an empty directory"]);
    case.mends_nothing();
    // Bitmaps bear names alone: this one is the other chain's.
    case.backup_to(&second, &["-l", "inc"]).succeeds();
    lab.virsh(&[&"checkpoint-delete", &"d", &"virtnbdbackup.0", &"--metadata"]);
    case.looks(3).has("bitmap virtnbdbackup.0", &["look", "can't be told again"]);
    case.mends_nothing();
}

#[test]
fn a_domain_without_a_set() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:4M"]);
    let (uri, scratch) = (lab.uri(), lab.scratch());
    let alone: &[&dyn AsRef<std::ffi::OsStr>] = &[&"doctor", &"-d", &"d", &"-U", &uri, &"--scratchdir", &scratch];
    let report = virtkeep(alone).succeeds();
    assert!(report.stdout.contains("none named") && report.stderr.is_empty(), "{}{}", report.stdout, report.stderr);
    case.backup(&[]).succeeds();
    let report = virtkeep(alone).succeeds();
    assert!(report.stdout.contains("virtkeep run") && report.stdout.contains(case.set.to_str().unwrap()));
    let repair: Vec<_> = alone.iter().copied().chain([&"--repair" as _]).collect();
    virtkeep(&repair).ends_with(2).says(&["--output"]);
    let nowhere = lab.directory().join("nowhere");
    case.doctor_of(&nowhere, &[]).ends_with(1).says(&["nowhere", "hint: "]);
    case.doctor_of(&nowhere, &["--repair"]).ends_with(1);
    assert!(!nowhere.exists());
    // A set that virtkeep has not written to yet.
    let plain = lab.fresh_directory();
    case.doctor_of(&plain, &[]).succeeds();
    assert_eq!(listing(&plain), [""; 0]);
}
