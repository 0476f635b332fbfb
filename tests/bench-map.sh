#!/bin/bash
# Measures virtkeep map beside qemu-nbd serving the same disk, in interleaved rounds: medians and ratios on
# stdout, a table for docs/performance.md. Other load on the machine spoils it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

case ${1-} in
'') ;;
*)
    cat <<'END'
usage: tests/bench-map.sh
  BENCH_DATA_MIB   data on the disk of 2 GiB [768]
  BENCH_ROUNDS     rounds, of which medians are taken [5]
  BENCH_BIN        the program [a release build, made first]
  BENCH_DIR        where disks and sets lie, 9 GiB [/dev/shm]
  BENCH_SECONDS    of random reads, each [5]
virtnbdmap is measured, too, as root: its nbdkit with its plugin, without the kernel's device.
END
    exit 2
    ;;
esac
data_mib=${BENCH_DATA_MIB-768} rounds=${BENCH_ROUNDS-5} seconds=${BENCH_SECONDS-5}
tests/install.sh --tests >&2
bin=${BENCH_BIN-}
if [ -z "$bin" ]; then
    cargo build --release --locked >&2
    bin=$(cargo metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/virtkeep
fi

work=$(mktemp -d "${BENCH_DIR-/dev/shm}/virtkeep-map.XXXXXX")
chmod 755 "$work"
lab=$work/lab socket=$work/s server= device=/dev/nbd-bench.$$ port=$((20000 + $$ % 10000))
stop() {
    if [ -n "$server" ]; then kill "$server" && wait "$server" 2>/dev/null || true; fi
    server=
    if [ -n "${starter-}" ]; then kill "$starter" 2>/dev/null || true && wait "$starter" 2>/dev/null || true; fi
    starter=
}
clean() {
    stop
    tests/lab.sh down "$lab" || true
    rm -f "$device"
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

uri=$(tests/lab.sh up "$lab")
python3 - "$work/disk.raw" "$data_mib" <<'END'
import os, random, sys
path, mib = sys.argv[1], int(sys.argv[2])
pieces = [os.urandom(300) + bytes(724) for _ in range(4096)]
with open(path, "wb") as disk, open(path.replace("disk", "pieces"), "wb") as scattered:
    disk.truncate(2 << 30)
    scattered.truncate(2 << 30)
    for _ in range(mib):
        block = b"".join(random.choice(pieces) for _ in range(1024))
        disk.write(block)
        # virtnbdmap answers reads of a whole extent of 64 KiB with an error.
        for start in range(0, len(block), 256 << 10):
            scattered.write(block[start:start + (256 << 10)])
            scattered.seek(256 << 10, os.SEEK_CUR)
END
images() {
    local name
    for name in disk pieces; do
        qemu-img convert -f raw -O qcow2 "$work/$name.raw" "$work/$name.qcow2"
        chmod 666 "$work/$name.qcow2"
    done
}
images
tests/lab.sh domain "$lab" bench "vda:0:path=$work/disk.qcow2" "vdb:0:path=$work/pieces.qcow2" >/dev/null
for kind in plain lz4; do
    options=()
    if [ $kind = lz4 ]; then options=(-z); fi
    "$bin" backup -U "$uri" -d bench -o "$work/$kind" -l copy --scratchdir "$lab/scratch" --quiet "${options[@]}"
done
compared=()
if [ "$(id -u)" = 0 ]; then
    # A stream of its own making.
    compared=(virtnbdmap)
    virtnbdbackup -n -U "$uri" -d bench -o "$work/virtnbd" -l copy --scratchdir "$lab/scratch" -f "$lab/run/v.sock" >"$work/virtnbdbackup.out" 2>&1 ||
        { cat "$work/virtnbdbackup.out" >&2 && exit 1; }
fi
tests/lab.sh remove "$lab" bench
# The images went with the domain.
images

# virtnbdmap starts nbdkit and then has qemu-nbd attach the kernel's device to it. This one waits instead, so that
# nbdkit serves just as it does there.
nbdkit_pid() {
    local file
    # Of the process that stays: the one that was started forks.
    for file in "$work"/nbdkit*.pid; do
        if [ -s "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null; then cat "$file"; fi
    done
}

serve_virtnbdmap() {
    local round disk=$1
    touch "$device"
    mkdir -p "$work/fake"
    printf '#!/bin/sh\nwhile [ -e "%s" ] && kill -0 "$(cat "%s")"; do sleep 0.2; done 2>/dev/null\n' "$device" "$work/nbdkit" >"$work/fake/qemu-nbd"
    chmod 755 "$work/fake/qemu-nbd"
    (cd "$work" && TMPDIR=$work PATH=$work/fake:$PATH exec virtnbdmap -r -n -f "$work/virtnbd/$disk.copy.data" -d "$device" -l 127.0.0.1 -p "$port" -L "$work/virtnbdmap.log") >"$work/virtnbdmap.out" 2>&1 &
    starter=$!
    for round in {1..100}; do
        server=$(nbdkit_pid)
        if [ -n "$server" ] && nbdinfo --size "nbd://127.0.0.1:$port/sda" >/dev/null 2>&1; then break; fi
        [ "$round" -lt 100 ] || { cat "$work/virtnbdmap.out" >&2 && exit 1; }
        sleep 0.1
    done
    echo "$server" >"$work/nbdkit"
    export="nbd://127.0.0.1:$port/sda"
}

# Serves the disk DISK-KIND; the URI is in $export.
serve() {
    local disk=${1%%-*} kind=${1#*-} target=vda
    if [ "$disk" = pieces ]; then target=vdb; fi
    rm -f "$socket"
    case $kind in
    virtnbdmap) serve_virtnbdmap $target && return ;;
    plain | lz4) "$bin" map -i "$work/$kind" -d $target -s "$socket" --quiet >/dev/null & ;;
    *) qemu-nbd -r -f "$kind" -k "$socket" -e 16 --persistent "$work/$disk.$kind" & ;;
    esac
    server=$!
    until [ -S "$socket" ]; do sleep 0.05; done
    export="nbd+unix:///?socket=$socket"
}

sample() { echo "$2" >>"$work/samples.$1" && echo "bench: $1: $2" >&2; }

for _ in $(seq "$rounds"); do
    for kind in raw plain lz4; do
        serve disk-$kind
        begin=$(date +%s%N)
        nbdcopy "$export" null:
        sample "copy-$kind" "$((($(date +%s%N) - begin) / 1000000))"
        if [ $kind != raw ]; then sample "memory-$kind" "$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status")"; fi
        stop
    done
    for disk in disk pieces; do
        for kind in qcow2 plain lz4 "${compared[@]}"; do
            serve $disk-$kind
            # Once over everything, as a guest that has run for a while. It gains virtnbdmap nothing, and takes minutes.
            if [ $kind != virtnbdmap ]; then nbdcopy "$export" null:; fi
            size=$data_mib
            if [ $disk = pieces ]; then size=$((data_mib * 2)); fi
            sample "$disk-$kind" "$(fio --name=map --ioengine=nbd --rw=randread --bs=4k --iodepth=16 --time_based --runtime="$seconds" \
                --size="${size}M" --output-format=json --uri="$export" 2>/dev/null | sed -n '/^{/,$p' |
                python3 -c 'import json, sys; print(int(json.load(sys.stdin)["jobs"][0]["read"]["iops"]))')"
            stop
        done
    done
done

median() { sort -n "$work/samples.$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
times() { awk -v a="$(median "$1")" -v b="$(median "$2")" 'BEGIN { printf "%.2f", a / b }'; }
random() { echo "$(median "$1-$2")/s ($(times "$1-$2" "$1-qcow2") x)"; }
cat <<END
$(nproc) cores, $data_mib MiB of data on a disk of 2 GiB, all in memory, median of $rounds interleaved rounds

| what | qemu-nbd | map, plain | map, LZ4 |
|---|---|---|---|
| nbdcopy of the whole disk (qemu-nbd: raw) | $(median copy-raw) ms | $(median copy-plain) ms ($(times copy-raw copy-plain) x as fast) | $(median copy-lz4) ms ($(times copy-raw copy-lz4) x) |
| random reads of 4 KiB, 16 at a time (qemu-nbd: qcow2) | $(median disk-qcow2)/s | $(random disk plain) | $(random disk lz4) |
| the same on a disk in $((data_mib * 4)) pieces of 256 KiB | $(median pieces-qcow2)/s | $(random pieces plain) | $(random pieces lz4) |
| peak memory after the copy | | $(($(median memory-plain) / 1024)) MiB | $(($(median memory-lz4) / 1024)) MiB |
END
[ ${#compared[@]} = 0 ] || for disk in disk pieces; do echo "
virtnbdmap's nbdkit with its Python plugin, $disk: $(median $disk-virtnbdmap) random reads/s; map, plain: $(times $disk-plain $disk-virtnbdmap) x, LZ4: $(times $disk-lz4 $disk-virtnbdmap) x"; done
