use super::*;
use crate::error::report;
use crate::nbd::client::Client;
use crate::nbd::testing::{text, tool};

fn image(directory: &TempDir, name: &str) -> PathBuf {
    let path = directory.path().join(name);
    img::create(&path, 16 << 20, &img::CreateOptions::default()).unwrap();
    path
}

fn writable() -> ServeOptions {
    ServeOptions { read_only: false, connections: 2, ..ServeOptions::default() }
}

#[test]
fn what_cannot_be_served_is_reported() {
    let directory = TempDir::new().unwrap();
    let cancel = Cancel::new();
    let missing = directory.path().join("missing");
    let error = QemuNbd::serve(&missing, "qcow2", &writable(), &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);

    let raw = directory.path().join("raw");
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let error = QemuNbd::serve(&raw, "qcow2", &writable(), &cancel).unwrap_err();
    assert!(report(&error).contains("qemu-nbd failed") && report(&error).contains("qcow2"), "{}", report(&error));

    let path = image(&directory, "a.qcow2");
    let options = ServeOptions { bitmap: Some("none".to_owned()), ..ServeOptions::default() };
    let error = QemuNbd::serve(&path, "qcow2", &options, &cancel).unwrap_err();
    assert!(report(&error).contains("none"), "{}", report(&error));

    let holder = QemuNbd::serve(&path, "qcow2", &writable(), &cancel).unwrap();
    let error = QemuNbd::serve(&path, "qcow2", &writable(), &cancel).unwrap_err();
    assert!(report(&error).contains("lock"), "{}", report(&error));
    holder.finish().unwrap();

    let odd = directory.path().join("odd.qcow2");
    img::create(&odd, (1 << 20) + 512, &img::CreateOptions::default()).unwrap();
    let error = QemuNbd::serve(&odd, "qcow2", &ServeOptions { compress: true, ..writable() }, &cancel).unwrap_err();
    assert!(report(&error).contains("not a multiple"), "{}", report(&error));

    cancel.cancel();
    assert_eq!(QemuNbd::serve(&path, "qcow2", &writable(), &cancel).unwrap_err().kind(), Kind::Cancelled);
}

#[test]
fn an_odd_name_is_served_and_closed_in_order() {
    let directory = TempDir::new().unwrap();
    let path = image(&directory, "-a,b:c d.qcow2");
    let server = QemuNbd::serve(&path, "qcow2", &writable(), &Cancel::new()).unwrap();
    let (socket, id) = (server.socket(), server.id());
    let mut client = Client::connect(&server.uri(), &[], &Cancel::new()).unwrap();
    client.write_at(&[7; 4096], 1 << 20).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    server.finish().unwrap();
    assert!(!socket.exists() && !Path::new(&format!("/proc/{id}")).exists());
    tool("qemu-img", &["check", "-q", text(&path)]);
    tool("qemu-io", &["-r", "-f", "qcow2", "-c", "read -P 7 1M 4K", text(&path)]);
}

#[test]
fn the_server_is_apart_and_ends_with_its_value() {
    let directory = TempDir::new().unwrap();
    let path = image(&directory, "a.qcow2");
    let server = QemuNbd::serve(&path, "qcow2", &ServeOptions::default(), &Cancel::new()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).unwrap();
    let group = stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(group, server.id().to_string(), "shares our process group: {stat}");
    let mode = PermissionsExt::mode(&server.directory.path().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let client = Client::connect(&server.uri(), &[], &Cancel::new()).unwrap();
    assert!(client.capabilities().read_only);
    let (id, socket) = (server.id(), server.socket());
    drop(server);
    assert!(!Path::new(&format!("/proc/{id}")).exists() && !socket.exists());
}

#[test]
fn a_server_that_was_killed_is_no_success() {
    let directory = TempDir::new().unwrap();
    let path = image(&directory, "a.qcow2");
    let server = QemuNbd::serve(&path, "qcow2", &writable(), &Cancel::new()).unwrap();
    server.signal(Signal::KILL);
    let error = server.finish().unwrap_err();
    assert!(report(&error).contains("signal: 9"), "{}", report(&error));
}
