//! The ways by which libvirt is reached and the data comes, and that all of them give the same bytes.

use super::hosts::Hosts;
use crate::support::{MIB, listing};

#[test]
fn every_way_gives_the_same_bytes() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:16M", "vdb:4M"]);
    let disks = &["vda", "vdb"];
    case.domain.write("vda", 0xaa, 0, 9 * MIB);
    case.domain.write("vdb", 0xbb, MIB, MIB);
    let (ssh, tls) = (hosts.ssh(), hosts.tls());
    let certificates = hosts.certificates("tls");
    let auth = hosts.directory().join("auth.conf");
    std::fs::write(&auth, "[credentials-k]\nauthname=keeper\npassword=secret\n\n[auth-libvirt-there]\ncredentials=k\n")
        .unwrap();
    let by_file = hosts.uri("tcp", "there", &[&format!("authfile={}", auth.display())]);
    let by_option = hosts.uri("tcp", "there", &[]);
    let ways: [(&str, &[&str], &str); 8] = [
        (&ssh, &[], "full"),
        (&ssh, &["--nbd-over-ssh", "-z"], "inc"),
        (&ssh, &["-P", "10900"], "inc"),
        (&ssh, &["-I", "0.0.0.0"], "inc"),
        (&ssh, &["--tls", "--tls-cert", &certificates], "inc"),
        (&tls, &["--ssh-user", "root"], "inc"),
        (&by_option, &["--user", "keeper", "--password", "secret", "--tls", "--tls-cert", &certificates], "inc"),
        (&by_file, &["-l", "diff"], "diff"),
    ];
    for (number, (uri, options, level)) in (0_u8..).zip(ways) {
        case.domain.write("vda", number, u64::from(number) * MIB, MIB);
        case.domain.write_zeroes("vda", u64::from(number + 1) * MIB + 65536, 4096, true);
        let run = hosts.backs_up(&case, uri, options, disks).says(&[&format!("vda: {level}")]);
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    }
    // What the host alone can tell.
    for name in ["vda.virtnbdbackup.0.qcow.json", "vdb.virtnbdbackup.0.qcow.json"] {
        assert!(listing(&case.set).contains(&name.to_owned()), "{name}: {:?}", listing(&case.set));
    }
}

#[test]
fn names_that_shells_trip_over() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M:name=-$(touch hit) b; `id` *\\.qcow2"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let run = hosts.backs_up(&case, &hosts.ssh(), &[], &["vda"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    assert!(listing(&case.set).contains(&"vda.virtnbdbackup.0.qcow.json".to_owned()));
    // A directory that ssh can't be told, but TCP needs not know.
    let scratch = hosts.lab.scratch().join("a b'c");
    std::fs::create_dir(&scratch).unwrap();
    crate::support::run("chmod", &[&"777", &scratch]).succeeds();
    let scratch = scratch.to_str().unwrap().to_owned();
    let arguments: &[&str] = &["-U", &hosts.ssh(), "--scratchdir", &scratch];
    let backup = |options: &[&str]| {
        let set = case.set.to_str().unwrap();
        let all = [&["backup", "-n", "-d", "d", "-o", set], arguments, options].concat();
        hosts.virtkeep(&all.iter().map(|option| option as &dyn AsRef<std::ffi::OsStr>).collect::<Vec<_>>())
    };
    backup(&[]).ends_with(2).says(&["can't forward a socket of this name", "--scratchdir"]);
    backup(&["-P", "10900"]).succeeds();
    assert_eq!(listing(std::path::Path::new(&scratch)), [""; 0]);
    std::fs::remove_dir(&scratch).unwrap();
    hosts.no_traces(&case);
}

#[test]
fn a_host_without_ssh_is_backed_up_with_less() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    hosts.sshd(&["DenyUsers root keeper"]);
    // Nothing falls back to a way that nobody asked for.
    hosts.backup(&case, &hosts.tls(), &[]).ends_with(1).says(&["can't be got at", "--tls", "-P"]);
    case.is_as_before(&[]);
    let certificates = hosts.certificates("tls");
    let tls: &[&str] = &["--tls", "--tls-cert", &certificates];
    hosts
        .backup(&case, &hosts.tls(), &[tls, &["--scratch-required"]].concat())
        .ends_with(1)
        .says(&["--scratch-required"]);
    let run = hosts.backs_up(&case, &hosts.tls(), tls, &["vda"]);
    let run = run.says(&["the files of there can't be got at", "options are not saved", "Permission denied"]);
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
}
