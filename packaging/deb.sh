#!/bin/bash
# Builds the Debian packages of virtkeep from this tree: virtkeep, and virtkeep-drop-in, whose commands take
# virtnbdbackup's place. Dependencies are derived from the binary; the packages lie in DIR at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin

usage() {
    cat <<'END'
usage: packaging/deb.sh [DIR]
  DIR              where the packages go [default: target/debian]
  VIRTKEEP_BIN     the program [default: a release build, made first]
  DEBFULLNAME, DEBEMAIL   the packages' maintainer, as for Debian's own tools
  VIRTKEEP_VERSION the packages' version [default: that of Cargo.toml, and ~deb13 on Debian 13]
Needs dpkg-dev, and what tests/install.sh installs.
END
}
case ${1-} in -*) usage && exit 2 ;; esac

die() { echo "deb: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is missing" "apt-get install dpkg-dev"

out=${1-target/debian}
mkdir -p "$out"
out=$(cd "$out" && pwd)
bin=${VIRTKEEP_BIN-}
if [ -z "$bin" ]; then
    cargo build --release --locked
    bin=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/virtkeep
fi
# Each release of Debian has its own package, and the newer release's is the newer one.
suffix=$(. /etc/os-release && echo "${VERSION_ID:+~deb$VERSION_ID}")
version=${VIRTKEEP_VERSION:-$(sed -n '/^\[package\]/,/^\[dep/s/^version = "\(.*\)"/\1/p' Cargo.toml)$suffix}
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME-virtkeep} <${DEBEMAIL-packages@virtkeep.invalid}>"
date=$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

put() { install -D -m "$1" "$2" "$3"; }

# What every Debian package has below /usr/share/doc.
documents() { # ROOT PACKAGE
    local doc=$1/usr/share/doc/$2
    mkdir -p "$doc"
    cat >"$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: virtkeep

Files: *
Copyright: 2026 the authors of virtkeep
License: GPL-3.0-or-later
 This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public
 License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later
 version.
 .
 On Debian systems the full text of version 3 is in /usr/share/common-licenses/GPL-3.
END
    printf 'virtkeep (%s) unstable; urgency=medium\n\n  * See docs/changelog.md.\n\n -- %s  %s\n' \
        "$version" "$maintainer" "$date" | gzip -9n >"$doc/changelog.gz"
    find "$doc" -type f -exec chmod 644 {} +
}

# Files of a package without the directory of its control files.
finish() { # ROOT PACKAGE
    local root=$1 package=$2
    (cd "$root" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$work/md5sums"
    put 644 "$work/md5sums" "$root/DEBIAN/md5sums"
    dpkg-deb --root-owner-group --build "$root" "$out/${package}_${version}_$3.deb" >/dev/null
    echo "$out/${package}_${version}_$3.deb"
}

# What install.sh puts below /usr, as Debian has it.
fill() { # ROOT OPTION...
    local root=$1
    DESTDIR=$root VIRTKEEP_BIN=$bin VIRTKEEP_ZSH=/usr/share/zsh/vendor-completions packaging/install.sh "${@:2}" /usr
    find "$root/usr/share/man" -type f -exec gzip -9n {} +
}

# ---- virtkeep

root=$work/virtkeep
fill "$root"
strip --strip-unneeded "$root/usr/bin/virtkeep"
mv "$root/usr/share/doc/virtkeep/changelog.md" "$root/usr/share/doc/virtkeep/NEWS.md"
documents "$root" virtkeep
mkdir -p "$work/debian"
printf 'Source: virtkeep\nPackage: virtkeep\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O virtkeep/usr/bin/virtkeep 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || die "the libraries of $bin are not known to dpkg-shlibdeps"
size=$(du -sk "$root" | cut -f 1)
mkdir -p "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: virtkeep
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $size
Depends: $depends, qemu-utils
Recommends: openssh-client
Suggests: libvirt-daemon-system, guestfish, libnbd-bin, nbd-client, default-mta | mail-transport-agent
Section: admin
Priority: optional
Description: full and incremental backups of libvirt/QEMU virtual machines
 Backs up running and stopped domains by QEMU's dirty bitmaps and libvirt's
 backup jobs, and restores them byte for byte. A backup can be served as a disk,
 booted from, and looked into; sets of virtnbdbackup are read and continued.
END
echo /etc/virtkeep/virtkeep.toml >"$root/DEBIAN/conffiles"
for script in packaging/debian/p*; do put 755 "$script" "$root/DEBIAN/${script##*/}"; done
put 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/virtkeep"
finish "$root" virtkeep "$architecture"

# ---- the names of virtnbdbackup's commands

root=$work/drop-in
fill "$root" --only-drop-in
mkdir -p "$root/DEBIAN"
documents "$root" virtkeep-drop-in
cat >"$root/DEBIAN/control" <<END
Package: virtkeep-drop-in
Version: $version
Architecture: all
Maintainer: $maintainer
Installed-Size: $(du -sk "$root" | cut -f 1)
Depends: virtkeep (>= $version)
Conflicts: virtnbdbackup
Replaces: virtnbdbackup
Provides: virtnbdbackup
Section: admin
Priority: optional
Description: virtkeep in the place of virtnbdbackup
 The commands virtnbdbackup, virtnbdrestore and virtnbdmap, with their options,
 file names, messages and exit statuses, done by virtkeep.
END
finish "$root" virtkeep-drop-in all
