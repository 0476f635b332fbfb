#!/bin/bash
# Builds a Linux guest that boots in seconds without hardware virtualization, from Debian's own
# packages (downloaded and unpacked, never installed): a kernel, busybox, the QEMU guest agent,
# mke2fs, nbd-client. Prints the directory with `vmlinux` and `initramfs`; made once, kept below target/.
# The kernel as it was packaged and all its modules are kept, too, for libguestfs, which otherwise takes the host's:
# `boot/vmlinuz-VERSION`, `lib/modules/VERSION`.
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}/lab-guest
PATH=$PATH:/usr/sbin:/sbin
modules=(virtio_pci virtio_blk virtio_scsi sd_mod virtio_console ext4 crc32c_generic loop nbd virtio_net)

say() { echo "guest: $*" >&2; }
die() { say "error: $*" && exit 1; }

is_ready() { [ -e "$target/ready" ] && [ "$target/ready" -nt "$here/guest.sh" ]; }

# Into the current directory. A fresh container has no package lists yet.
download() {
    local packages
    packages=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }') || true
    apt-get -q -o APT::Sandbox::User=root download ${packages:?} qemu-guest-agent >&2
}

fetch() {
    mkdir packages && cd packages
    if ! (download); then
        local sudo=()
        [ "$(id -u)" = 0 ] || sudo=(sudo)
        "${sudo[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update >&2
        download
    fi
    cd ..
    local package
    for package in packages/*.deb; do dpkg-deb -x "$package" unpacked; done
}

# The kernel as ELF inside a bzImage: QEMU starts it directly, and nothing is unpacked under
# emulation. Its compression is found by its magic number.
cut_vmlinux() {
    local image=$1 pair magic offset
    for pair in '\x02\x21\x4c\x18|lz4 -dc' '\xfd7zXZ\x00|xz -dc' '\x28\xb5\x2f\xfd|zstd -dcq' '\x1f\x8b\x08|gzip -dc'; do
        magic=${pair%%|*}
        for offset in $(LC_ALL=C grep -obUaP "$magic" "$image" | cut -d: -f1); do
            # What follows the payload makes the decompressor complain: the result decides.
            tail -c "+$((offset + 1))" "$image" | ${pair#*|} >vmlinux 2>/dev/null || true
            if [ "$(head -c 4 vmlinux | tail -c 3)" = ELF ] && [ "$(stat -c %s vmlinux)" -gt 10000000 ]; then return; fi
        done
    done
    die "no kernel found inside '$image'"
}

# A program with the libraries that this system's loader finds for it.
add_program() {
    local file=$1 library
    install -D "$file" "root/bin/${2-${file##*/}}"
    ldd "$file" | grep -q 'not found' && die "'$file' needs a library: $(ldd "$file" | grep 'not found')"
    for library in $(ldd "$file" | grep -o '/[^ ]*'); do
        [ -e "root$library" ] || install -D "$library" "root$library"
    done
}

# The wanted modules and what they need, in the order of loading.
add_modules() {
    local version=$1 source=unpacked/lib/modules/$1 packed module name
    [ -d "$source" ] || source=unpacked/usr/lib/modules/$1
    mkdir -p "tree/lib/modules"
    cp -r "$source" "tree/lib/modules/$version"
    find tree -name '*.ko.xz' -exec xz -d {} +
    find tree -name '*.ko.zst' -exec zstd -dq --rm {} +
    busybox depmod -b tree "$version"
    # libguestfs's modprobe wants the indexes of the real one, which must not be what our own walk reads.
    mkdir appliance
    cp -r --parents tree/lib/modules/"$version" appliance/
    depmod -b appliance/tree "$version"
    mkdir -p root/modules
    for name in "${modules[@]}"; do add_module "tree/lib/modules/$version" "$name"; done
}

# Our own walk through modules.dep: the list becomes one `insmod` after the other.
add_module() {
    local base=$1 name=$2 line dependency
    line=$(grep -E "(^|/)${name//[-_]/[-_]}\.ko:" "$base/modules.dep" || true)
    [ -n "$line" ] || { say "module $name is built in or unknown: left out" && return; }
    local -a needed
    read -ra needed <<<"${line#*:}"
    for dependency in "${needed[@]}"; do add_module "$base" "$(basename "$dependency" .ko)"; done
    line=${line%%:*}
    grep -qxF "${line##*/}" root/modules/order 2>/dev/null && return
    cp "$base/${line#/lib/modules/*/}" root/modules/ 2>/dev/null || cp "tree/${line#/}" root/modules/
    echo "${line##*/}" >>root/modules/order
}

write_init() {
    cat >root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
hostname lab-guest
while read -r module; do insmod "/modules/$module"; done </modules/order
# The agent's channel, by its name: there is no udev here.
while [ -z "$port" ]; do
    for entry in /sys/class/virtio-ports/*; do
        [ "$(cat "$entry/name" 2>/dev/null)" != org.qemu.guest_agent.0 ] || port=/dev/${entry##*/}
    done
    [ -n "$port" ] || usleep 50000
done
while :; do
    qemu-ga -m virtio-serial -p "$port" -t /tmp -f /tmp/qemu-ga.pid -F/bin/freeze-hook
    sleep 1
done
INIT
    # Tests see in it that file systems were frozen, and thawed.
    # A file /tmp/slow-freeze keeps the agent busy with the next freeze for longer than anybody waits.
    cat >root/bin/freeze-hook <<'HOOK'
#!/bin/sh
if [ "$1" = freeze ] && [ -e /tmp/slow-freeze ]; then rm /tmp/slow-freeze && sleep 7; fi
cut -d" " -f1 /proc/uptime | sed "s/^/$1 /" >>/tmp/freeze.log
HOOK
    printf 'NAME="Lab guest"\nID=lab\nVERSION_ID=1\nPRETTY_NAME="Lab guest 1"\n' >root/etc/os-release
    chmod 755 root/init root/bin/freeze-hook
}

build() {
    local kernel version
    fetch
    kernel=$(echo unpacked/boot/vmlinuz-*)
    version=${kernel#*vmlinuz-}
    cut_vmlinux "$kernel"
    mkdir -p root/{bin,dev,proc,sys,tmp,etc,mnt,run,var/run}
    install -D "$(command -v busybox)" root/bin/busybox
    ldd root/bin/busybox >/dev/null 2>&1 && die "busybox is not the static one: install busybox-static"
    ln -s busybox root/bin/sh
    add_program "$(find unpacked -name qemu-ga -type f)"
    # Under a name that is none of busybox's own.
    add_program "$(command -v mke2fs)" mkfs.ext4
    add_program "$(command -v nbd-client)"
    add_modules "$version"
    write_init
    (cd root && find . | cpio --quiet -o -H newc -R 0:0) >initramfs
}

if ! is_ready; then
    mkdir -p "$target"
    exec 9>"$target/lock"
    flock 9
    if ! is_ready; then
        say "building the test guest below $target"
        work=$(mktemp -d "$target/build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        (cd "$work" && build)
        rm -rf "$target/boot" "$target/lib"
        mv "$work/vmlinux" "$work/initramfs" "$work/appliance/tree/lib" "$target/"
        mkdir "$target/boot"
        mv "$work"/unpacked/boot/vmlinuz-* "$target/boot/"
        touch "$target/ready"
    fi
fi
(cd "$target" && pwd -P)
