//! Which source of an option counts.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use virtkeep::cli::Command;
use virtkeep::cli::backup::Backup;
use virtkeep::cli::config::read::{Failure, read};
use virtkeep::cli::config::variables::Variables;

use super::file;

fn parsed(config: &Path, variables: &[(&str, &str)], line: &str) -> Result<Command, Failure> {
    let words: Vec<OsString> =
        format!("virtkeep --config {} {line}", config.display()).split(' ').map(Into::into).collect();
    let variables = Variables::of(variables.iter().map(|(name, value)| (name.into(), value.into())));
    read(&words, &variables).map(|read| read.cli.command)
}

#[track_caller]
fn backup(config: &Path, variables: &[(&str, &str)], line: &str) -> Backup {
    match parsed(config, variables, line) {
        Ok(Command::Backup(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

const FILE: &str = r#"
uri = "test:///default"
scratchdir = "/top"
[backup]
output = "/backup/%d"
compress = 4
raw = true
include = ["vda", "vdb"]
wait = 60
verbose = 2
tls-cert = "/certificates"
exclude-domain = ["x", "y"]
[domain.web]
compress = false
include = ["vdc"]
output = "/web"
scratchdir = "/of-web"
[domain."a.b"]
raw = false
"#;

#[test]
fn the_strongest_source_counts() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), FILE);
    let args = backup(&config, &[], "backup -d other");
    assert_eq!((args.compress, args.raw, args.talk.verbose, args.wait), (Some(4), true, 2, Duration::from_secs(60)));
    assert_eq!(
        (args.output.as_path(), args.include),
        (Path::new("/backup/%d"), vec!["vda".to_owned(), "vdb".to_owned()])
    );
    assert_eq!(args.places.scratchdir, Path::new("/top"));
    assert_eq!(args.hypervisor.uri.as_deref(), Some("test:///default"));
    // What needs another option is there only with it.
    assert_eq!((args.network.tls_cert, args.many.exclude_domain.len()), (None, 0));
    assert!(backup(&config, &[], "backup -d other --tls").network.tls_cert.is_some());
    assert_eq!(backup(&config, &[], "backup --all").many.exclude_domain, ["x", "y"]);

    // A domain's section is stronger, variables are than that, and what is typed than all.
    let args = backup(&config, &[], "backup -d web");
    assert_eq!((args.compress, args.raw, args.include), (None, true, vec!["vdc".to_owned()]));
    assert_eq!((args.output.as_path(), args.places.scratchdir.as_path()), (Path::new("/web"), Path::new("/of-web")));
    assert!(!backup(&config, &[], "backup -d a.b").raw);
    let variables =
        [("VIRTKEEP_BACKUP_COMPRESS", "6"), ("VIRTKEEP_BACKUP_INCLUDE", "vdd,vde"), ("VIRTKEEP_BACKUP_RAW", "no")];
    let args = backup(&config, &variables, "backup -d web");
    assert_eq!((args.compress, args.raw, args.include), (Some(6), false, vec!["vdd".to_owned(), "vde".to_owned()]));
    let args = backup(&config, &variables, "backup -d web -z=9 -i vdf -o /typed");
    assert_eq!((args.compress, args.include), (Some(9), vec!["vdf".to_owned()]));
    assert_eq!(args.output, Path::new("/typed"));
    // An empty variable is none; the older names are variables, too.
    assert_eq!(backup(&config, &[("VIRTKEEP_BACKUP_COMPRESS", "")], "backup -d other").compress, Some(4));
    let uri = |variables: &[(&str, &str)], line: &str| backup(&config, variables, line).hypervisor.uri.unwrap();
    assert_eq!(uri(&[("VIRTKEEP_URI", "a:///")], "backup -d other"), "a:///");
    assert_eq!(uri(&[("VIRTKEEP_URI", "a:///"), ("VIRTKEEP_BACKUP_URI", "b:///")], "backup -d other"), "b:///");
    assert_eq!(uri(&[("VIRTKEEP_URI", "a:///")], "backup -d other -U c:///"), "c:///");
}

#[test]
fn what_was_typed_is_not_in_conflict_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = "password-file = '/p'\n[backup]\nall = true\ninactive = true\nno-freeze = true\nnbd-over-ssh = true\noutput = '/b'\nverbose = 1";
    let config = file(directory.path(), text);
    let args = backup(&config, &[], "backup");
    assert!(args.many.all && args.many.inactive && args.guest.no_freeze && args.network.nbd_over_ssh);
    let args = backup(&config, &[], "backup -d web --require-freeze --tls --quiet --password secret");
    assert!(!args.many.all && !args.many.inactive && !args.guest.no_freeze && !args.network.nbd_over_ssh);
    assert_eq!((args.talk.verbose, args.hypervisor.password_file), (0, None));
    // A password of the environment is stronger than a file's name in a file.
    assert_eq!(backup(&config, &[("VIRTKEEP_PASSWORD", "x")], "backup").hypervisor.password_file, None);
    assert!(backup(&config, &[], "backup").hypervisor.password_file.is_some());
    // What is after -- is no option.
    let cp = parsed(&file(directory.path(), "[cp]\nrecursive = true\n"), &[], "cp -i /set -- vda:/a /b").unwrap();
    let Command::Cp(cp) = cp else { panic!("{cp:?}") };
    assert_eq!((cp.recursive, cp.paths), (true, vec!["vda:/a".into(), "/b".into()]));
}

#[test]
fn several_domains_have_their_sections() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), FILE);
    for line in ["backup --all", "backup -d web -d other"] {
        let args = backup(&config, &[], line);
        assert_eq!((args.compress, args.sections.len()), (Some(4), 2));
        let web = &args.sections["web"];
        assert_eq!((web.args.compress, web.args.raw, web.own.contains("output")), (None, true, true));
        assert!(!args.sections["a.b"].args.raw);
    }
    let args = backup(&config, &[], "backup --all -o /typed");
    assert!(!args.sections["web"].own.contains("output") && args.sections["web"].args.output == Path::new("/typed"));
}

#[test]
fn what_is_missing_and_what_is_wrong_is_said_as_without_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "[domain.web]\noutput = '/web'\n");
    let text = |line: &str| match parsed(&config, &[], line) {
        Err(Failure::Usage(error)) => error.to_string(),
        other => panic!("{line}: {other:?}"),
    };
    assert!(text("backup -d other").contains("--output"));
    assert!(text("backup").contains("--domain"));
    assert!(text("backup -d web --bogus").contains("--bogus"));
    assert!(text("backup -d web --all").contains("cannot be used with"));
    assert!(text("backup --help").contains("Usage:"));
    assert_eq!(backup(&config, &[], "backup -d web").output, Path::new("/web"));
    // Neither a file nor variables change commands that people do not type.
    assert!(matches!(parsed(Path::new("/nowhere"), &[], "guard"), Ok(Command::Guard)));
}
