#!/bin/bash
# Installs what building virtkeep needs on Debian 12 or 13, and with --tests what its tests need.
# Quick when all is there: no network, no root. No service is started by it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: tests/install.sh [--build|--tests]"
    echo "  Installs with apt what is missing to build and run virtkeep; --tests adds what its tests use,"
    echo "  --build leaves out what only running it needs."
}

tests=
only_build=
case ${1-} in
'') ;;
--tests) tests=yes ;;
--build) only_build=yes ;;
-h | --help) usage && exit ;;
*) usage >&2 && exit 2 ;;
esac

build=(gcc libc6-dev make pkg-config libvirt-dev libnbd-dev ca-certificates)
# tini: see start_daemon in lab.sh.
runtime=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libnbd-bin nbdkit tini)
# Debian 12 has it inside libvirt-daemon. For disks that are volumes of a pool.
if ! grep -q '^VERSION_ID="12"' /etc/os-release 2>/dev/null; then runtime+=(libvirt-daemon-driver-storage); fi
# One source package: all of one version or none (see install_qemu).
qemu=(qemu-system-x86 qemu-utils)
# time, b3sum: bench.sh. procps: kill. cpio, lz4, xz-utils, zstd: unpack the kernel of the test guest and pack its initramfs.
# strace: what a run makes durable, and system calls that fail.
# libxml2-utils: virt-xml-validate. swtpm and swtpm-tools: domains with an emulated TPM. seabios: firmware as a file.
# python3-libnbd, fio, fuse3, nbd-client, openssl: clients of the map, and certificates.
# nbdkit-plugin-python: virtnbdbackup's own restore of compressed sets and its map.
# openssh-*, netcat-openbsd, iproute2, gnutls-bin, sasl2-bin, libsasl2-modules*: another host, in a network namespace.
# prometheus: promtool, which checks metrics.
# dpkg-dev, lintian, rpm, rpmlint: the packages. systemd: its journal, and systemd-analyze.
# man-db, groff-base: the manual pages render. guestfish and what its appliance makes file systems with; kmod: indexes of the appliance's modules.
extra=(virtnbdbackup nbdkit-plugin-python busybox-static e2fsprogs cpio lz4 xz-utils zstd unzip util-linux python3 strace time procps
    libxml2-utils swtpm swtpm-tools seabios
    openssh-server openssh-client netcat-openbsd iproute2 gnutls-bin sasl2-bin libsasl2-modules libsasl2-modules-db
    python3-libnbd fio fuse3 nbd-client openssl b3sum
    dpkg-dev lintian rpm rpmlint systemd
    man-db groff-base guestfish libguestfs-xfs btrfs-progs ntfs-3g lvm2 cryptsetup-bin kmod prometheus)

say() { echo "install: $*" >&2; }
die() { say "error: $1" && { [ -z "${2-}" ] || say "hint: $2"; } && exit 1; }

PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
sudo=()
if [ "$(id -u)" != 0 ]; then sudo=(sudo); fi

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() {
    local package
    for package; do
        is_installed "$package" || printf '%s\n' "$package"
    done
}

candidate() { apt-cache policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# Asks for root, refreshes the package lists and keeps services from starting; once.
prepared=
prepare_apt() {
    [ -z "$prepared" ] || return 0
    prepared=yes
    [ ${#sudo[@]} = 0 ] || command -v sudo >/dev/null || die "packages are missing and sudo is not there" "run this as root"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
        "${sudo[@]}" chmod 755 /usr/sbin/policy-rc.d
    fi
    apt update
}

apt() {
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

install() {
    [ $# -gt 0 ] || return 0
    prepare_apt
    say "installing $*"
    apt install --no-install-recommends --no-remove "$@"
}

# A machine may carry qemu-utils alone from backports: the emulator of the main archive then asks
# for the older one, which apt will not choose by itself.
install_qemu() {
    local packages
    mapfile -t packages < <(missing "${qemu[@]}")
    [ ${#packages[@]} -gt 0 ] || return 0
    install "${packages[@]}" && return
    say "qemu-utils of another version is in the way: it is replaced"
    apt install --no-install-recommends qemu-system-x86 qemu-utils-
    apt install --no-install-recommends qemu-utils
}

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
    local version
    command -v cargo >/dev/null || return 1
    version=$(rustc --version 2>/dev/null | awk '{ print $2 }')
    [ -n "$version" ] && dpkg --compare-versions "${version%%-*}" ge "$(rust_wanted)"
}

# Debian 13 has one in rustc and cargo, Debian 12 in rustc-web and cargo-web (made for its browsers).
rust_suffix() {
    local suffix version
    for suffix in '' -web; do
        version=$(candidate "cargo$suffix" | sed 's/+.*//; s/^0\.\([0-9]*\).*/1.\1/')
        if [ -n "$version" ] && dpkg --compare-versions "$version" ge "$(rust_wanted)"; then
            echo "$suffix"
            return
        fi
    done
    return 1
}

no_rust() {
    die "no Rust $(rust_wanted) or newer: neither cargo nor a package of this system is" \
        "get it from https://rustup.rs (any user can), remove an older cargo and rustc of Debian first, and run this again"
}

install_rust() {
    local suffix
    rust_is_new_enough && return
    prepare_apt
    suffix=$(rust_suffix) || no_rust
    install "rustc$suffix" "cargo$suffix" || no_rust
    hash -r
    rust_is_new_enough || no_rust
}

# The formatter and the linter belong to the checks; rustup's own are taken where they are.
install_rust_tools() {
    local pair package
    for pair in fmt:rustfmt clippy:rust-clippy; do
        cargo "${pair%:*}" --version >/dev/null 2>&1 && continue
        package=${pair#*:}
        is_installed cargo || is_installed cargo-web || die "cargo ${pair%:*} is missing" "rustup component add rustfmt clippy"
        if is_installed cargo-web; then package+=-web; fi
        if [ -n "$(candidate "$package")" ]; then
            install "$package"
        else
            say "warning: this system has no package $package: cargo ${pair%:*} will fail"
        fi
    done
}

command -v apt-get >/dev/null || die "this is not a Debian system" "install the equivalents of: ${build[*]} ${runtime[*]} ${qemu[*]}"
packages=("${build[@]}" "${runtime[@]}")
[ -z "$tests" ] || packages+=("${extra[@]}")
if [ -n "$only_build" ]; then packages=("${build[@]}"); else install_qemu; fi
mapfile -t packages < <(missing "${packages[@]}")
install "${packages[@]}"
# supermin, which builds libguestfs's appliance, wants it even where the modules are elsewhere.
if [ -n "$tests" ] && [ ! -d /lib/modules ]; then "${sudo[@]}" mkdir -p /lib/modules; fi
install_rust
[ -z "$tests" ] || install_rust_tools
if [ -n "$only_build" ]; then say "all there: $(rustc --version)" && exit; fi
say "all there: $(rustc --version), $(libvirtd --version), $(qemu-img --version | head -n 1)"
