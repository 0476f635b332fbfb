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
  BENCH_DIR        where disk and sets lie, 4 GiB [/dev/shm]
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
with open(path, "wb") as disk:
    disk.truncate(2 << 30)
    for _ in range(mib):
        disk.write(b"".join(random.choice(pieces) for _ in range(1024)))
END
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$work/disk.qcow2"
chmod 666 "$work/disk.qcow2"
tests/lab.sh domain "$lab" bench "vda:0:path=$work/disk.qcow2" >/dev/null
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
# The image went with the domain.
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$work/disk.qcow2"

# virtnbdmap starts nbdkit and then has qemu-nbd attach the kernel's device to it. This one waits instead, so that
# nbdkit serves just as it does there.
nbdkit_pid() {
    local entry
    for entry in /proc/[0-9]*; do
        [ "$(cat "$entry/comm" 2>/dev/null)" = nbdkit ] || continue
        if tr '\0' '\n' <"$entry/cmdline" | grep -qxF "disk=$work/virtnbd/vda.copy.data"; then echo "${entry#/proc/}"; fi
    done
}

serve_virtnbdmap() {
    local round
    touch "$device"
    mkdir -p "$work/fake"
    printf '#!/bin/sh\nwhile [ -e "%s" ] && kill -0 "$(cat "%s")"; do sleep 0.2; done 2>/dev/null\n' "$device" "$work/nbdkit" >"$work/fake/qemu-nbd"
    chmod 755 "$work/fake/qemu-nbd"
    (cd "$work" && TMPDIR=$work PATH=$work/fake:$PATH exec virtnbdmap -r -n -f "$work/virtnbd/vda.copy.data" -d "$device" -l 127.0.0.1 -p "$port" -L "$work/virtnbdmap.log") >"$work/virtnbdmap.out" 2>&1 &
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

# Serves the disk as KIND; the URI is in $export.
serve() {
    rm -f "$socket"
    case $1 in
    virtnbdmap) serve_virtnbdmap && return ;;
    plain | lz4) "$bin" map -i "$work/$1" -d vda -s "$socket" --quiet >/dev/null & ;;
    *) qemu-nbd -r -f "$1" -k "$socket" -e 16 --persistent "$work/disk.$1" & ;;
    esac
    server=$!
    until [ -S "$socket" ]; do sleep 0.05; done
    export="nbd+unix:///?socket=$socket"
}

sample() { echo "$2" >>"$work/samples.$1" && echo "bench: $1: $2" >&2; }

for _ in $(seq "$rounds"); do
    for kind in raw plain lz4; do
        serve $kind
        begin=$(date +%s%N)
        nbdcopy "$export" null:
        sample "copy-$kind" "$((($(date +%s%N) - begin) / 1000000))"
        if [ $kind != raw ]; then sample "memory-$kind" "$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status")"; fi
        stop
    done
    for kind in qcow2 plain lz4 "${compared[@]}"; do
        serve $kind
        # Once over everything, as a guest that has run for a while. It gains virtnbdmap nothing, and takes minutes.
        if [ $kind != virtnbdmap ]; then nbdcopy "$export" null:; fi
        sample "random-$kind" "$(fio --name=map --ioengine=nbd --rw=randread --bs=4k --iodepth=16 --time_based --runtime="$seconds" \
            --size="${data_mib}M" --output-format=json --uri="$export" 2>/dev/null | sed -n '/^{/,$p' |
            python3 -c 'import json, sys; print(int(json.load(sys.stdin)["jobs"][0]["read"]["iops"]))')"
        stop
    done
done

median() { sort -n "$work/samples.$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
times() { awk -v a="$(median "$1")" -v b="$(median "$2")" 'BEGIN { printf "%.2f", a / b }'; }
cat <<END
$(nproc) cores, $data_mib MiB of data on a disk of 2 GiB, all in memory, median of $rounds interleaved rounds

| what | qemu-nbd | map, plain | map, LZ4 |
|---|---|---|---|
| nbdcopy of the whole disk (qemu-nbd: raw) | $(median copy-raw) ms | $(median copy-plain) ms ($(times copy-raw copy-plain) x as fast) | $(median copy-lz4) ms ($(times copy-raw copy-lz4) x) |
| random reads of 4 KiB, 16 at a time (qemu-nbd: qcow2) | $(median random-qcow2)/s | $(median random-plain)/s ($(times random-plain random-qcow2) x) | $(median random-lz4)/s ($(times random-lz4 random-qcow2) x) |
| peak memory after the copy | | $(($(median memory-plain) / 1024)) MiB | $(($(median memory-lz4) / 1024)) MiB |
END
[ ${#compared[@]} = 0 ] || echo "
virtnbdmap's nbdkit with its Python plugin: $(median random-virtnbdmap) random reads/s; map, plain: $(times random-plain random-virtnbdmap) x, LZ4: $(times random-lz4 random-virtnbdmap) x"
