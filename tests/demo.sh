#!/bin/bash
# Shows virtkeep at work on this machine, from building it to a proven restore: a private libvirtd,
# a small domain without hardware virtualization, nothing of the host's touched, nothing left.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin

case ${1-} in
'') ;;
-h | --help)
    echo "usage: tests/demo.sh"
    echo "  Installs what is missing, builds virtkeep and shows a backup and a restore."
    exit
    ;;
*) echo "usage: tests/demo.sh" >&2 && exit 2 ;;
esac

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

# Shows a command as one would type it, then runs it.
show() {
    printf '$'
    printf ' %s' "${@@Q}" | sed "s#'\([A-Za-z0-9_./=:,+-]*\)'#\1#g"
    printf '\n'
    "$@"
}

step "What building and running needs"
tests/install.sh

step "The release binary"
show cargo build --release --locked
virtkeep() { show "$bin" "$@"; }
bin=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/virtkeep

# All that the demo makes is in there, temporary files of the programs too.
TMPDIR=$(mktemp -d /tmp/virtkeep-demo.XXXXXX)
export TMPDIR
lab=$TMPDIR/lab
clean() {
    tests/lab.sh down "$lab" || true
    rm -rf "$TMPDIR"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$TMPDIR"
started=$SECONDS

step "A private libvirtd, and a domain with two disks"
uri=$(tests/lab.sh up "$lab")
tests/lab.sh domain "$lab" demo vda:257M sda:17M
show virsh -c "$uri" list
guest() {
    printf 'guest on %s:' "$1" && printf ' %s;' "${@:2}" && echo
    tests/lab.sh hmp "$lab" demo "$@"
}
guest vda "write -P 0xaa 0 48M" "write -P 0xbb 200M 3M"
guest sda "write -P 0x11 512 5M"

set=$lab/backup
step "Full backup"
virtkeep backup -U "$uri" -d demo -o "$set" -l full --scratchdir "$lab/scratch" -z

step "The guest goes on: data, zeroes, discards"
guest vda "write -P 0xcc 10M 2M" "write -z 20M 5M" "write -zu 201M 1M" "discard 30M 10M"
guest sda "write -P 0x22 16M 1M" "discard 1M 1M"

step "Incremental backup"
virtkeep backup -U "$uri" -d demo -o "$set" -l inc --scratchdir "$lab/scratch"
show ls -sh "$set"

step "Is every byte of it still right?"
virtkeep verify -i "$set"

step "What can be restored?"
virtkeep dump -i "$set"

step "Restore of the newest point"
virtkeep restore -i "$set" -o "$lab/restored"

step "Proof: the domain is stopped, its own disks are compared with the restored ones"
tests/lab.sh stop "$lab" demo
for disk in vda sda; do
    show qemu-img compare "$lab/disks/demo-$disk.qcow2" "$lab/restored/demo-$disk.qcow2"
done

step "Done in $((SECONDS - started)) seconds; the libvirtd, the domain and all files go away now"
