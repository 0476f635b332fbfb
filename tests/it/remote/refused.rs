//! What does not work is told before the guest is touched, with the remedy.

use super::hosts::Hosts;
use crate::support::MIB;

#[test]
fn logins_that_fail_name_the_remedy() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    let ssh = hosts.ssh();
    let keys = hosts.directory().join("here/ssh");
    for (options, words) in [
        (&["--ssh-port", "24"][..], &["no ssh connection to root@there", "Connection refused", "--ssh-port"][..]),
        (&["--ssh-private-key", "/nowhere/key"], &["/nowhere/key", "the private key is not there"]),
        (&["--ssh-user", "nobody"], &["no ssh connection to nobody@there", "Permission denied", "ssh-copy-id"]),
    ] {
        hosts.backup(&case, &ssh, options).ends_with(1).says(words);
    }
    let nowhere = hosts.uri("ssh", "root@nowhere.invalid", &[]);
    hosts.backup(&case, &nowhere, &[]).ends_with(1).says(&["Could not resolve", "~/.ssh/config"]);
    // The key is another file than ssh would look for, and the port is in the URI.
    std::fs::rename(keys.join("id_ed25519"), keys.join("mine")).unwrap();
    hosts.backup(&case, &ssh, &[]).ends_with(1).says(&["Permission denied", "--ssh-private-key"]);
    std::fs::copy(keys.join("mine"), hosts.directory().join("key")).unwrap();
    let key = hosts.directory().join("key");
    crate::support::run("chmod", &[&"600", &key]).succeeds();
    let key = key.to_str().unwrap();
    hosts.backs_up(&case, &ssh, &["--ssh-private-key", key], &["vda"]);
    hosts.backs_up(&case, &format!("{ssh}&keyfile={key}"), &[], &["vda"]);
    std::fs::rename(keys.join("mine"), keys.join("id_ed25519")).unwrap();
    // A host that is not known, and one that is another now.
    let known = std::fs::read_to_string(keys.join("known_hosts")).unwrap();
    std::fs::write(keys.join("known_hosts"), "").unwrap();
    hosts
        .backup(&case, &ssh, &[])
        .ends_with(1)
        .says(&["Host key verification failed", "fingerprint: `ssh root@there`"]);
    std::fs::write(keys.join("known_hosts"), known.replace(&key_of(&known), &other_key(&hosts))).unwrap();
    hosts.backup(&case, &ssh, &[]).ends_with(1).says(&["the host's key has changed", "ssh-keygen -R there"]);
    std::fs::write(keys.join("known_hosts"), known).unwrap();
    hosts.backs_up(&case, &ssh, &[], &["vda"]);
    // The user's own configuration is followed: a name of its own, what is for logins by hand.
    std::fs::write(
        keys.join("config"),
        "Host far\n HostName 10.77.0.2\n User root\n RequestTTY force\n LocalForward 7777 h:7\n\
         Host there\n ControlMaster auto\n ControlPath ~/.ssh/own-%r@%h\n",
    )
    .unwrap();
    let socket = format!("socket={}/run/libvirt/libvirt-sock", hosts.lab.directory().display());
    let far = hosts.uri("ssh", "far", &[&socket]);
    hosts.backs_up(&case, &far, &[], &["vda"]);
    // Its real name is what TCP needs.
    hosts.backs_up(&case, &far, &["-P", "10900"], &["vda"]);
}

/// The key in a line of known hosts.
fn key_of(line: &str) -> String {
    line.split_whitespace().nth(2).unwrap().to_owned()
}

fn other_key(hosts: &Hosts) -> String {
    let path = hosts.directory().join("other");
    crate::support::run("ssh-keygen", &[&"-q", &"-t", &"ed25519", &"-N", &"", &"-f", &path]).succeeds();
    std::fs::read_to_string(path.with_extension("pub")).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn channels_that_fail_name_the_others() {
    let hosts = Hosts::up();
    let case = hosts.case("d", &["vda:4M"]);
    case.domain.write("vda", 0xaa, 0, MIB);
    let (ssh, tls) = (hosts.ssh(), hosts.tls());
    hosts.backs_up(&case, &ssh, &[], &["vda"]);
    let before = case.checkpoints();
    let stranger = hosts.certificates("stranger");
    let mine = hosts.certificates("tls");
    let empty = hosts.directory().join("empty");
    std::fs::create_dir(&empty).unwrap();
    // Before the guest is touched.
    let refused: [(&str, &[&str], i32, &[&str]); 7] = [
        (&ssh, &["-P", "22"], 1, &["somebody listens at port 22", "-P names another port"]),
        (&ssh, &["-I", "10.77.0.9"], 1, &["port 10809 of 10.77.0.9 can't be reached", "-I names another"]),
        (&ssh, &["-P", "10900", "-f", "/x.sock"], 2, &["a job that serves over TCP has no socket"]),
        (&ssh, &["-P", "10900", "--nbd-over-ssh"], 2, &["cannot be used with"]),
        (&ssh, &["-f", "x.sock"], 2, &["must be absolute"]),
        (&ssh, &["--tls", "--tls-cert", empty.to_str().unwrap()], 1, &["ca-cert.pem", "--tls-cert takes a directory"]),
        (&ssh, &["--scratchdir-missing"], 2, &["unexpected argument"]),
    ];
    for (uri, options, status, words) in refused {
        let run = hosts.backup(&case, uri, options).ends_with(status).says(words);
        assert!(!run.stderr.contains("undoing"), "{}", run.stderr);
        hosts.no_traces(&case);
    }
    // When the job is there.
    let failing: [(&str, &[&str], &[&str]); 3] = [
        (&ssh, &["--tls", "--tls-cert", &stranger], &["with TLS", "certificates of one authority"]),
        (&ssh, &["--tls"], &["with TLS", "certificates of one authority"]),
        // QEMU's socket is not this user's.
        (&tls, &["--ssh-user", "keeper"], &["no NBD connection through ssh to there", "-P PORT"]),
    ];
    for (uri, options, words) in failing {
        hosts.backup(&case, uri, options).ends_with(1).says(words).says(&["undoing the run"]);
        hosts.no_traces(&case);
        assert_eq!(case.checkpoints(), before);
    }
    hosts.backs_up(&case, &ssh, &["--tls", "--tls-cert", &mine, "-I", "10.77.0.2"], &["vda"]);

    hosts.sshd(&["AllowStreamLocalForwarding no"]);
    let run = hosts.backup(&case, &ssh, &[]).ends_with(1);
    let run = run.says(&["no NBD connection through ssh to there", "AllowStreamLocalForwarding", "--tls"]);
    assert!(!run.stderr.contains("undoing"), "{}", run.stderr);
    hosts.backs_up(&case, &ssh, &["-P", "10900"], &["vda"]);
}

#[test]
fn options_for_another_host_mean_nothing_here() {
    let lab = crate::support::Lab::up();
    let case = crate::support::Case::new(&lab, "d", &["vda:1M"]);
    for options in [&["-P", "10900"][..], &["-I", "::1"], &["--tls"], &["--nbd-over-ssh"]] {
        case.backup(options).ends_with(2).says(&[options[0], "is for domains on another host"]);
    }
    case.backup(&["--tls-cert", "/x"]).ends_with(2).says(&["--tls"]);
}
