//! The state of an emulated TPM.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{forget, hand_over, images};
use crate::support::{Lab, Run, TestDomain, run};

const TPM: &str = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>";

/// The program, with the lab's daemon as the one of its own user.
#[track_caller]
fn virtkeep(lab: &Lab, command: &str, arguments: &[&dyn AsRef<OsStr>]) -> Run {
    let config = format!("XDG_CONFIG_HOME={}", lab.directory().join("config").display());
    let program = crate::support::program();
    let uri = lab.uri();
    let mut all: Vec<&dyn AsRef<OsStr>> = vec![&config, &program, &command, &"-n", &"-U", &uri];
    all.extend_from_slice(arguments);
    run("env", &all)
}

fn back_up(lab: &Lab, set: &Path, options: &[&str]) -> Run {
    let scratch = lab.scratch();
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-d", &"t", &"--scratchdir", &scratch, &"-o", &set];
    arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
    virtkeep(lab, "backup", &arguments)
}

#[track_caller]
fn state(lab: &Lab, name: &str) -> PathBuf {
    let uuid = lab.virsh(&[&"domuuid", &name]);
    lab.directory().join("config/libvirt/qemu/swtpm").join(uuid.trim()).join("tpm2/tpm2-00.permall")
}

#[test]
fn the_state_comes_back_where_it_is_missing() {
    let lab = Lab::up();
    lab.domain("t", &["--devices", TPM, "vda:2M"]);
    let set = lab.fresh_directory().join("set");
    back_up(&lab, &set, &["--strict"]).succeeds();
    let path = state(&lab, "t");
    let (saved, owner) = (fs::read(&path).unwrap(), path.metadata().unwrap().uid());
    // libvirt removes the state with the domain.
    forget(&lab, "t");
    assert!(!path.exists());

    let out = images(&lab);
    virtkeep(&lab, "restore", &[&"-i", &set, &"-o", &out, &"-D"]).succeeds().says(&["the TPM's state is restored"]);
    assert_eq!(fs::read(&path).unwrap(), saved);
    assert_eq!(path.metadata().unwrap().uid(), owner);
    hand_over(&out);
    let again = TestDomain::known(&lab, "t");
    again.start();
    again.stop();
    // What is there may be newer.
    fs::write(&path, "newer").unwrap();
    let options: [&dyn AsRef<OsStr>; 6] = [&"-i", &set, &"-o", &out, &"-D", &"--force"];
    virtkeep(&lab, "restore", &options).succeeds().says(&["state on this host is kept"]);
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    // A copy has a place of its own.
    let out = images(&lab);
    virtkeep(&lab, "restore", &[&"-i", &set, &"-o", &out, &"-D", &"-N", &"copy"]).succeeds();
    assert_eq!(fs::read(state(&lab, "copy")).unwrap(), saved);
    // Without -D it lies beside the images.
    let out = images(&lab);
    virtkeep(&lab, "restore", &[&"-i", &set, &"-o", &out]).succeeds().says(&["tpm-state.tar", "-D does it"]);
    let content = run("tar", &[&"-xOf", &out.join("tpm-state.tar"), &"tpm2/tpm2-00.permall"]).succeeds();
    assert_eq!(content.stdout, String::from_utf8_lossy(&saved));
}

#[test]
fn a_state_that_cannot_be_read_is_a_warning() {
    let lab = Lab::up();
    lab.domain("t", &["--devices", TPM, "vda:2M"]);
    let path = state(&lab, "t");
    let set = lab.fresh_directory().join("set");
    fs::rename(&path, path.with_extension("away")).unwrap();
    back_up(&lab, &set, &["--strict"]).ends_with(3).says(&["the TPM's state is not saved", "holds no state"]);
    fs::create_dir(&path).unwrap();
    back_up(&lab, &set, &["--strict"]).ends_with(3).says(&["the TPM's state is not saved", "permall"]);
    fs::remove_dir(&path).unwrap();
    fs::rename(path.with_extension("away"), &path).unwrap();
    back_up(&lab, &set, &["--strict"]).succeeds();
    lab.virsh(&[&"destroy", &"t"]);
}
