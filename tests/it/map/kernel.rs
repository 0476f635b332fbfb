//! The kernel's own client, in a guest: the machines that build this have no nbd module.

use super::Map;
use crate::support::Lab;

const CARD: &str = "<interface type='user'><model type='virtio'/></interface>";

#[test]
fn a_kernel_mounts_a_file_system_of_the_map() {
    let lab = Lab::up();
    let guest = lab.guest("g", &["--devices", CARD, "vda:64M"]);
    guest.execute("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo first >/mnt/file");
    guest.execute("dd if=/dev/urandom of=/mnt/random bs=1M count=9 2>&1 && sync");
    let sum = guest.execute("sha256sum </mnt/random");
    let set = lab.fresh_directory().join("set");
    for level in ["full", "inc"] {
        lab.back_up("g", &set, &["-l", level, "-z"]).succeeds();
        guest.execute("echo second >/mnt/file && sync");
    }
    guest.execute("umount /mnt && ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0");
    let set = set.to_str().unwrap();

    // Read-only, over several connections; the guest's 10.0.2.2 is the loopback address here.
    let map = Map::start_as(&["-i", set, "-l", "127.0.0.1:0"], tempfile::tempdir().unwrap(), "".into());
    let attach = |map: &Map, options: &str| {
        let (port, name) = map.uris[0].rsplit_once(':').unwrap().1.split_once('/').unwrap();
        format!("nbd-client 10.0.2.2 {port} /dev/nbd0 -name {name} {options} >/dev/null 2>&1")
    };
    guest.execute(&attach(&map, "-readonly -connections 4"));
    assert_eq!(guest.execute("blockdev --getro /dev/nbd0"), "1\n");
    guest.execute("mount -t ext4 -o ro,noload /dev/nbd0 /mnt");
    assert_eq!(guest.execute("cat /mnt/file; sha256sum </mnt/random"), format!("second\n{sum}"));
    guest.execute("umount /mnt && nbd-client -d /dev/nbd0 2>&1");
    map.end("TERM").succeeds();

    // Written to, trimmed, and found again after it was let go.
    let map = Map::start_as(&["-i", set, "-l", "127.0.0.1:0", "-w"], tempfile::tempdir().unwrap(), "".into());
    guest.execute(&attach(&map, "-connections 2"));
    guest.execute("mount -t ext4 /dev/nbd0 /mnt && echo third >/mnt/file && rm /mnt/random && sync && fstrim /mnt");
    guest.execute("umount /mnt && nbd-client -d /dev/nbd0 2>&1");
    guest.execute(&attach(&map, ""));
    guest.execute("mount -t ext4 /dev/nbd0 /mnt");
    assert_eq!(guest.execute("cat /mnt/file; ls /mnt/random 2>/dev/null || echo gone"), "third\ngone\n");
    guest.execute("umount /mnt && nbd-client -d /dev/nbd0 2>&1");
    map.end("TERM").succeeds();
}
