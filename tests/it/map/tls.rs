//! TLS: only clients with a certificate of the right authority are served.

use std::io::{Read, Write};
use std::path::Path;

use super::Map;
use super::chain::Chain;
use crate::support::{MIB, run};

/// Authority, server and client certificates as QEMU and libnbd want them, in one directory.
fn certificates(directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    let script = r#"
        set -eu; cd "$0"
        key() { openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
        key ca-key.pem
        openssl req -x509 -new -key ca-key.pem -subj /CN=authority -days 2 -out ca-cert.pem
        for name in server client; do
            key $name-key.pem
            openssl req -new -key $name-key.pem -subj /CN=$name -out $name.csr
            printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%sAuth\n' $name >ext
            openssl x509 -req -in $name.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out $name-cert.pem
        done"#;
    run("bash", &[&"-c", &script, &directory]).succeeds();
}

#[test]
fn clients_with_a_certificate_are_served_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
    certificates(&ours);
    certificates(&theirs);
    let chain = Chain::random(31, 3, 6 * MIB);
    let options = ["-f", &chain.list(), "--listen", "127.0.0.1:0", "--tls-cert", ours.to_str().unwrap()];
    let map = Map::start_as(&options, tempfile::tempdir().unwrap(), directory.path().join("none"));
    let uri = map.uris[0].clone();
    assert!(uri.starts_with("nbds://127.0.0.1:"), "{uri}");
    let with = |certificates: &Path| format!("{uri}?tls-certificates={}", certificates.display());

    let copy = directory.path().join("copy");
    run("nbdcopy", &[&with(&ours), &copy]).succeeds();
    assert!(std::fs::read(&copy).unwrap() == chain.content);
    run("nbdinfo", &[&"--list", &with(&ours)]).succeeds();
    let info = run("nbdinfo", &[&with(&ours)]).succeeds().stdout;
    assert!(info.contains("newstyle-fixed with TLS") && info.contains("base:allocation"), "{info}");

    // Of another authority, without one, without TLS.
    assert_ne!(run("nbdinfo", &[&with(&theirs)]).status, 0);
    let bare = directory.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(ours.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    assert_ne!(run("nbdinfo", &[&with(&bare)]).status, 0);
    let plain = uri.replace("nbds:", "nbd:");
    let refused = run("nbdinfo", &[&plain]);
    assert!(refused.status != 0, "{}", refused.stdout);

    // Garbage where TLS should begin ends that connection.
    let address = plain.trim_start_matches("nbd://").split('/').next().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0 this is no hello of anybody").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    run("nbdinfo", &[&with(&ours)]).succeeds();
    map.end("TERM").succeeds();
}

/// More on its way than the server has read: many long writes at once.
#[test]
fn writes_that_wait_for_each_other_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours");
    certificates(&ours);
    let chain = Chain::random(33, 2, 24 * MIB);
    let overlay = directory.path().join("overlay");
    let options = [
        "-f",
        &chain.list(),
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        ours.to_str().unwrap(),
        "--overlay",
        overlay.to_str().unwrap(),
    ];
    let map = Map::start_as(&options, tempfile::tempdir().unwrap(), directory.path().join("none"));
    let uri = format!("{}?tls-certificates={}", map.uris[0], ours.display());
    let (wanted, copy) = (directory.path().join("wanted"), directory.path().join("copy"));
    let size = chain.content.len();
    run("sh", &[&"-c", &format!("head -c {size} /dev/urandom >\"$0\""), &wanted]).succeeds();
    for request in ["4096", "65536", "262144"] {
        run("nbdcopy", &[&format!("--request-size={request}"), &"--requests=64", &wanted, &uri]).succeeds();
        run("nbdcopy", &[&uri, &copy]).succeeds();
        run("cmp", &[&wanted, &copy]).succeeds();
        run("sh", &[&"-c", &format!("head -c {size} /dev/urandom >\"$0\""), &wanted]).succeeds();
    }
    map.end("TERM").succeeds();
}

#[test]
fn unusable_certificates_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours");
    certificates(&ours);
    let chain = Chain::random(32, 1, MIB);
    let map = |certificates: &Path| {
        let list = chain.list();
        let all: [&dyn AsRef<std::ffi::OsStr>; 9] =
            [&"map", &"-f", &list, &"--listen", &"127.0.0.1:0", &"--tls-cert", &certificates, &"-e", &"true"];
        crate::support::virtkeep(&all)
    };
    map(&ours).succeeds();
    map(directory.path()).ends_with(1).says(&["ca-cert.pem", "hint:"]);
    std::fs::copy(ours.join("client-key.pem"), ours.join("server-key.pem")).unwrap();
    map(&ours).ends_with(2).says(&["can't be used for TLS", "hint:"]);
    std::fs::write(ours.join("server-key.pem"), "nothing").unwrap();
    map(&ours).ends_with(2).says(&["server-key.pem", "hint:"]);
}
