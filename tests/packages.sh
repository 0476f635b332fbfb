#!/bin/bash
# Builds the packages and takes them through their life in systems that have nothing else: installed, run, upgraded,
# removed, purged. Needs root, debootstrap and a mirror of Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

usage() {
    cat <<'END'
usage: tests/packages.sh [WHAT...]
  WHAT: bookworm, trixie (Debian packages in chroots of that release, built with its own Rust), rpm (the RPM, in an
  empty tree), image (the steps of packaging/Containerfile, in a chroot), booted-bookworm, booted-trixie (the units, with
  a libvirtd, in a system that systemd-nspawn boots, and AppArmor's stock policy; a release's packages must have been
  built before) [default: all]
  VIRTKEEP_BIN        a program to pack instead of building one, for the packaging alone: seconds instead of minutes;
                      it must run in the chroots
  VIRTKEEP_MIRROR     where Debian comes from [default: http://deb.debian.org/debian]
  VIRTKEEP_PACKAGES   directory for the chroots, which are kept for the next time, and for the packages
                      [default: /var/tmp/virtkeep-packages]
END
}

die() { echo "packages: error: $*" >&2 && exit 1; }

what=()
for argument; do
    case $argument in
    -h | --help) usage && exit ;;
    bookworm | trixie | rpm | image | booted-bookworm | booted-trixie) what+=("$argument") ;;
    *) usage >&2 && exit 2 ;;
    esac
done
[ ${#what[@]} -gt 0 ] || what=(bookworm trixie rpm image booted-bookworm booted-trixie)
[ "$(id -u)" = 0 ] || die "chroots need root"
. tests/chroot.sh
top=${VIRTKEEP_PACKAGES-/var/tmp/virtkeep-packages}
mkdir -p "$top"

say() { echo "== $*" >&2; }
quiet() { "$@" >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2 && die "$what_now failed: see $log"; }; }
step() { what_now=$1 log=$top/$2.log && say "$1" && shift 2 && quiet "$@"; }

# The program of a release, in the file that is printed.
build() { # RELEASE
    local release=$1 root=$top/$1-build
    step "$release: a system to build in" "$release-make" make_chroot "$release" "$root"
    step "$release: the sources" "$release-sources" copy_sources "$root"
    step "$release: what building needs" "$release-install" inside "$root" \
        "tests/install.sh --build; apt-get install -y -q --no-install-recommends dpkg-dev lintian"
    if [ -n "${VIRTKEEP_BIN-}" ]; then
        install -D -m 755 "$VIRTKEEP_BIN" "$root/src/virtkeep/target/release/virtkeep"
    else
        step "$release: the program" "$release-build" inside "$root" "nice -n 10 cargo build --release --locked"
    fi
}

debian() { # RELEASE
    local release=$1 root=$top/$1-build run=$top/$1-run
    build "$release"
    # An older version, with another configuration file, to upgrade from.
    # shellcheck disable=SC2016 # for the shell inside
    step "$release: Debian packages, lintian" "$release-deb" inside "$root" '
        export VIRTKEEP_BIN=target/release/virtkeep
        rm -rf target/debian
        packaging/deb.sh target/debian
        lintian --allow-root --fail-on error,warning --tag-display-limit 0 target/debian/*.deb
        VIRTKEEP_VERSION=0.0.9 packaging/deb.sh target/debian/old
        cd target/debian/old
        dpkg-deb -R virtkeep_0.0.9_*.deb tree
        echo "# of the old version" >>tree/etc/virtkeep/virtkeep.toml
        rm virtkeep_0.0.9_*.deb
        dpkg-deb --root-owner-group -b tree "virtkeep_0.0.9_$(dpkg --print-architecture).deb"
        rm -rf tree'
    step "$release: a system of its own" "$release-clean" make_chroot "$release" "$top/$release-clean"
    rm -rf "$run"
    cp -a --reflink=auto "$top/$release-clean" "$run"
    cp -r "$root/src/virtkeep/target/debian" "$run/packages"
    cp tests/packages-life.sh "$run/packages/life.sh"
    step "$release: installed, run, upgraded, removed, purged" "$release-life" inside "$run" "bash /packages/life.sh"
    sed -n 's/^life: /   /p' "$log" >&2
    rm -rf "$run"
}

rpm() {
    local bin=${VIRTKEEP_BIN-$top/bookworm-build/src/virtkeep/target/release/virtkeep} version
    [ -x "$bin" ] || build bookworm
    step "rpm: built, installed in an empty tree, upgraded, removed" rpm env VIRTKEEP_BIN="$bin" tests/packages-rpm.sh "$top/rpm"
    sed -n 's/^rpm: /   /p' "$log" >&2
}

# The RUN lines of a stage of the Containerfile, one on a line.
runs() { # STAGE
    sed -e ':more' -e '/\\$/{N;s/\\\n */ /;bmore}' packaging/Containerfile |
        awk -v stage="$1" '/^FROM/ { now++ } now == stage && sub(/^RUN /, "")'
}

# There may be no tool for images here: the stages' commands are run in chroots, by hand. What is not shown is what such a
# tool does itself: FROM, COPY, ENTRYPOINT.
image() {
    local root=$top/trixie-build run=$top/image number=0 command
    [ -n "${VIRTKEEP_BIN-}" ] || [ -x "$root/src/virtkeep/target/release/virtkeep" ] || build trixie
    step "image: the sources" image-sources copy_sources "$root"
    while read -r command; do
        [[ $command != "cargo build"* ]] || [ -z "${VIRTKEEP_BIN-}" ] || continue
        step "image: build: $command" "image-build-$((number += 1))" inside "$root" "$command"
    done < <(runs 1)
    step "image: a system of its own" image-clean make_chroot trixie "$top/trixie-clean"
    rm -rf "$run"
    cp -a --reflink=auto "$top/trixie-clean" "$run"
    while read -r command; do
        step "image: $command" "image-run-$((number += 1))" inside "$run" "$command"
    done < <(runs 2)
    cp -a "$root/out/." "$run/"
    # shellcheck disable=SC2016 # for the shell inside
    step "image: virtkeep in it" image-virtkeep inside "$run" '
        virtkeep --version
        virtkeep config check
        virtkeep restore --help >/dev/null
        ! ldd /usr/bin/virtkeep | grep "not found"
        for tool in qemu-img qemu-nbd ssh; do command -v "$tool"; done
        [ "$(readlink /usr/bin/virtnbdbackup)" = virtkeep ]
        ! find / -xdev -name "virtkeep*.service" | grep .'
    rm -rf "$run"
}

# What the booted system has beside virtkeep; apparmor for its parser.
beside=(systemd systemd-sysv dbus procps libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils apparmor python3)

booted() { # RELEASE
    local release=$1 base=$top/$1-system run=$top/$1-booted packages=$top/$1-build/src/virtkeep/target/debian
    command -v systemd-nspawn >/dev/null || die "systemd-nspawn is missing: apt-get install systemd-container"
    [ -d "$packages" ] || die "there are no packages of $release: tests/packages.sh $release builds them"
    step "$release, booted: a system of its own" "$release-clean" make_chroot "$release" "$top/$release-clean"
    if [ ! -e "$base/ready" ]; then
        rm -rf "$base"
        cp -a --reflink=auto "$top/$release-clean" "$base"
        rm "$base/ready"
        # Units are for the system that is booted.
        printf '#!/bin/sh\nexit 101\n' >"$base/usr/sbin/policy-rc.d" && chmod 755 "$base/usr/sbin/policy-rc.d"
        step "$release, booted: systemd, libvirt, QEMU" "$release-system" inside "$base" \
            "apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ${beside[*]}"
        rm "$base/usr/sbin/policy-rc.d"
        # Not the first boot, which enables every unit that there is.
        systemd-machine-id-setup --root "$base" >/dev/null 2>&1 || echo 0123456789abcdef0123456789abcdef >"$base/etc/machine-id"
        touch "$base/ready"
    fi
    rm -rf "$run"
    cp -a --reflink=auto "$base" "$run"
    cp -r "$packages" "$run/packages"
    step "$release, booted: virtkeep" "$release-booted-install" inside "$run" "apt-get install -y -q --no-install-recommends /packages/virtkeep_*.deb"
    cp tests/packages-booted.sh tests/apparmor.py packaging/examples/apparmor-libvirt-qemu "$run/root/"
    cat >"$run/etc/systemd/system/booted.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /root/packages-booted.sh
StandardOutput=file:/root/booted.out
StandardError=inherit
END
    mkdir -p "$run/etc/systemd/system/multi-user.target.wants"
    ln -s ../booted.service "$run/etc/systemd/system/multi-user.target.wants/"
    # libvirtd wants more than a container usually may do; its own seccomp filter would be in the way of QEMU.
    if ! SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout -k 10 400 systemd-nspawn --register=no --keep-unit \
        --quiet -D "$run" -M "virtkeep-$release" --boot --private-network --console=pipe --capability=all \
        </dev/null >"$top/$release-booted.log" 2>&1; then
        cat "$run/root/booted.out" >&2
        die "$release, booted: it failed; see $run/root/booted.out and $top/$release-booted.log"
    fi
    sed -n 's/^booted: /   /p' "$run/root/booted.out" >&2
    rm -rf "$run"
}

for one in "${what[@]}"; do
    case $one in
    rpm | image) "$one" ;;
    booted-*) booted "${one#booted-}" ;;
    *) debian "$one" ;;
    esac
done
say "all right: the packages are in $top"
