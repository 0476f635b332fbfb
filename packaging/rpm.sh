#!/bin/bash
# Builds the RPMs of virtkeep: virtkeep, and virtkeep-drop-in.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: packaging/rpm.sh [DIR]
  DIR              where the packages go [default: target/rpm]
  VIRTKEEP_BIN     a program to pack [default: one is built, with the spec's BuildRequires]
  VIRTKEEP_VERSION the packages' version [default: that of Cargo.toml]
Needs rpmbuild (Fedora: rpm-build; Debian: rpm, whose database has no build dependencies: give VIRTKEEP_BIN there).
END
}
case ${1-} in -*) usage && exit 2 ;; esac

die() { echo "rpm: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }
command -v rpmbuild >/dev/null || die "rpmbuild is missing" "dnf install rpm-build, or apt-get install rpm"

out=${1-target/rpm}
mkdir -p "$out"
out=$(cd "$out" && pwd)
version=${VIRTKEEP_VERSION:-$(sed -n '/^\[package\]/,/^\[dep/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
defines=()
if [ -n "${VIRTKEEP_BIN-}" ]; then
    [ -x "$VIRTKEEP_BIN" ] || die "the program is not there: $VIRTKEEP_BIN"
    defines+=(--define "ready $(realpath "$VIRTKEEP_BIN")")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/SOURCES"
tar -czf "$work/SOURCES/virtkeep-$version.tar.gz" --exclude-vcs --exclude=./target --exclude=./tests/fuzz/target \
    --transform "s|^\.|virtkeep-$version|" .
rpmbuild --quiet -bb --define "_topdir $work" --define "vk_version $version" --define "_rpmdir $out" \
    --define "_build_id_links none" "${defines[@]}" packaging/virtkeep.spec >"$work/log" 2>&1 ||
    { cat "$work/log" >&2 && die "rpmbuild failed"; }
find "$out" -name "virtkeep*-$version-*.rpm"
