#!/bin/bash
# Measures virtkeep beside nbdcopy, qemu-img and virtnbdbackup on the same domains, in interleaved rounds: medians
# and ratios on stdout, a table for docs/performance.md. Other load on the machine spoils it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

usage() {
    cat <<'END'
usage: tests/bench.sh [PART...]
  PART: full four scattered extents restore latency fragments [default: all]
  BENCH_DATA_MIB   data on the disk of 8 GiB [2048]
  BENCH_ROUNDS     rounds, of which medians are taken [5]
  BENCH_EXTENTS    pieces of 4 KiB of the fragmented disk [300000]
  BENCH_DIR        where disks and sets lie, 16 GiB with the sizes above [/dev/shm: a disk would
                   be what is measured]
  BENCH_DISK       disks and sets lie on a solid-state disk of that many GiB (12 suffice), which is made
                   of memory: ext4 on a loop device
  BENCH_COLD       what a run reads is dropped from the page cache before it (BENCH_DIR on a disk)
  BENCH_BIN        the program [a release build, made first]
END
}

parts=(full four scattered extents restore latency fragments)
case ${1-} in
-*) usage && exit 2 ;;
?*) parts=("$@") ;;
esac
data_mib=${BENCH_DATA_MIB-2048} rounds=${BENCH_ROUNDS-5} extents=${BENCH_EXTENTS-300000}
# The copy, and what QEMU takes for it; where runs are cold, what is read, too.
warm_mib=$((data_mib * 5 / 4))
[ -z "${BENCH_COLD-}" ] || warm_mib=$((warm_mib * 2))

tests/install.sh --tests >&2
bin=${BENCH_BIN-}
if [ -z "$bin" ]; then
    cargo build --release --locked >&2
    bin=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/virtkeep
fi
work=$(mktemp -d "${BENCH_DIR-/dev/shm}/virtkeep-bench.XXXXXX")
chmod 755 "$work"
lab=$work/lab
# shellcheck source=tests/bench/lib.sh
. tests/bench/lib.sh
clean() {
    tests/lab.sh down "$lab" || true
    [ -z "${BENCH_DISK-}" ] || disk_down
    rm -rf "$work" "/dev/shm/${work##*/}.warm"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[ -z "${BENCH_DISK-}" ] || disk_up "$BENCH_DISK"
uri=$(tests/lab.sh up "$lab")
begin=$SECONDS

make_image() { # NAME MIB SIZE_GIB
    python3 tests/bench/disk.py data "$work/raw" "$2" "$3"
    qemu-img convert -f raw -O qcow2 "$work/raw" "$work/$1.qcow2"
    rm "$work/raw"
}

# ---- a full of one disk; what its processor time consists of; verify

part_full() {
    local round
    say "a disk of 8 GiB with $data_mib MiB of data, half of it compressible"
    make_image full "$data_mib" 8
    domain full vda="$work/full.qcow2"
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        cold "$work/full.qcow2" && job full vda
        measure nbdcopy nbdcopy --flush "$(exported vda)" "$work/copy.raw"
        virsh domjobabort full
        rm -f "$work/copy.raw"
        for kind in virtkeep virtnbdbackup; do
            cold "$work/full.qcow2"
            "${kind}_backup" $kind full "$work/$kind" -l copy
            cold "$work/full.qcow2"
            "${kind}_backup" $kind-z full "$work/$kind-z" -l copy -z
        done
        rm -rf "$work"/virtnbdbackup{,-z}
        # The same bytes, in one file.
        cold "$work/virtkeep/vda.copy.data"
        measure b3sum b3sum --num-threads 1 "$work/virtkeep/vda.copy.data"
        measure adler32 python3 -c 'import sys, zlib
sum = 1
with open(sys.argv[1], "rb", buffering=0) as file:
    while piece := file.read(1 << 20):
        sum = zlib.adler32(piece, sum)' "$work/virtkeep/vda.copy.data"
        cold "$work"/virtkeep{,-z}/vda.copy.data
        measure verify "$bin" verify -i "$work/virtkeep" -n
        measure verify-z "$bin" verify -i "$work/virtkeep-z" -n
        rm -rf "$work"/virtkeep{,-z}
    done
    row "nbdcopy --flush to a file" nbdcopy
    row "virtkeep backup -l copy" virtkeep nbdcopy=nbdcopy virtnbdbackup=virtnbdbackup
    row "virtnbdbackup -l copy" virtnbdbackup
    row "virtkeep backup -l copy -z" virtkeep-z virtkeep=plain virtnbdbackup-z="virtnbdbackup -z"
    row "virtnbdbackup -l copy -z" virtnbdbackup-z
    row "virtkeep verify" verify b3sum="b3sum --num-threads 1"
    row "virtkeep verify, compressed" verify-z
    local sum
    sum=$(awk -v a="$(median nbdcopy 3)" -v b="$(median b3sum 3)" -v c="$(median adler32 3)" 'BEGIN { print a + b + c }')
    echo "Processor time of the plain copy: $(median virtkeep 3) s; of nbdcopy, b3sum --num-threads 1 and an Adler-32" \
        "pass over the same bytes $(median nbdcopy 3) + $(median b3sum 3) + $(median adler32 3) s:" \
        "$(ratio "$(median virtkeep 3)" "$sum") x." >>"$work/notes"
    say "an increment without changes"
    "$bin" backup -U "$uri" -d full -o "$work/chain" -l full --scratchdir "$lab/scratch" --quiet
    for round in $(seq "$rounds"); do warm_mib=0 virtkeep_backup no-change full "$work/chain" -l inc; done
    row "virtkeep backup -l inc, nothing changed" no-change
    tests/lab.sh remove "$lab" full
    rm -rf "$work/chain" "$work/full.qcow2"
}

# ---- four disks at once

# shellcheck disable=SC2016 # for the inner shell
four_copies='for disk in vda vdb vdc vdd; do nbdcopy --flush "nbd+unix:///$disk?socket=$1" "$2.$disk" & done; wait'

part_four() {
    local round disk disks=()
    say "four disks of 8 GiB with $((data_mib / 4)) MiB of data each"
    for disk in vda vdb vdc vdd; do
        make_image "four-$disk" $((data_mib / 4)) 8
        disks+=("$disk=$work/four-$disk.qcow2")
    done
    domain four "${disks[@]}"
    for round in $(seq "$rounds"); do
        cold "$work"/four-*.qcow2 && timed four-begin job four vda vdb vdc vdd
        measure four-nbdcopy bash -c "$four_copies" - "$lab/scratch/bench.sock" "$work/copy"
        timed four-end virsh domjobabort four
        rm -f "$work"/copy.vd?
        cold "$work"/four-*.qcow2
        virtkeep_backup four-virtkeep four "$work/set" -l copy
        rm -rf "$work/set"
    done
    tests/lab.sh remove "$lab" four
    rm -f "$work"/four-*.qcow2
    row "nbdcopy, four disks side by side" four-nbdcopy
    row "virtkeep backup -l copy, four disks" four-virtkeep four-nbdcopy="four nbdcopy"
    echo "To begin and end the job of four disks takes libvirt $(median four-begin 1) + $(median four-end 1) s (with the" \
        "start of virsh), which is in virtkeep's time and not in nbdcopy's." >>"$work/notes"
}

# ---- an increment of 1 %, scattered

part_scattered() {
    local round warm_mib=1280
    say "a disk of 100 GiB of which 1 % changes in pieces of 64 KiB"
    qemu-img create -q -f qcow2 "$work/scattered.qcow2" 100G
    domain scattered vda="$work/scattered.qcow2"
    virtnbdbackup -U "$uri" -d scattered -l full -o "$work/chain" --scratchdir "$lab/scratch" -n >/dev/null 2>&1
    tests/lab.sh stop "$lab" scattered
    # The image's bitmap notes what is written to it while the domain is off.
    python3 tests/bench/disk.py scattered 16384 6553600 | qemu-io -f qcow2 "$work/scattered.qcow2" >/dev/null
    tests/lab.sh start "$lab" scattered
    for round in $(seq "$rounds"); do
        cold "$work/scattered.qcow2"
        virtnbdbackup_backup scattered-virtnbdbackup scattered "$work/chain" -l diff
        cold "$work/scattered.qcow2"
        virtkeep_backup scattered-virtkeep scattered "$work/chain" -l diff
        rm -f "$work"/chain/*diff*.data*
        # All that the disk holds is what changed: the same reads.
        cold "$work/scattered.qcow2" && job scattered vda
        measure scattered-nbdcopy nbdcopy --flush "$(exported vda)" "$work/copy.raw"
        virsh domjobabort scattered
        rm -f "$work/copy.raw"
    done
    tests/lab.sh remove "$lab" scattered
    rm -rf "$work/chain" "$work/scattered.qcow2"
    row "virtnbdbackup -l diff, 1 % of 100 GiB" scattered-virtnbdbackup
    row "virtkeep backup -l diff, 1 % of 100 GiB" scattered-virtkeep scattered-nbdcopy=nbdcopy \
        scattered-virtnbdbackup=virtnbdbackup
    row "nbdcopy --flush of the same pieces" scattered-nbdcopy
}

# ---- how long it takes to know what to read

# Seconds and memory of a backup until it says how many extents there are; then it is interrupted.
until_known() { # NAME COMMAND...
    local name=$1 pid start now && shift
    : >"$work/output"
    start=$(date +%s%N)
    "$@" >"$work/output" 2>&1 &
    pid=$!
    until grep -q 'Got [0-9]* extents' "$work/output"; do
        kill -0 "$pid" 2>/dev/null || { cat "$work/output" >&2 && say "$name failed" && exit 1; }
        sleep 0.05
    done
    now=$(date +%s%N)
    echo "$(awk -v n=$((now - start)) 'BEGIN { printf "%.2f", n / 1e9 }')" \
        "$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status") 0" >>"$work/samples.$name"
    say "$name: $(tail -n 1 "$work/samples.$name")"
    kill -INT "$pid"
    wait "$pid" || true
}

fresh_for() { # KIND
    [ "$1" = again ] || { tests/lab.sh stop "$lab" pieces && tests/lab.sh start "$lab" pieces; }
}

# QEMU forgets tables of an image that were not used for ten minutes: what a nightly run finds is a QEMU that has just
# begun. The last disk again right after it was read, where they fill its cache, and in a QEMU that keeps all tables of it
# in memory, see docs/storage.md.
part_extents() {
    local kind size option pieces round what warm_mib=256
    for kind in 60 300 again cached; do
        size=${kind/again/300} size=${size/cached/300} option=
        pieces=$(python3 tests/bench/disk.py pieces "$work/pieces.qcow2" "$size")
        what="$size GiB in $pieces pieces"
        case $kind in
        again) what="the same disk, read just before" ;;
        cached) option=,cache=64 what="the same with a metadata_cache of 64 MiB" ;;
        esac
        domain pieces vda="$work/pieces.qcow2$option"
        [ $kind != again ] || { job pieces vda && nbdinfo --map "$(exported vda)" >/dev/null && virsh domjobabort pieces; }
        for round in $(seq "$rounds"); do
            fresh_for $kind
            job pieces vda
            measure nbdinfo-$kind nbdinfo --map "$(exported vda)"
            virsh domjobabort pieces
            fresh_for $kind
            until_known known-$kind "$bin" backup -U "$uri" -d pieces -o "$work/set" -l copy --scratchdir "$lab/scratch" -n
            rm -rf "$work/set"
            if [ $kind = 60 ]; then
                until_known virtnbdbackup-$kind virtnbdbackup -U "$uri" -d pieces -o "$work/set" -l copy \
                    --scratchdir "$lab/scratch" -n
                virsh domjobabort pieces 2>/dev/null || true
                rm -rf "$work/set"
            fi
        done
        tests/lab.sh remove "$lab" pieces
        row "nbdinfo --map, $what" nbdinfo-$kind
        if [ $kind = 60 ]; then row "virtnbdbackup, from the start to the list of extents, the same" virtnbdbackup-$kind; fi
        row "virtkeep backup, from the start to the list of extents, the same" known-$kind nbdinfo-$kind="nbdinfo --map"
    done
}

# ---- restore of a full and 30 increments

part_restore() {
    local round number
    say "a full and 30 increments"
    make_image restore "$data_mib" 8
    domain restore vda="$work/restore.qcow2"
    for number in $(seq 0 30); do
        tests/lab.sh hmp "$lab" restore vda "write -P $((number + 1)) $((number * 20))M 32M" >/dev/null
        "$bin" backup -U "$uri" -d restore -o "$work/chain" --scratchdir "$lab/scratch" --quiet
    done
    tests/lab.sh stop "$lab" restore
    for round in $(seq "$rounds"); do
        cold "$work/restore.qcow2"
        # A restore is durable when it says so.
        measure convert bash -c 'qemu-img convert -f qcow2 -O qcow2 "$1" "$2" && sync "$2"' - \
            "$work/restore.qcow2" "$work/copy.qcow2"
        cold "$work"/chain/*.data
        measure restore "$bin" restore -i "$work/chain" -o "$work/out" -n
        rm -rf "$work/copy.qcow2" "$work/out"
        cold "$work/restore.qcow2"
        qemu-nbd -r -f qcow2 -e 8 --persistent --fork --pid-file "$work/pid" -k "$work/nbd.sock" "$work/restore.qcow2"
        measure copy-raw nbdcopy --flush "nbd+unix:///?socket=$work/nbd.sock" "$work/copy.raw"
        kill "$(cat "$work/pid")"
        cold "$work"/chain/*.data
        measure restore-raw "$bin" restore -i "$work/chain" -o "$work/out" -n -t raw
        cmp "$work/copy.raw" "$work/out/restore.raw"
        rm -rf "$work/copy.raw" "$work/out"
    done
    tests/lab.sh remove "$lab" restore
    rm -rf "$work/chain" "$work/restore.qcow2"
    row "qemu-img convert of the same content, to qcow2" convert
    row "virtkeep restore of a full and 30 increments, to qcow2" restore convert="qemu-img convert"
    row "nbdcopy --flush of the same content, to raw" copy-raw
    row "virtkeep restore of a full and 30 increments, -t raw" restore-raw copy-raw=nbdcopy
}

# ---- the guest's writes while a backup runs

# Microseconds of COUNT writes of 4 KiB, as QEMU says in its log, to the samples of NAME.
latency() {
    local name=$1 count=$2 log=$lab/cache/libvirt/qemu/log/latency.log number before commands=()
    for number in $(seq "$count"); do commands+=("write -P 7 $((RANDOM % 4000))M 4k"); done
    before=$(stat -c %s "$log")
    tests/lab.sh hmp "$lab" latency vda "${commands[@]}"
    tail -c "+$((before + 1))" "$log" | sed -n 's/.*(.* and \([0-9.]*\) ops.*/\1/p' |
        awk '{ printf "%.0f\n", 1e6 / $1 }' >>"$work/samples.$name"
}

latency_row() {
    echo "| $1 | $(median "$2" 1) µs | $(sort -g "$work/samples.$2" | awk '{ v[NR] = $1 } END { print v[int(NR * 0.95)] }') µs |"
}

# libvirt has an error for the moment in which a job ends.
backs_up() { virsh domjobinfo "$1" 2>/dev/null | grep -q Backup; }

part_latency() {
    local kind pid
    say "a guest that writes while it is backed up"
    make_image latency "$data_mib" 8
    domain latency vda="$work/latency.qcow2"
    latency idle 100
    for kind in virtkeep niced limited virtnbdbackup; do
        local command=("$bin" backup -U "$uri" -d latency -l copy --scratchdir "$lab/scratch" -n)
        case $kind in
        niced) command=(nice -n 19 ionice -c 3 "${command[@]}") ;;
        limited) command+=(--rate-limit $((data_mib / 16))M) ;;
        virtnbdbackup) command=(virtnbdbackup -U "$uri" -d latency -l copy --scratchdir "$lab/scratch" -n) ;;
        esac
        : >"$work/samples.during-$kind"
        while [ "$(wc -l <"$work/samples.during-$kind")" -lt 100 ]; do
            "${command[@]}" -o "$work/set" >"$work/output" 2>&1 &
            pid=$!
            # One that ends before it is seen gives no samples.
            until backs_up latency; do kill -0 "$pid" 2>/dev/null && sleep 0.02 || break; done
            while backs_up latency; do latency "during-$kind" 5; done
            wait "$pid" || { cat "$work/output" >&2 && exit 1; }
            rm -rf "$work/set"
        done
    done
    tests/lab.sh remove "$lab" latency
    {
        echo
        echo "| a guest's write of 4 KiB | median | 95 of 100 within |"
        echo "|---|---|---|"
        latency_row "no backup" idle
        latency_row "during virtkeep backup" during-virtkeep
        latency_row "with nice -n 19 ionice -c 3" during-niced
        latency_row "with --rate-limit $((data_mib / 16))M" during-limited
        latency_row "during virtnbdbackup" during-virtnbdbackup
    } >>"$work/notes"
}

# ---- small pieces

part_fragments() {
    say "a disk of 8 GiB with $extents pieces of 4 KiB"
    python3 tests/bench/disk.py fragments "$work/raw" "$extents"
    qemu-img convert -f raw -O qcow2 -S 4k -o cluster_size=4k "$work/raw" "$work/fragments.qcow2"
    rm "$work/raw"
    domain fragments vda="$work/fragments.qcow2"
    job fragments vda
    measure fragments-nbdcopy nbdcopy --flush "$(exported vda)" "$work/copy.raw"
    virsh domjobabort fragments
    rm "$work/copy.raw"
    virtkeep_backup fragments-virtkeep fragments "$work/set" -l copy
    measure fragments-restore "$bin" restore -i "$work/set" -o "$work/out" -n -t raw
    rm -rf "$work/set" "$work/out"
    tests/lab.sh remove "$lab" fragments
    row "nbdcopy --flush of $extents pieces of 4 KiB" fragments-nbdcopy
    row "virtkeep backup of $extents pieces of 4 KiB" fragments-virtkeep fragments-nbdcopy=nbdcopy
    row "virtkeep restore -t raw of it" fragments-restore
}

touch "$work/rows" "$work/notes"
for part in "${parts[@]}"; do "part_$part"; done

cat <<END
$(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), \
libvirt $(virsh version --daemon | sed -n 's/^Running against daemon: //p'), \
$(qemu-system-x86_64 --version | head -n 1 | cut -d ' ' -f 1-4), \
virtnbdbackup $(dpkg-query -W -f '${Version}' virtnbdbackup), nbdcopy $(nbdcopy --version | head -n 1 | cut -d ' ' -f 2)

$data_mib MiB of data on a disk of 8 GiB, in ${BENCH_DISK:+ext4 on a solid-state disk of }${BENCH_DIR-/dev/shm}${BENCH_COLD:+, cold}, median of $rounds interleaved
rounds, $((SECONDS - begin)) s in all

| what | time | peak memory | beside |
|---|---|---|---|
$(cat "$work/rows")

$(cat "$work/notes")
END
