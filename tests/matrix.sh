#!/bin/bash
# Runs the main job on several releases of Debian, each with its own Rust, libvirt, QEMU and virtnbdbackup, in
# chroots made for it, and writes the table in docs/versions.md. Needs root, debootstrap and a mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

usage() {
    cat <<'END'
usage: tests/matrix.sh [--write] [RELEASE...]
  RELEASE: bookworm, trixie, forky [default: all three]. In each: tests/install.sh --tests, a build with the
  release's own Rust, tests/demo.sh (backup, increment, restore, compare) and the integration tests of the main
  job and of both ways between virtkeep and that release's virtnbdbackup.
  --write            put the table into docs/versions.md
  VIRTKEEP_MIRROR    where Debian comes from [default: http://deb.debian.org/debian]
  VIRTKEEP_MATRIX    directory for the chroots, which are kept for the next time [default: /var/tmp/virtkeep-matrix]
  VIRTKEEP_MATRIX_TESTS   names of the tests [default: restore:: interop:: zip::foreign random]
END
}

die() { echo "matrix: error: $*" >&2 && exit 1; }

write=
releases=()
for argument; do
    case $argument in
    -h | --help) usage && exit ;;
    --write) write=yes ;;
    bookworm | trixie | forky) releases+=("$argument") ;;
    *) usage >&2 && exit 2 ;;
    esac
done
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie forky)
[ "$(id -u)" = 0 ] || die "chroots need root"
. tests/chroot.sh
top=${VIRTKEEP_MATRIX-/var/tmp/virtkeep-matrix}
read -ra tests <<<"${VIRTKEEP_MATRIX_TESTS-restore:: interop:: zip::foreign random}"

step() {
    local release=$1 root=$2 what=$3 script=$4 begin=$SECONDS
    echo "== $release: $what" >&2
    if inside "$root" "$script" >"$root.$what.log" 2>&1; then
        echo "   ok, $((SECONDS - begin)) s" >&2
    else
        echo "   FAILED: $root.$what.log" >&2
        tail -n 20 "$root.$what.log" >&2
        return 1
    fi
}

# shellcheck disable=SC2016 # for the shell inside
versions='
    version() { dpkg-query -W -f "\${Version}" "$1" 2>/dev/null | sed "s/^[0-9]*://; s/[-+~].*//"; }
    printf "%s | %s | %s | %s" "$(version libvirt-daemon)" "$(version qemu-system-x86)" "$(version virtnbdbackup)" \
        "$(rustc --version | cut -d" " -f2)"'

row() {
    local release=$1 root=$top/$1 install=no build=no demo=no passed=no said
    make_chroot "$release" "$root"
    copy_sources "$root"
    if step "$release" "$root" install "tests/install.sh --tests"; then install=yes; fi
    if step "$release" "$root" build "cargo build --locked"; then build=yes; fi
    if step "$release" "$root" demo "tests/demo.sh"; then demo=yes; fi
    if step "$release" "$root" tests "cargo test --locked --test it -- ${tests[*]}"; then passed=yes; fi
    said=$(inside "$root" "$versions" 2>/dev/null || echo '? | ? | ? | ?')
    tests_ok=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$root.tests.log" | tail -n 1)
    echo "| Debian $release | $said | $install | $build | $demo | $passed${tests_ok:+ ($tests_ok)} |"
    [ "$install$build$demo$passed" = yesyesyesyes ]
}

mkdir -p "$top"
failed=
table="| release | libvirt | QEMU | virtnbdbackup | Rust | install | build | backup and restore | tests |
|---|---|---|---|---|---|---|---|---|"
for release in "${releases[@]}"; do
    line=$(row "$release") || failed=yes
    table+=$'\n'$line
done
echo "$table"
if [ -n "$write" ]; then
    sed '/^| release/,$d' docs/versions.md >"$top/versions.md"
    echo "$table" >>"$top/versions.md"
    cp "$top/versions.md" docs/versions.md
fi
[ -z "$failed" ] || die "not all passed"
