//! What packages install, and what it does where it is installed. tests/packages.sh takes the packages through their
//! life in systems that have nothing else.

mod crates;
mod release;
mod scheduled;

use std::path::{Path, PathBuf};

use crate::support::{Lab, Run, listing, program, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a script of packaging/ or tests/ with the program under test.
#[track_caller]
fn script(name: &str, variables: &[(&str, &Path)], arguments: &[&str]) -> Run {
    let mut words: Vec<std::ffi::OsString> = vec![format!("VIRTKEEP_BIN={}", Path::new(&program()).display()).into()];
    words.extend(variables.iter().map(|(name, value)| format!("{name}={}", value.display()).into()));
    words.push(format!("{ROOT}/{name}").into());
    words.extend(arguments.iter().map(Into::into));
    let words: Vec<&dyn AsRef<std::ffi::OsStr>> = words.iter().map(|word| word as _).collect();
    run("env", &words)
}

/// All files and links below a directory, by their paths.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for name in listing(directory) {
        let path = directory.join(name);
        if path.is_dir() && !path.is_symlink() { all.extend(tree(&path)) } else { all.push(path) }
    }
    all
}

#[test]
fn what_is_installed_goes_away_again() {
    let lab = Lab::up();
    let root = lab.fresh_directory();
    std::fs::create_dir_all(root.join("usr/share/doc/other")).unwrap();
    std::fs::write(root.join("usr/share/doc/other/README"), "").unwrap();
    let install = |options: &[&str]| script("packaging/install.sh", &[("DESTDIR", &root)], options);
    install(&["--drop-in", "/usr"]).succeeds();
    let usr = root.join("usr");
    assert_eq!(listing(&usr.join("bin")), ["virtkeep", "virtnbdbackup", "virtnbdmap", "virtnbdrestore"]);
    assert_eq!(listing(&usr.join("share/man/man1")), listing(&Path::new(ROOT).join("packaging/man")));
    assert!(run(usr.join("bin/virtnbdbackup"), &[&"--version"]).succeeds().stdout.contains("virtkeep"));
    let unit = std::fs::read_to_string(usr.join("lib/systemd/system/virtkeep.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/virtkeep backup") && !unit.contains("@PREFIX@"));

    // The configuration is right, says where to, and is its owner's from then on.
    let config = root.join("etc/virtkeep/virtkeep.toml");
    let check = run(program(), &[&"--config", &config, &"config", &"check"]).succeeds();
    assert!(check.stdout.contains("/var/backups/virtkeep/%d/%Y-%m"), "{}", check.stdout);
    std::fs::write(&config, "# mine\n").unwrap();
    install(&["--drop-in", "/usr"]).succeeds();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine\n");

    install(&["--drop-in", "--uninstall", "/usr"]).succeeds();
    assert_eq!(tree(&root), [config, usr.join("share/doc/other/README")]);
    assert!(!usr.join("share/doc/virtkeep").exists() && !usr.join("libexec/virtkeep").exists());

    // Without the drop-in's names, which may be another program's.
    std::fs::write(usr.join("bin/virtnbdbackup"), "").unwrap();
    install(&["/usr"]).succeeds();
    install(&["--uninstall", "/usr"]).succeeds();
    assert_eq!(listing(&usr.join("bin")), ["virtnbdbackup"]);
    install(&["relative"]).ends_with(1).says(&["PREFIX must be an absolute path"]);
    script("packaging/install.sh", &[("VIRTKEEP_BIN", Path::new("/nowhere"))], &["/usr"])
        .ends_with(1)
        .says(&["the program is not there: /nowhere", "hint: "]);
}

#[test]
fn packages_are_built_of_it() {
    let lab = Lab::up();
    let debian = lab.fresh_directory();
    let packages = script("packaging/deb.sh", &[], &[debian.to_str().unwrap()]).succeeds().stdout;
    let packages: Vec<&str> = packages.lines().collect();
    assert_eq!(packages.len(), 2, "{packages:?}");
    let control = run("dpkg-deb", &[&"-f", &packages[0], &"Depends", &"Version"]).succeeds().stdout;
    for wanted in ["libvirt0 (>= ", "libnbd0 (>= ", "qemu-utils", env!("CARGO_PKG_VERSION")] {
        assert!(control.contains(wanted), "{wanted}: {control}");
    }
    assert!(run("dpkg-deb", &[&"-f", &packages[1], &"Conflicts"]).succeeds().stdout.contains("virtnbdbackup"));
    let lintian: [&dyn AsRef<std::ffi::OsStr>; 5] =
        [&"--allow-root", &"--fail-on", &"error,warning", &packages[0], &packages[1]];
    run("lintian", &lintian).succeeds();

    let rpm = script("tests/packages-rpm.sh", &[], &[lab.fresh_directory().to_str().unwrap()]).succeeds();
    assert!(rpm.stdout.contains("installed 0.0.9, upgraded"), "{}", rpm.stdout);
}
