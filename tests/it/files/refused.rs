//! What is refused before an appliance is started.

use std::path::Path;
use std::process::Command;

use crate::support::{program, run, virtkeep};

/// It is asked for by name before anything else is done: the set is not even looked for.
#[test]
fn a_missing_guestfish_is_named_first() {
    let empty = tempfile::tempdir().unwrap();
    for arguments in [&["ls", "-i", "/nonexistent"][..], &["cp", "-i", "/nonexistent", "vda:/x", "/nonexistent/y"]] {
        let output = Command::new(program()).args(arguments).env("PATH", empty.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for words in ["the program guestfish of libguestfs is missing", "apt-get install guestfish", "dnf install"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(output.stdout.is_empty());
    }
}

/// The set is not there: what is wrong with the destination comes first.
#[test]
fn destinations_are_looked_at_first() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    std::fs::write(place.join("fstab"), "mine").unwrap();
    std::fs::create_dir(place.join("etc")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", place.join("dead")).unwrap();
    let cp = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"cp", &"-i", &"/nonexistent"];
        all.extend_from_slice(words);
        virtkeep(&all)
    };
    cp(&[&"vda:/etc/fstab", &place]).ends_with(1).says(&["exists already", "--force overwrites it"]);
    cp(&[&"vda:/x", &place.join("fstab")]).ends_with(1).says(&["exists already", "--force"]);
    cp(&[&"vda:/x", &place.join("dead")]).ends_with(1).says(&["exists already", "--force"]);
    cp(&[&"-r", &"--force", &"vda:/etc", &place]).ends_with(1).says(&["a directory is never overwritten"]);
    cp(&[&"vda:/a", &"vda:/b", &place.join("fstab")]).ends_with(1).says(&["no such directory"]);
    cp(&[&"vda:/a", &place.join("new").join("file")]).ends_with(1).says(&["new", "No such file"]);
    cp(&[&"vda:/a", &format!("{}/new/", place.display())]).ends_with(1).says(&["no such directory", "create it"]);
    cp(&[&"vda:/a/x", &"vda:/b/x", &place]).ends_with(2).says(&["would become the same file"]);
    cp(&[&"vda:/a/..", &place]).ends_with(2).says(&["has no name"]);
    cp(&[&"vda:/a", &"vda:/b", &"-"]).ends_with(2).says(&["standard output takes one file"]);
    cp(&[&"-r", &"vda:/a", &"-o", &"-"]).ends_with(2).says(&["standard output takes one file"]);
    cp(&[&"vda:/a"]).ends_with(2).says(&["where to copy is missing"]);
    cp(&[&"fstab", &place]).ends_with(2).says(&["NAME:PATH", "vda:/etc/fstab"]);
    virtkeep(&[&"ls", &"-i", &"/nonexistent", &"vda"]).ends_with(2).says(&["NAME:PATH"]);
    virtkeep(&[&"ls", &"-R", &"-i", &"/nonexistent"]).ends_with(2);
    virtkeep(&[&"ls", &"--key", &"x", &"-i", &"/nonexistent"]).ends_with(2);
    // All is well but the set.
    cp(&[&"--force", &"vda:/etc/fstab", &place]).ends_with(1).says(&["/nonexistent"]);
    assert_eq!(std::fs::read(place.join("fstab")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(place).unwrap().count(), 3, "something was made");
}

/// Whoever may not write there hears of it at once, not after the appliance has started.
#[test]
fn a_directory_that_can_not_be_written_to_is_told_at_once() {
    let locked = tempfile::tempdir().unwrap();
    run("chmod", &[&"755", &locked.path()]).succeeds();
    // Copied to where anybody can start it.
    let copy = tempfile::Builder::new().prefix("virtkeep-test.").tempdir_in("/tmp").unwrap();
    run("chmod", &[&"755", &copy.path()]).succeeds();
    let binary = copy.path().join("virtkeep");
    std::fs::copy(Path::new(&program()), &binary).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    run("setpriv", &[&nobody[0], &nobody[1], &nobody[2], &binary, &"cp", &"-i", &"/x", &"vda:/a", &locked.path()])
        .ends_with(1)
        .says(&["write to", "Permission denied"]);
}
