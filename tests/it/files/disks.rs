//! Two disks as a server has them, with an operating system as far as libguestfs looks at it.
//!
//! | volume | what | has |
//! |---|---|---|
//! | vda1 | ext4 | /boot |
//! | vda2 | ext4 | the root: /etc, /srv |
//! | vg0/home | xfs, on vda3 and vdb1 | /home |
//! | vg0/data, vg0/data/sub | btrfs and a subvolume | |
//! | vdb2 | NTFS | |
//! | vdb3 | LUKS, with ext4 in it | |

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::appliance;
use crate::support::{Case, Lab, MIB, Run, run};

/// What is written to between the two restore points: a block of it, found by its content.
pub const OLD: u8 = b'o';
pub const NEW: u8 = b'n';
/// Its size.
pub const CHANGING: usize = 64 << 10;
pub const PASSPHRASE: &str = "open sesame";

/// Commands of guestfish. Names are quoted as it wants them.
const MAKE: &str = r##"
run
part-init /dev/sda mbr
part-add /dev/sda p 2048 65535
part-add /dev/sda p 65536 196607
part-add /dev/sda p 196608 -1
part-init /dev/sdb mbr
part-add /dev/sdb p 2048 411647
part-add /dev/sdb p 411648 477183
part-add /dev/sdb p 477184 -1
mkfs ext4 /dev/sda1 label:boot
mkfs ext4 /dev/sda2 label:root
mkfs ntfs /dev/sdb2 label:win
pvcreate /dev/sda3
pvcreate /dev/sdb1
vgcreate vg0 "/dev/sda3 /dev/sdb1"
lvcreate home vg0 320
lvcreate data vg0 128
mkfs xfs /dev/vg0/home
mkfs btrfs /dev/vg0/data
mount /dev/sda2 /
mkdir /boot
mkdir /etc
mkdir /home
mkdir /srv
mkdir-p /usr/bin
ln-s usr/bin /bin
mount /dev/sda1 /boot
mount /dev/vg0/home /home
write /etc/fstab "/dev/sda2 / ext4 defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\n/dev/vg0/home /home xfs defaults 0 2\n"
chmod 0600 /etc/fstab
chown 1001 1002 /etc/fstab
utimens /etc/fstab 1000000000 5 1000000007 123456789
write /etc/os-release "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"
write /etc/debian_version "12.7\n"
ln-s fstab /etc/link
write /boot/vmlinuz kernel
fill 111 65536 /srv/changing
touch /srv/sparse
truncate-size /srv/sparse 100000000
write-append /srv/sparse end
fill 120 2000000 /srv/large
mkdir /home/anna
mkdir "/home/anna/a dir"
write "/home/anna/a dir/a b\n\"q\"'\\x" odd
write /home/anna/-rf dash
write "/home/anna/\xff\xfe" bytes
write "/home/anna/~tilde $HOME | <!" tilde
write /home/anna/Grüße grüße
ln-s /etc/shadow /home/anna/absolute
ln-s "../../../x\ny" /home/anna/above
ln /home/anna/-rf /home/anna/hard
write /home/anna/sudo "#!/bin/sh\n"
chmod 04755 /home/anna/sudo
mknod-b 0666 8 0 /home/anna/sda
chmod 0700 /home/anna
chown 1000 1000 /home/anna
utimens /home/anna 1000000000 0 1000000009 0
umount-all
mount /dev/vg0/data /
btrfs-subvolume-create /sub
write /sub/f subvolume
umount-all
mount /dev/sdb2 /
write "/Program Files" ntfs
umount-all
luks-open /dev/sdb3 l
open sesame
mkfs ext4 /dev/mapper/l
mount /dev/mapper/l /
write /hello secret
umount-all
luks-close /dev/mapper/l
"##;

/// A set of two restore points of these disks; `changing` differs between them.
#[track_caller]
pub fn backed_up(lab: &Lab) -> Case<'_> {
    let directory = lab.fresh_directory();
    let raw = ["a", "b"].map(|name| directory.join(name));
    for (path, size) in raw.iter().zip([384, 288]) {
        std::fs::File::create(path).unwrap().set_len(size * MIB).unwrap();
    }
    encrypted(&directory, &raw[1]);
    guestfish(&raw, MAKE).succeeds();
    let place = position(&raw[0], &[OLD; CHANGING]);
    let images = ["vda", "vdb"].map(|target| directory.join(format!("d-{target}.qcow2")));
    for (raw, image) in raw.iter().zip(&images) {
        run("qemu-img", &[&"convert", &"-f", &"raw", &"-O", &"qcow2", raw, image]).succeeds();
        std::fs::remove_file(raw).unwrap();
    }
    // QEMU runs as somebody else.
    run("chmod", &[&"-R", &"a+rwX", &directory]).succeeds();
    let disk = |target: &str, image: &Path| format!("{target}:0:path={}", image.display());
    let case = Case::new(lab, "d", &[&disk("vda", &images[0]), &disk("vdb", &images[1])]);
    case.domain.stop();
    case.backup(&[]).succeeds();
    let change = format!("write -P {NEW} {place} {CHANGING}");
    run("qemu-io", &[&"-f", &"qcow2", &"-c", &change, &images[0]]).succeeds();
    case.backup(&[]).succeeds().says(&["inc"]);
    case
}

/// Puts a LUKS volume where the last partition will be. An appliance would choose a key derivation that takes
/// an emulated processor minutes.
#[track_caller]
fn encrypted(directory: &Path, raw: &Path) {
    const BEGIN: u64 = 477_184 * 512;
    let volume = directory.join("luks");
    std::fs::File::create(&volume).unwrap().set_len(raw.metadata().unwrap().len() - BEGIN).unwrap();
    let script = "PATH=$PATH:/usr/sbin:/sbin; printf '%s' \"$1\" | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - \"$0\"";
    run("sh", &[&"-c", &script, &volume, &PASSPHRASE]).succeeds();
    let seek = format!("seek={BEGIN}");
    run(
        "dd",
        &[
            &format!("if={}", volume.display()),
            &format!("of={}", raw.display()),
            &seek,
            &"oflag=seek_bytes",
            &"conv=notrunc,sparse",
            &"bs=1M",
        ],
    )
    .succeeds();
    std::fs::remove_file(volume).unwrap();
}

#[track_caller]
fn guestfish(disks: &[PathBuf], commands: &str) -> Run {
    let mut command = Command::new("guestfish");
    command.arg("--keys-from-stdin").envs(appliance()).stdin(Stdio::piped()).stderr(Stdio::piped());
    for disk in disks {
        command.args(["--format=raw", "-a"]).arg(disk);
    }
    let mut child = command.spawn().expect("guestfish; tests/install.sh --tests installs it");
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        command: "guestfish".to_owned(),
        status: output.status.code().unwrap(),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Where `content` is in an image.
#[track_caller]
fn position(image: &Path, content: &[u8]) -> usize {
    let bytes = std::fs::read(image).unwrap();
    let found = (0..bytes.len()).step_by(1024).find(|&at| bytes[at..].starts_with(content));
    found.expect("the file is in one piece")
}
