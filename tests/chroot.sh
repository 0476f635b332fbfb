# Bare Debian systems in chroots, for tests/matrix.sh and tests/packages.sh, which source this and define die().
# shellcheck shell=bash
# VIRTKEEP_MIRROR: where Debian comes from.

mirror=${VIRTKEEP_MIRROR-http://deb.debian.org/debian}
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"

# A name that this debootstrap does not know yet is made like sid.
make_chroot() {
    local release=$1 root=$2 script=/usr/share/debootstrap/scripts
    [ ! -e "$root/ready" ] || return 0
    rm -rf "$root"
    if [ -e "$script/$release" ]; then script=; else script=$script/sid; fi
    debootstrap --variant=minbase --include=ca-certificates "$release" "$root" "$mirror" $script >"$root.log" 2>&1 ||
        die "debootstrap of $release failed: see $root.log"
    # A testing release's lists may be older than they should be.
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99matrix"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    touch "$root/ready"
}

# The committed state, not what lies about; the build directory stays for the next time.
copy_sources() {
    local root=$1
    mkdir -p "$root/src/virtkeep"
    find "$root/src/virtkeep" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    git archive HEAD | tar -x -C "$root/src/virtkeep"
    if [ -d "${CARGO_HOME-$HOME/.cargo}/registry" ]; then
        mkdir -p "$root/root/.cargo"
        cp -ru "${CARGO_HOME-$HOME/.cargo}/registry" "$root/root/.cargo/"
    fi
    if [ -f "${CARGO_HOME-$HOME/.cargo}/config.toml" ]; then cp "${CARGO_HOME-$HOME/.cargo}/config.toml" "$root/root/.cargo/"; fi
}

# Runs a script inside. Processes and mounts are in namespaces of their own and end with it.
inside() {
    local root=$1
    mkdir -p "$root/src/virtkeep"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --pid --fork --kill-child --propagation private bash -c '
        mount -t proc proc "$1/proc"
        mount --rbind /sys "$1/sys"
        mount --rbind /dev "$1/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
        exec chroot "$1" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
            CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt bash -euc "cd /src/virtkeep; $2"
    ' inside "$root" "$2"
}
