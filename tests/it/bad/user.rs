//! Users who may talk to the system's libvirtd, and not to its QEMUs.

use crate::support::{program, run};

/// A system daemon of its own, seen by nobody else, whose QEMUs run as user `daemon`; `$1` is its directory.
const SCRIPT: &str = r#"
set -eu
d=$1 virtkeep=$1/virtkeep
mkdir -p /etc/libvirt
for place in /var/lib /var/cache /var/log /run /etc/libvirt; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /run/libvirt /var/log/libvirt /var/lib/libvirt /var/cache/libvirt "$d/disks" "$d/scratch" "$d/sets"
chmod 777 "$d/disks" "$d/scratch" "$d/sets"
# A machine may have the daemon without the users that its packages make.
cp /etc/passwd /etc/group "$d"
for user in libvirt-qemu kvm tss swtpm; do
    grep -q "^$user:" "$d/passwd" || echo "$user:x:64055:64055::/:/bin/false" >>"$d/passwd"
    grep -q "^$user:" "$d/group" || echo "$user:x:64055:" >>"$d/group"
done
mount --bind "$d/passwd" /etc/passwd
mount --bind "$d/group" /etc/group
printf '%s\n' 'security_driver = "none"' 'stdio_handler = "file"' 'user = "daemon"' 'group = "daemon"' >/etc/libvirt/qemu.conf
printf '%s\n' 'unix_sock_rw_perms = "0777"' 'auth_unix_rw = "none"' >/etc/libvirt/libvirtd.conf
PATH=$PATH:/usr/sbin:/sbin
libvirtd -d -p "$d/pid" 2>/dev/null
virsh() { command virsh -q -c qemu:///system "$@"; }
for round in $(seq 200); do if virsh version >/dev/null 2>&1; then break; fi; sleep 0.1; done
qemu-img create -q -f qcow2 "$d/disks/a.qcow2" 4M
chmod 666 "$d/disks/a.qcow2"
cat >"$d/a.xml" <<END
<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file'><driver name='qemu' type='qcow2'/>
<source file='$d/disks/a.qcow2'/><target dev='vda' bus='virtio'/></disk><memballoon model='none'/></devices></domain>
END
virsh define "$d/a.xml" >&2
virsh start a --paused >&2
as() {
    setpriv --reuid="$1" --regid="$1" --clear-groups env HOME="$d" TMPDIR="$d/sets" "$virtkeep" backup -n -d a -l copy \
        -U qemu:///system -o "$d/sets/$1" --scratchdir "$d/scratch"
}
if as 65534; then exit 10; fi
virsh domjobinfo a | grep -q None || exit 11
as "$(id -u daemon)" || exit 12
virsh destroy a >&2
"#;

#[test]
fn another_user_s_qemu_is_refused_before_the_guest_is_touched() {
    let directory = tempfile::Builder::new().prefix("vkuser").tempdir_in("/tmp").unwrap();
    let path = directory.path();
    run("chmod", &[&"755", &path]).succeeds();
    std::fs::copy(program(), path.join("virtkeep")).unwrap();
    // Processes and mounts end with it.
    let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = namespaces.iter().map(|word| word as _).collect();
    all.extend([&"bash" as &dyn AsRef<std::ffi::OsStr>, &"-c", &SCRIPT, &"system", &path]);
    let run = run("unshare", &all).succeeds();
    let run = run.says(&["the domain's QEMU runs as another user (uid ", "run the backup as root, or as that user"]);
    assert!(!run.stderr.contains("undoing"), "{}", run.stderr);
    let sets = crate::support::listing(&path.join("sets"));
    assert!(sets.iter().any(|name| path.join("sets").join(name).join("vda.copy.data").exists()), "{sets:?}");
}
