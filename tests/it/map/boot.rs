//! `--boot`: machines that run from their backups.

use std::ffi::OsStr;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Map;
use crate::support::{Case, Lab, MIB, Run, TestDomain, files, run, virtkeep};

/// Boots in the foreground.
#[track_caller]
fn boot(lab: &Lab, set: &Path, options: &[&str]) -> Run {
    let uri = lab.uri();
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"map", &"-n", &"-U", &uri, &"-i", &set, &"--boot"];
    all.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
    virtkeep(&all)
}

/// Boots in the background, and waits until the domain runs.
#[track_caller]
fn boot_on(lab: &Lab, set: &Path, options: &[&str]) -> Map {
    let uri = lab.uri();
    let mut all = vec!["-n", "-U", &uri, "-i", set.to_str().unwrap(), "--boot"];
    all.extend(options);
    Map::start_as(&all, tempfile::tempdir().unwrap(), PathBuf::new())
}

/// The names of the domains that run.
#[track_caller]
fn running(lab: &Lab) -> Vec<String> {
    lab.virsh(&[&"list", &"--name"]).split_whitespace().map(str::to_owned).collect()
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process's end by itself.
#[track_caller]
fn ends(map: Map) -> Run {
    // No signal but a look whether it is there.
    until("the map does not end", || is_zombie(map.id()));
    map.end("0")
}

fn is_zombie(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default().contains(") Z ")
}

/// The directory of the domain's files, by its socket in the domain's XML.
#[track_caller]
fn directory(lab: &Lab, domain: &str) -> PathBuf {
    let xml = lab.virsh(&[&"dumpxml", &domain]);
    let socket = xml.split_once("socket='").expect(&xml).1.split('\'').next().unwrap();
    Path::new(socket).parent().unwrap().to_owned()
}

/// Every file of the set with its digest.
fn sums(set: &Path) -> Vec<String> {
    files(set).iter().map(|file| run("sha256sum", &[&set.join(file)]).succeeds().stdout).collect()
}

#[test]
fn a_guest_runs_from_its_backup_beside_itself() {
    let lab = Lab::up();
    let guest = lab.guest("g", &["vda:64M", "vdb:8M"]);
    guest.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo first >/mnt/file");
    guest.execute("dd if=/dev/urandom of=/mnt/random bs=1M count=5 2>&1 && echo second disk >/dev/vdb && sync");
    let sum = guest.execute("sha256sum </mnt/random");
    let set = lab.fresh_directory().join("set");
    lab.back_up("g", &set, &["-l", "full"]).succeeds();
    guest.execute("echo second >/mnt/file && sync");
    lab.back_up("g", &set, &["-l", "inc"]).succeeds();
    let before = sums(&set);

    // A restore test: what the command finds, and its status.
    let script = format!(
        r#"set -e; echo "$domain"; virsh domstate "$domain"
        "$LAB" exec '{}' "$domain" 'mount /dev/vda /mnt && cat /mnt/file && sha256sum </mnt/random && head -n 1 /dev/vdb'
        "$LAB" exec '{}' "$domain" 'echo written >/mnt/file && sync'; exit 7"#,
        lab.directory().display(),
        lab.directory().display()
    );
    let script = script.replace("$LAB", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab.sh"));
    let tested = boot(&lab, &set, &["--wait-agent", "120", "-e", &script]).ends_with(7);
    let wanted = format!("g-boot\nrunning\n\nsecond\n{sum}second disk\n");
    assert_eq!(tested.stdout.trim_end(), wanted.trim_end(), "{}", tested.stderr);
    tested.says(&["domain g-boot runs from the inc backup", "console g-boot", "guest agent of g-boot answers"]);
    assert_eq!(running(&lab), ["g"]);

    // An earlier point, until the guest shuts down. What was written before is gone with the domain that wrote it.
    let map = boot_on(&lab, &set, &["-u", "virtnbdbackup.0", "--name", "old one", "--wait-agent", "120"]);
    assert_eq!(map.uris, ["old one"]);
    let old = TestDomain::known(&lab, "old one");
    assert_eq!(old.execute("mount /dev/vda /mnt && cat /mnt/file"), "first\n");
    assert_eq!(guest.execute("cat /mnt/file"), "second\n");
    let place = directory(&lab, "old one");
    // The agent goes down with it.
    lab.command("exec", &[&"old one", &"poweroff -f"]);
    ends(map).succeeds().says(&["domain old one has ended"]);
    assert!(!place.exists());
    assert_eq!(sums(&set), before);
}

#[test]
fn a_running_copy_becomes_a_machine_of_its_own() {
    let lab = Lab::up();
    let (guest, set) = lab.guest_with_a_set("first");
    guest.stop();
    // What it wrote in an earlier map is kept, and copied as well.
    let overlay = lab.fresh_directory().join("overlay");
    let kept = ["--overlay", overlay.to_str().unwrap(), "--wait-agent", "120"];
    let map = boot_on(&lab, &set, &kept);
    let copy = TestDomain::known(&lab, "g-boot");
    copy.execute("mount /dev/vda /mnt && dd if=/dev/urandom of=/mnt/random bs=1M count=9 2>&1 && umount /mnt");
    map.end("INT").succeeds();
    assert_eq!(running(&lab), [""; 0]);

    let out = lab.fresh_directory();
    run("chown", &[&"--reference", &lab.scratch(), &out]).succeeds();
    let to = ["--name", "new", "--copy-to", out.to_str().unwrap(), "--define"];
    boot(&lab, &set, &[&kept[..], &to].concat()).succeeds().says(&["new-vda.qcow2", "is defined"]);
    let new = TestDomain::known(&lab, "new");
    let image = out.join("new-vda.qcow2");
    assert_eq!(new.image("vda"), image);
    // It is the same domain, and needs no map any more.
    let compare = format!("qemu-img compare -U -f qcow2 -F raw '{}' \"$uri\"", image.display());
    virtkeep(&[&"map", &"-n", &"-i", &set, &kept[0], &kept[1], &"-e", &compare]).succeeds();
    new.execute("mount /dev/vda /mnt && cat /mnt/file && echo later >/mnt/later && sync");
    lab.back_up("new", &lab.fresh_directory().join("set"), &["--require-freeze"]).succeeds();
    new.stop();
    new.start();
    lab.virsh(&[&"resume", &"new"]);
    until("it does not boot again", || {
        lab.command("exec", &[&"new", &"mount /dev/vda /mnt && cat /mnt/later /mnt/file"]).stdout == "later\nfirst\n"
    });

    // Nothing is overwritten.
    boot(&lab, &set, &to).ends_with(1).says(&["domain new exists already", "hint:"]);
    boot(&lab, &set, &["--copy-to", to[3]]).ends_with(1).says(&["vmlinux", "exists already", "--copy-to"]);
    boot(&lab, &set, &["--copy-to", set.to_str().unwrap()]).ends_with(2).says(&["must not lie in the set"]);
    // A copy that can't be made leaves neither files nor a domain.
    let closed = lab.fresh_directory();
    run("chmod", &[&"755", &closed]).succeeds();
    boot(&lab, &set, &["--copy-to", closed.to_str().unwrap()]).ends_with(1).says(&["disk vda", "g-boot-vda.qcow2"]);
    assert_eq!(std::fs::read_dir(closed).unwrap().count(), 0);
    assert_eq!(running(&lab), ["new"]);
}

#[test]
fn a_machine_of_its_own_is_asked_for_later() {
    let lab = Lab::up();
    let (guest, set) = lab.guest_with_a_set("first");
    guest.stop();
    let directory_of_qemu = |mode: &str| {
        let directory = lab.fresh_directory();
        run("chmod", &[&mode, &directory]).succeeds();
        if mode == "700" {
            run("chown", &[&"--reference", &lab.scratch(), &directory]).succeeds();
        }
        directory
    };
    let map = boot_on(&lab, &set, &["--wait-agent", "120"]);
    let copy = TestDomain::known(&lab, "g-boot");
    copy.execute("mount /dev/vda /mnt && echo second >/mnt/second && sync");
    let id = map.id().to_string();

    // Who can't have what he asks for has changed nothing.
    let closed = directory_of_qemu("755");
    let ask = |place: &Path, options: &[&'static str]| {
        let mut words: Vec<&dyn AsRef<OsStr>> = vec![&"unmap", &id, &"--copy-to", &place];
        words.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&words)
    };
    ask(&closed, &[]).ends_with(1).says(&["disk vda", "g-boot-vda.qcow2"]);
    assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0);
    ask(&set, &[]).ends_with(1).says(&["must not lie in the set"]);
    ask(&closed.join("none"), &[]).ends_with(1).says(&["none", "No such file"]);
    let taken = directory_of_qemu("700");
    std::fs::write(taken.join("vmlinux"), "another").unwrap();
    ask(&taken, &[]).ends_with(1).says(&["vmlinux", "exists already"]);
    assert_eq!(std::fs::read(taken.join("vmlinux")).unwrap(), b"another");
    for words in [&b"no order\n"[..], b""] {
        let address = format!("virtkeep-boot.{id}");
        let address = std::os::unix::net::SocketAddr::from_abstract_name(address).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
        stream.write_all(words).unwrap();
    }
    assert_eq!(copy.execute("cat /mnt/second"), "second\n");

    let out = directory_of_qemu("700");
    ask(&out, &["--define"]).succeeds().says(&["g-boot-vda.qcow2", "is defined"]);
    ends(map).succeeds().says(&["asked to copy", "still runs from the map", "is defined"]);
    assert_eq!(copy.image("vda"), out.join("g-boot-vda.qcow2"));
    assert_eq!(copy.execute("echo third >/mnt/third && sync && cat /mnt/file"), "first\n");
    // With the kernel beside its image.
    copy.stop();
    copy.start();
    lab.virsh(&[&"resume", &"g-boot"]);
    until("it does not boot again", || {
        let read = "mount /dev/vda /mnt && cat /mnt/second /mnt/third";
        lab.command("exec", &[&"g-boot", &read]).stdout == "second\nthird\n"
    });

    // In the background, and not defined at once; two of one name there can't be.
    let detached = boot(&lab, &set, &["--detach", "--name", "far"]).succeeds();
    assert_eq!(detached.stdout, "far\n");
    let socket = directory(&lab, "far").join("nbd.sock");
    let out = directory_of_qemu("700");
    virtkeep(&[&"unmap", &socket, &"--copy-to", &out]).succeeds().says(&["far-vda.qcow2", "virsh define"]);
    assert!(!socket.exists());
    assert!(running(&lab).contains(&"far".to_owned()));
    lab.virsh(&[&"define", &out.join("far.xml")]);
    lab.virsh(&[&"destroy", &"far"]);
    lab.virsh(&[&"start", &"far"]);

    // A map that nothing runs from.
    let plain = Map::start(&["-n", "-i", set.to_str().unwrap()]);
    let id = plain.id().to_string();
    virtkeep(&[&"unmap", &id, &"--copy-to", &out]).ends_with(1).says(&["no domain runs from map", "--boot"]);
    virtkeep(&[&"unmap", &id]).succeeds();
    ends(plain).succeeds();
}

#[test]
fn a_domain_goes_with_its_map() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backup(&[]).succeeds();

    let map = boot_on(&lab, &case.set, &[]);
    let place = directory(&lab, "d-boot");
    assert!(place.join("nbd.sock").exists());
    // Its name is taken.
    boot(&lab, &case.set, &[]).ends_with(1).says(&["domain d-boot exists already", "--name"]);
    // Not even a moment to tidy up.
    map.end("KILL");
    until("the domain outlives its map", || running(&lab) == ["d"]);
    until("its files outlive the map", || !place.exists());

    // A daemon that is restarted, a domain that is ended by somebody else, a signal.
    let map = boot_on(&lab, &case.set, &[]);
    lab.command("daemon-kill", &[]).succeeds();
    lab.command("daemon-start", &[]).succeeds();
    until("the domain outlives the daemon", || running(&lab).contains(&"d-boot".to_owned()));
    // However it ends: under load the new daemon may give up its QEMU by itself.
    lab.command("virsh", &[&"destroy", &"d-boot"]);
    ends(map).succeeds().says(&["domain d-boot has ended"]);
    let map = boot_on(&lab, &case.set, &[]);
    let id = map.id().to_string();
    virtkeep(&[&"unmap", &id]).succeeds();
    ends(map).succeeds();
    assert_eq!(running(&lab), ["d"]);

    // In the background.
    let detached = boot(&lab, &case.set, &["--detach", "--name", "far"]).succeeds();
    assert_eq!(detached.stdout, "far\n");
    let place = directory(&lab, "far");
    virtkeep(&[&"unmap", &place.join("nbd.sock")]).succeeds();
    assert_eq!(running(&lab), ["d"]);
    assert!(!place.exists());
}

#[test]
fn copies_are_whole_or_gone() {
    let lab = Lab::up();
    let case = Case::new(&lab, "d", &["vda:8M", "vdb:8M"]);
    for (disk, pattern) in [("vda", 0x11), ("vdb", 0x22)] {
        case.domain.write(disk, pattern, MIB, 2 * MIB);
    }
    let references = case.domain.snapshot_references(&["vda", "vdb"]);
    case.backup(&[]).succeeds();
    let out = || {
        let out = lab.fresh_directory();
        run("chown", &[&"--reference", &lab.scratch(), &out]).succeeds();
        out
    };
    let whole = out();
    let told = boot(&lab, &case.set, &["--copy-to", whole.to_str().unwrap()]).succeeds();
    assert_eq!(told.stdout, "d-boot\n");
    told.says(&["virsh define"]);
    for (disk, reference) in ["vda", "vdb"].iter().zip(&references) {
        let image = whole.join(format!("d-boot-{disk}.qcow2"));
        run("qemu-img", &[&"compare", &"-U", &"-f", &"qcow2", &"-F", &"raw", &image, reference]).succeeds();
    }
    lab.virsh(&[&"destroy", &"d-boot"]);

    // In the middle of the second disk's data.
    let stream = case.set.join("vdb.full.data");
    let mut content = std::fs::read(&stream).unwrap();
    let middle = MIB as usize;
    content[middle] ^= 1;
    std::fs::write(&stream, content).unwrap();
    let gone = out();
    let failed = boot(&lab, &case.set, &["--copy-to", gone.to_str().unwrap()]).ends_with(1);
    failed.says(&["vdb.full.data", "the copy of the disk ended before it was complete", "disk vdb"]);
    assert_eq!(std::fs::read_dir(gone).unwrap().count(), 0);
    assert_eq!(running(&lab), ["d"]);
}

#[test]
fn what_a_copy_is_made_of_is_told() {
    let lab = Lab::up();
    let card = "<interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>\
                <graphics type='vnc' autoport='yes'/>";
    let case = Case::new(&lab, "d", &["--devices", card, "vda:8M", "vdb:8M", "sdc:1M:cdrom"]);
    case.domain.write("vda", 0x11, 0, MIB);
    case.backup(&[]).succeeds();
    let look = "virsh dumpxml \"$domain\"";

    let told = boot(&lab, &case.set, &["-d", "vda", "-e", look, "--memory", "96M"]).succeeds();
    for there in ["<link state='down'/>", "98304</memory>", "name='vda'", "type='vnc'"] {
        assert!(told.stdout.contains(there), "{there}: {}", told.stdout);
    }
    for gone in ["52:54:00:12:34:56", "'vdb'", "sdc.raw"] {
        assert!(!told.stdout.contains(gone), "{gone}: {}", told.stdout);
    }
    told.says(&["disk vdb is not part of the map", "drive sdc is empty", "no network", "VNC viewer on 127.0.0.1:"]);

    // In the original's place, once that is gone; over TCP.
    boot(&lab, &case.set, &["--name", "d"]).ends_with(1).says(&["domain d exists already"]);
    let uuid = lab.virsh(&[&"domuuid", &"d"]);
    lab.virsh(&[&"destroy", &"d"]);
    lab.virsh(&[&"undefine", &"d", &"--checkpoints-metadata"]);
    let options = ["--name", "d", "--original-network", "-l", "127.0.0.1:0", "-e", look];
    let told = boot(&lab, &case.set, &options).succeeds();
    for there in [uuid.trim(), "52:54:00:12:34:56", "<host name='127.0.0.1' port="] {
        assert!(told.stdout.contains(there), "{there}: {}", told.stdout);
    }

    // What fails leaves nothing.
    boot(&lab, &case.set, &["--network", "none such"]).ends_with(1).says(&["start the domain", "none such"]);
    let silent = boot(&lab, &case.set, &["--wait-agent", "1"]).ends_with(1);
    assert_eq!(silent.stdout, "");
    silent.says(&["agent of d-boot does not answer", "hint:"]);
    assert_eq!(running(&lab), [""; 0]);

    // What makes no sense.
    let set = case.set.to_str().unwrap();
    for options in [
        &["--name", "x"][..],
        &["--memory", "1G"],
        &["--network", "n"],
        &["--copy-to", "/tmp"],
        &["--boot", "--define"],
        &["--device", "/dev/null"],
        &["--boot", "--overlay", "/tmp/never"],
        &["--boot", "--fuse", "/tmp"],
        &["--boot", "--network", "n", "--original-network"],
        &["--boot", "--copy-to", "/tmp", "-e", "true"],
        &["--boot", "-U", "qemu+ssh://root@there/system"],
    ] {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"map", &"-n", &"-i", &set];
        all.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        virtkeep(&all).ends_with(2);
    }
}

#[test]
fn a_processor_that_the_host_lacks_is_replaced() {
    let lab = Lab::up();
    let card = "<interface type='user'><model type='virtio'/></interface>";
    let case = Case::new(&lab, "d", &["--off", "--devices", card, "vda:2M"]);
    // No emulated processor has this.
    let xml = lab.virsh(&[&"dumpxml", &"d"]);
    let cpu = "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model>\
               <feature policy='require' name='amx-tile'/></cpu>";
    let start = xml.find("<cpu").unwrap_or_else(|| xml.find("<clock").expect(&xml));
    let end = xml.find("<clock").unwrap();
    let changed = lab.directory().join("home/changed.xml");
    std::fs::write(&changed, format!("{}{cpu}{}", &xml[..start], &xml[end..])).unwrap();
    lab.virsh(&[&"define", &changed]);
    case.backup(&[]).succeeds();
    let told = boot(&lab, &case.set, &["-e", "virsh dumpxml \"$domain\""]).succeeds();
    assert!(!told.stdout.contains("amx-tile") && !told.stdout.contains("<interface"), "{}", told.stdout);
    told.says(&["another model of the processor", "no network card"]);
}

#[test]
fn firmware_variables_are_the_copys_own() {
    let lab = Lab::up();
    let disks = lab.directory().join("disks");
    let (code, variables) = (disks.join("code.fd"), disks.join("vars.fd"));
    std::fs::copy("/usr/share/seabios/bios-256k.bin", &code).unwrap();
    std::fs::write(&variables, vec![0x5a; 128 << 10]).unwrap();
    run("chown", &[&"-R", &"--reference", &lab.scratch(), &disks]).succeeds();
    let os = format!(
        "<loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram>",
        code.display(),
        variables.display()
    );
    let case = Case::new(&lab, "d", &["--os", &os, "vda:2M"]);
    case.backup(&[]).succeeds();
    let look = r#"virsh dumpxml "$domain" | grep -E '<(loader|nvram)' && od -An -tx1 -N4 "${unixsocket%/*}/vars.fd""#;
    let told = boot(&lab, &case.set, &["-e", look]).succeeds();
    assert!(told.stdout.contains(code.to_str().unwrap()), "{}", told.stdout);
    assert!(!told.stdout.contains(variables.to_str().unwrap()), "{}", told.stdout);
    assert!(told.stdout.contains(" 5a 5a 5a 5a"), "{}", told.stdout);
}
