//! Room for the scratch files: asked for before the job, watched during it.

use std::path::PathBuf;

use crate::support::{Case, Lab, MIB, run, spawn_with};

/// A small file system that QEMU can write to; gone with this value.
struct Small(PathBuf);

impl Small {
    /// Before the domain is started: a daemon may give QEMU a view of its own of what is mounted.
    fn mount(lab: &Lab, size: &str) -> Small {
        let directory = lab.fresh_directory();
        run("mount", &[&"-t", &"tmpfs", &"-o", &format!("size={size},mode=777"), &"tmpfs", &directory]).succeeds();
        Small(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &[&"-l", &self.0]).succeeds();
    }
}

#[test]
fn little_room_is_told_and_refused_where_asked() {
    let lab = Lab::up();
    let small = Small::mount(&lab, "16M");
    let scratch = small.0.to_str().unwrap();
    let case = Case::new(&lab, "d", &["vda:64M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let options = |more: &[&'static str]| [&["--scratchdir", scratch][..], more].concat();
    let said = case.backup(&options(&["--scratch-required"])).ends_with(1);
    said.says(&["16.0 MiB free", "64.0 MiB", "--scratchdir"]);
    case.is_as_before(&[]);
    let said = case.backup(&options(&["--scratch-reserve", "17M"])).ends_with(1);
    said.says(&["only 16.0 MiB left", "17.0 MiB must stay free", "--scratch-reserve"]);
    case.is_as_before(&[]);
    let said = case.backup(&options(&["--strict"])).ends_with(3);
    said.says(&["16.0 MiB free", "the run is given up when only 4.0 MiB are left"]);
    case.is_as_before(&["virtnbdbackup.0"]);
}

#[test]
fn a_run_is_given_up_before_the_guest_has_no_room() {
    let lab = Lab::up();
    let small = Small::mount(&lab, "16M");
    let scratch = small.0.to_str().unwrap();
    let case = Case::new(&lab, "d", &["vda:64M"]);
    case.domain.write("vda", 0xaa, 0, 32 * MIB);
    case.backs_up(&[], &["vda"]);
    case.domain.write("vda", 0xbb, 0, 4 * MIB);
    let mut backup = spawn_with(&case, &["--scratchdir", scratch, "-l", "inc"], "copied=stop");
    backup.stops();
    // 12 of the 16 MiB may be used: three quarters.
    case.domain.write("vda", 0xcc, 8 * MIB, 13 * MIB);
    backup.signal("CONT");
    let mut backup = backup.wait();
    if backup.status == 0 {
        // It was done before the watch looked again.
        backup = {
            let mut again = spawn_with(&case, &["--scratchdir", scratch, "-l", "inc"], "stream-created=stop");
            again.stops();
            case.domain.write("vda", 0xcd, 24 * MIB, 8 * MIB);
            case.domain.write("vda", 0xcd, 8 * MIB, 5 * MIB);
            again.signal("CONT");
            again.wait()
        };
    }
    backup.ends_with(1).says(&["must stay free for the guest's sake", "undoing the run"]);
    case.no_traces();
    assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0);
    case.backs_up(&["-l", "inc"], &["vda"]);
}

#[test]
fn a_guest_that_was_paused_by_a_full_scratch_goes_on() {
    let lab = Lab::up();
    let small = Small::mount(&lab, "8M");
    let scratch = small.0.to_str().unwrap();
    let case = Case { lab: &lab, domain: lab.guest("g", &["vda:256M"]), set: lab.fresh_directory().join("set") };
    case.domain.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt");
    case.domain.execute("dd if=/dev/urandom of=/mnt/a bs=1M count=32 2>&1 && sync");
    case.backup(&[]).succeeds();
    let state = || lab.virsh(&[&"domstate", &"g", &"--reason"]).trim().to_owned();
    // Killed, too: the next run ends the job and lets the guest go on.
    for (place, status) in [("stream-created", 1), ("job-begun", 1), ("stream-created", 137)] {
        case.domain.execute("echo more >/mnt/more && sync");
        let options = ["--scratchdir", scratch, "--scratch-reserve", "0", "-l", "inc"];
        let mut backup = spawn_with(&case, &options, &format!("{place}=stop"));
        backup.stops();
        // Asks the agent without waiting: the guest stands still before it could answer.
        let write = "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\
                     \"dd if=/dev/zero of=/mnt/a bs=1M count=32 conv=notrunc; sync; touch /tmp/written\"]}}";
        lab.virsh(&[&"qemu-agent-command", &"g", &write]);
        let begin = std::time::Instant::now();
        while state() != "paused (I/O error)" {
            assert!(begin.elapsed().as_secs() < 60, "the guest is not paused: {}", state());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let run = if status == 137 {
            backup.signal("KILL");
            backup.wait().ends_with(status);
            case.backup(&["-l", "inc"])
        } else {
            backup.signal("CONT");
            backup.wait()
        };
        // What was copied by then is whole: it may have been enough.
        assert!([0, status].contains(&run.status), "{}: {}", run.status, run.stderr);
        run.says(&["is resumed"]);
        assert!(state().starts_with("running"), "{}", state());
        case.domain.execute("while [ ! -e /tmp/written ]; do sleep 0.1; done; rm /tmp/written; cat /mnt/more");
        case.no_traces();
    }
    case.backup(&["-l", "inc"]).succeeds();
    case.domain.execute("umount /mnt");
    case.backup(&["-l", "inc"]).succeeds();
    let reference = case.domain.snapshot_references(&["vda"]);
    case.restores(&[], &["vda"], &reference);
}
