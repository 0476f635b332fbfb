#!/bin/bash
# Measures virtkeep beside nbdcopy and virtnbdbackup on the same domain, in interleaved rounds:
# medians and ratios on stdout. A table for docs/performance.md with --markdown.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

case ${1-} in
'' | --markdown) ;;
*)
    cat <<'END'
usage: tests/bench.sh [--markdown]
  BENCH_DATA_MIB   data on the disk of 8 GiB [2048]
  BENCH_ROUNDS     rounds, of which medians are taken [5]
  BENCH_EXTENTS    extents of the fragmented disk [1000000]
  BENCH_DIR        where disks and sets lie, 14 GiB with the sizes above [/dev/shm: a disk would
                   be what is measured]
END
    exit 2
    ;;
esac
data_mib=${BENCH_DATA_MIB-2048} rounds=${BENCH_ROUNDS-5} extents=${BENCH_EXTENTS-1000000}

tests/install.sh --tests >&2
cargo build --release --locked >&2
bin=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/virtkeep

work=$(mktemp -d "${BENCH_DIR-/dev/shm}/virtkeep-bench.XXXXXX")
chmod 755 "$work"
lab=$work/lab
clean() {
    tests/lab.sh down "$lab" || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { echo "bench: $*" >&2; }

# ---- the disks

uri=$(tests/lab.sh up "$lab")
say "a disk of 8 GiB with $data_mib MiB of data, half of it compressible"
python3 - "$work/bench.raw" "$data_mib" <<'END'
import os, sys
path, mib = sys.argv[1], int(sys.argv[2])
text = (b"The quick brown fox jumps over the lazy dog. " * 24000)[: 1 << 20]
with open(path, "wb") as disk:
    disk.truncate(8 << 30)
    for number in range(mib):
        # Data in pieces of 16 MiB, holes of 16 MiB or more between them.
        offset = (number // 16) * max(32, 8192 // max(1, (mib + 15) // 16)) + number % 16
        disk.seek(offset << 20)
        disk.write(os.urandom(1 << 20) if number % 2 else text[number % 977 :] + text[: number % 977])
END
qemu-img convert -f raw -O qcow2 "$work/bench.raw" "$work/bench.qcow2"
rm "$work/bench.raw"
chmod 666 "$work/bench.qcow2"
tests/lab.sh domain "$lab" bench "vda:8G:path=$work/bench.qcow2" >/dev/null

# ---- measuring

# Runs a command; appends "seconds kilobytes" to the samples of NAME.
measure() {
    local name=$1 && shift
    /usr/bin/time -f '%e %M' -o "$work/time" -- "$@" >"$work/output" 2>&1 ||
        { cat "$work/output" >&2 && say "$name failed" && exit 1; }
    tail -n 1 "$work/time" >>"$work/samples.$name"
    say "$name: $(tail -n 1 "$work/time" | awk '{ printf "%s s, %d MiB", $1, $2 / 1024 }')"
}

median() { cut -d ' ' -f "$2" "$work/samples.$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

virsh() { command virsh -q -c "$uri" "$@"; }

# A pull job of the disk as virtkeep makes it, for nbdcopy.
job() {
    cat >"$work/job.xml" <<END
<domainbackup mode='pull'><server transport='unix' socket='$lab/scratch/bench.sock'/><disks>
<disk name='vda' backup='yes' type='file' backupmode='full' exportname='vda'><driver type='qcow2'/>
<scratch file='$lab/scratch/bench.scratch'/></disk></disks></domainbackup>
END
    virsh backup-begin bench "$work/job.xml" >/dev/null
}
export_uri="nbd+unix:///vda?socket=$lab/scratch/bench.sock"

virtkeep_copy() { # NAME OPTION...
    local name=$1 && shift
    rm -rf "$work/set"
    measure "$name" "$bin" backup -U "$uri" -d bench -o "$work/set" -l copy --scratchdir "$lab/scratch" -n "$@"
}
virtnbdbackup_copy() {
    local name=$1 && shift
    rm -rf "$work/set2"
    measure "$name" virtnbdbackup -U "$uri" -d bench -o "$work/set2" -l copy --scratchdir "$lab/scratch" -n "$@"
}

for round in $(seq "$rounds"); do
    say "round $round of $rounds"
    job
    rm -f "$work/copy.raw"
    measure nbdcopy nbdcopy --flush "$export_uri" "$work/copy.raw"
    virsh domjobabort bench
    rm -f "$work/copy.raw"
    virtkeep_copy virtkeep
    virtnbdbackup_copy virtnbdbackup
    virtkeep_copy virtkeep-z -z=1
    virtnbdbackup_copy virtnbdbackup-z -z
    measure verify "$bin" verify -i "$work/set" -n
    rm -rf "$work/out"
    measure restore "$bin" restore -i "$work/set" -o "$work/out" -n
    rm -rf "$work/out"
done
rm -rf "$work/set" "$work/set2"

say "an increment without changes"
"$bin" backup -U "$uri" -d bench -o "$work/chain" -l full --scratchdir "$lab/scratch" --quiet
for _ in $(seq "$rounds"); do
    measure no-change "$bin" backup -U "$uri" -d bench -o "$work/chain" -l inc --scratchdir "$lab/scratch" --quiet
done
tests/lab.sh remove "$lab" bench
rm -rf "$work/bench.qcow2" "$work/chain"

say "a disk of 8 GiB with $extents extents of 4 KiB"
python3 - "$work/fragments.raw" "$extents" <<'END'
import sys
path, count = sys.argv[1], int(sys.argv[2])
with open(path, "wb", buffering=0) as disk:
    disk.truncate(max(count * 8192, 8 << 30))
    for number in range(count):
        disk.seek(number * 8192)
        disk.write(number.to_bytes(8, "little") * 512)
END
qemu-img convert -f raw -O qcow2 -S 4k -o cluster_size=4k "$work/fragments.raw" "$work/fragments.qcow2"
rm "$work/fragments.raw"
chmod 666 "$work/fragments.qcow2"
tests/lab.sh domain "$lab" fragments "vda:8G:path=$work/fragments.qcow2" >/dev/null
measure fragments "$bin" backup -U "$uri" -d fragments -o "$work/fragments" -l copy --scratchdir "$lab/scratch" -n
measure fragments-restore "$bin" restore -i "$work/fragments" -o "$work/out" -n -t raw

# ---- the table

ratio() { awk -v a="$(median "$1" 1)" -v b="$(median "$2" 1)" 'BEGIN { printf "%.2f", a / b }'; }
row() { # TITLE NAME COMPARED...
    local title=$1 name=$2 && shift 2
    local line="| $title | $(median "$name" 1) s | $(($(median "$name" 2) / 1024)) MiB |"
    for other in "$@"; do line+=" $(ratio "$name" "$other") x $other;"; done
    echo "$line |"
}
cat <<END
$(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), \
libvirt $(virsh version --daemon | sed -n 's/^Running against daemon: //p'), \
$(qemu-system-x86_64 --version | head -n 1 | cut -d ' ' -f 1-4), \
virtnbdbackup $(dpkg-query -W -f '${Version}' virtnbdbackup), nbdcopy $(nbdcopy --version | head -n 1 | cut -d ' ' -f 2)

$data_mib MiB of data on a disk of 8 GiB, all in memory, median of $rounds interleaved rounds

| what | time | peak memory | beside |
|---|---|---|---|
$(row "nbdcopy --flush to a file" nbdcopy)
$(row "virtkeep backup -l copy" virtkeep nbdcopy virtnbdbackup)
$(row "virtnbdbackup -l copy" virtnbdbackup)
$(row "virtkeep backup -l copy -z=1" virtkeep-z virtkeep virtnbdbackup-z)
$(row "virtnbdbackup -l copy -z" virtnbdbackup-z)
$(row "virtkeep verify (compressed)" verify)
$(row "virtkeep restore to qcow2 (compressed)" restore)
$(row "virtkeep backup -l inc, nothing changed" no-change)
$(row "virtkeep backup, $extents extents of 4 KiB" fragments)
$(row "virtkeep restore -t raw of it" fragments-restore)
END
