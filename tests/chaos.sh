#!/bin/bash
# Rounds of backups with one fault each at a random moment. After every fault the next run must
# commit, its restore must equal what the guest sees, and nothing may be left behind.
#
# VIRTKEEP_CHAOS_ROUNDS: how many (60). VIRTKEEP_CHAOS_SEED: what is chosen; moments stay random.
# VIRTKEEP_CHAOS_FAULTS: only these kinds. VIRTKEEP_BIN: another build of the program.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

rounds=${VIRTKEEP_CHAOS_ROUNDS:-60}
seed=${VIRTKEEP_CHAOS_SEED:-$((RANDOM * 32768 + RANDOM))}
read -ra faults <<<"${VIRTKEEP_CHAOS_FAULTS:-KILL TERM INT HUP qemu-killed libvirtd-restarted target-full target-readonly nbd-cut scratch-full qemu-stopped}"
# Runs in one set: more would make the proof of the last one slow.
chain=12
disks=(vda vdb)
declare -A size=([vda]=16 [vdb]=6)

die() { echo "chaos: error: $1" >&2 && exit 1; }
[ "$(id -u)" = 0 ] || die "must be root: it mounts small file systems"

RANDOM=$((seed % 32768))
# Not in $(...): a subshell would draw the same number again.
below() { drawn=$(((RANDOM * 32768 + RANDOM) % $1)); }
one_of() { below $#; shift "$drawn"; drawn=$1; }
chance() { below 100; [ "$drawn" -lt "$1" ]; }

# ---- the lab

lab=${TMPDIR:-/tmp}/vkx$$
log=$lab/log
name=chaos

end() {
    # shellcheck disable=SC2046 # ids
    kill -9 $(jobs -p) 2>/dev/null
    [ ! -e "$lab" ] || { kill -CONT "$(tests/lab.sh qemu-pid "$lab" $name)" && tests/lab.sh daemon-start "$lab"; } >/dev/null 2>&1
    umount -l "$lab/scratch" "$lab/target" 2>/dev/null
    tests/lab.sh down "$lab"
}

lab() { tests/lab.sh "$1" "$lab" "${@:2}"; }

if [ -n "${VIRTKEEP_BIN-}" ]; then
    program=$VIRTKEEP_BIN
else
    cargo build --locked --quiet || exit
    program=$PWD/target/debug/virtkeep
fi
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lab up --owner $$ >/dev/null || exit
uri=$(lab uri)
mkdir -p "$log" "$lab/target"
mount -t tmpfs -o size=512M,mode=700 chaos "$lab/target" || exit
# Before the domain starts: a later one need not be seen by QEMU.
mount -t tmpfs -o size=64M,mode=777 chaos "$lab/scratch" || exit
# Data that takes its time to be compressed.
head -c $((4 << 20)) /dev/urandom >"$lab/random"
chmod 644 "$lab/random"
lab domain $name "vda:${size[vda]}M" "vdb:${size[vdb]}M:cluster_size=4096" || exit

# ---- what happens in a round

# Writes of a guest: whole clusters and odd sectors, data and zeroes. $1: how many on each disk.
declare -A writes
plan_writes() {
    local disk number sectors offset length
    for disk in "${disks[@]}"; do
        writes[$disk]=
        sectors=$((size[$disk] * 2048))
        for ((number = 0; number < $1; number++)); do
            below 8; length=$((1 << drawn))
            below $((length * 16)); length=$((drawn + 1))
            below $((sectors - length)); offset=$drawn
            below 10
            case $drawn in
            0 | 1) writes[$disk]+="write -z $((offset * 512)) $((length * 512))"$'\n' ;;
            2) writes[$disk]+="write -zu $((offset / 128 * 65536)) 65536"$'\n' ;;
            3 | 4) writes[$disk]+="discard $((offset / 128 * 65536)) 65536"$'\n' ;;
            5) below 255; writes[$disk]+="write -P $((drawn + 1)) $((offset * 512)) $((length * 512))"$'\n' ;;
            6) below $((size[$disk] - 4)); writes[$disk]+="write -s $lab/random ${drawn}M 4M"$'\n' ;;
            *) writes[$disk]+="write -s $lab/random $((offset * 512)) $((length * 512))"$'\n' ;;
            esac
        done
    done
}

do_writes() {
    local disk list
    for disk in "${disks[@]}"; do
        mapfile -t list <<<"${writes[$disk]%$'\n'}"
        [ -z "${writes[$disk]}" ] || lab hmp $name "$disk" "${list[@]}" || return
    done
}

# Replaces the shell it is called in: its id is the program's.
backup() {
    exec "$program" backup -n -U "$uri" -d $name -o "$set" --scratchdir "$lab/scratch" "$@" </dev/null
}

points() { "$program" dump --json -i "$set" 2>/dev/null | grep -c '^      "id": ' || true; }

# Until the copy has begun, or the run is over.
wait_for_copy() {
    local name
    while kill -0 "$run" 2>/dev/null; do
        for name in "$set"/*.data.partial; do [ ! -e "$name" ] || return; done
        sleep 0.005
    done
}

nap() { sleep "$(printf '0.%03d' "$1")"; }

# Leaves $1 KiB of a file system of ours, as far as that is possible.
fill() { mountpoint -q "$2" && head -c $(($(stat -f -c '%a*%S/1024' "$2") * 1024 - $1 * 1024)) /dev/zero >"$2/filler" 2>/dev/null; }

# The run is in the background as $run; it may be stopped, so that it can't be over before.
strike() {
    local qemu begin
    case $fault in
    KILL | TERM | INT | HUP) kill -s "$fault" "$run" 2>/dev/null ;;
    qemu-killed) lab qemu-kill $name ;;
    libvirtd-restarted)
        lab daemon-kill
        ! chance 50 || nap "$moment"
        lab daemon-start || fail "libvirtd does not start again"
        ;;
    target-readonly)
        # Refused while a file is open for writing: then as soon as it can be, or when it is over.
        let_go
        while kill -0 "$run" 2>/dev/null; do
            ! mount -o remount,ro "$lab/target" 2>/dev/null || break
        done
        ;;
    nbd-cut)
        # Not while the run stands still: QEMU 7.2 can wait for ever for clients that it is greeting.
        let_go
        nap 60
        ! kill -0 "$run" 2>/dev/null || lab virsh qemu-monitor-command $name '{"execute":"nbd-server-stop"}' >/dev/null 2>&1
        ;;
    scratch-full)
        fill 512 "$lab/scratch"
        plan_writes 6
        do_writes >/dev/null 2>&1
        ;;
    qemu-stopped)
        qemu=$(lab qemu-pid $name)
        kill -STOP "$qemu"
        let_go
        nap 200
        kill -TERM "$run" 2>/dev/null
        # It promises five seconds; the machine may be slow.
        begin=$SECONDS
        while kill -0 "$run" 2>/dev/null && [ $((SECONDS - begin)) -lt 20 ]; do sleep 0.05; done
        ! kill -0 "$run" 2>/dev/null || fail "does not leave while QEMU is stopped"
        kill -CONT "$qemu"
        ;;
    esac
}

hold() { kill -STOP "$run" 2>/dev/null; }
let_go() { kill -CONT "$run" 2>/dev/null; }

# Everything is as before the fault, as somebody who repairs the machine would do it.
heal() {
    rm -f "$lab/scratch/filler" "$lab/target/filler"
    mount -o remount,rw "$lab/target" || fail "the target stays read-only"
    if [ "$(lab virsh domstate $name)" = "shut off" ]; then lab start $name; fi
}

# The remedy that virtkeep names for a job that libvirtd was killed in the middle of beginning.
free_zombie() {
    local status=$lab/run/libvirt/qemu/run/$name.xml
    zombies=$((zombies + 1))
    lab daemon-kill
    sed -i "/<job type='none' async='backup'[^>]*[^/]>/,/<\/job>/d; /<job type='none' async='backup'[^>]*\/>/d" "$status"
    lab daemon-start || fail "libvirtd does not start after the remedy"
}

is_zombie() { grep -q 'libvirt waits for a backup job that does not exist' "$1"; }

# Ends with the status of the run in the background; one that hangs is killed.
wait_for_run() {
    local begin=$SECONDS
    while kill -0 "$run" 2>/dev/null; do
        if [ $((SECONDS - begin)) -ge 90 ]; then
            fail "the run does not end"
            kill -9 "$run"
        fi
        sleep 0.02
    done
    # Not the shell's word that it was killed.
    wait "$run" 2>/dev/null
}

references() {
    local disk pairs=()
    for disk in "${disks[@]}"; do pairs+=("$disk=$lab/reference.$disk"); done
    lab reference $name "${pairs[@]}"
}

# The newest restore point against what the guest sees.
compare_newest() {
    local disk
    rm -rf "$lab/restored"
    "$program" restore -n --quiet -i "$set" -o "$lab/restored" 2>"$log/restore" || { fail "the restore fails" "$log/restore" && return; }
    for disk in "${disks[@]}"; do
        if ! qemu-img compare -q -f qcow2 -F raw "$lab/restored/$name-$disk.qcow2" "$lab/reference.$disk"; then
            mismatches=$((mismatches + 1))
            fail "MISMATCH: disk $disk of the newest restore point"
        fi
    done
}

# A sum per restore point, to compare older ones with.
declare -A kept
keep() {
    local id
    id=$("$program" dump --json -i "$set" | sed -n 's/^      "id": "\(.*\)",$/\1/p' | tail -n 1)
    kept[$id]=$(cat "${disks[@]/#/$lab/reference.}" | md5sum)
}

compare_older() {
    local id disk
    one_of "${!kept[@]}"
    id=$drawn
    rm -rf "$lab/restored"
    "$program" restore -n --quiet -i "$set" -o "$lab/restored" --until "$id" 2>"$log/restore" || { fail "the restore of $id fails" "$log/restore" && return; }
    for disk in "${disks[@]}"; do
        qemu-img convert -O raw "$lab/restored/$name-$disk.qcow2" "$lab/restored/$disk"
    done
    if [ "$(cat "${disks[@]/#/$lab/restored/}" | md5sum)" != "${kept[$id]}" ]; then
        mismatches=$((mismatches + 1))
        fail "MISMATCH: restore point $id"
    fi
}

no_traces() {
    local left
    left=$(ls -A "$lab/scratch"; ls "$set" "$set/.virtkeep" | grep -e '\.partial$' -e '^intent\.')
    if [ -n "$left" ]; then
        fail "left behind: $left"
        rm -f "$lab/scratch"/*
    fi
    lab virsh domjobinfo $name | grep -q 'None' || fail "a job is left behind"
}

failures=0
fail() {
    failures=$((failures + 1))
    bad_round=yes
    echo "FAILED in round $round ($fault, VIRTKEEP_CHAOS_SEED=$seed): $1"
    shift
    local file
    for file in "$log/run" "$log/next" "$@"; do
        [ ! -s "$file" ] || { echo "--- ${file##*/}" && tail -n 25 "$file"; }
    done
}

# ---- the rounds

declare -A struck failed committed unharmed
zombies=0 mismatches=0 generation=0 bad_round=yes
echo "chaos: $rounds rounds, VIRTKEEP_CHAOS_SEED=$seed"
begin=$SECONDS
for ((round = 1; round <= rounds; round++)); do
    if [ -n "$bad_round" ] || [ $((round % chain)) = 0 ]; then
        [ "$failures" -lt 20 ] || die "too many failures"
        [ "$generation" = 0 ] || rm -rf "$set"
        generation=$((generation + 1))
        set=$lab/target/set.$generation
        kept=() bad_round=
    fi
    one_of "${faults[@]}"; fault=$drawn
    options=()
    ! chance 70 || options+=(-z=16)
    # An increment needs a base.
    if [ "$(points)" -gt 0 ] && chance 30; then one_of inc inc diff; options+=(-l "$drawn"); fi
    rm -f "$log"/*
    plan_writes 4
    do_writes || fail "the guest can't write"
    before=$(points)
    case $fault in
    target-full) below 6000; fill "$drawn" "$lab/target" ;;
    target-readonly) ! chance 30 || mount -o remount,ro "$lab/target" ;;
    esac
    writer=
    plan_writes 2
    backup "${options[@]}" >"$log/run" 2>&1 &
    run=$!
    if chance 50; then (nap 300 && do_writes >"$log/writer" 2>&1) & writer=$!; fi
    below 300; moment=$drawn
    if chance 75; then
        wait_for_copy
        ! chance 50 || nap $((moment / 3))
        hold
    else
        nap $((moment * 3))
    fi
    strike
    let_go
    wait_for_run
    status=$?
    [ -z "$writer" ] || wait "$writer"
    heal
    struck[$fault]=$((${struck[$fault]-0} + 1))
    new=$(($(points) - before))
    case $status:$new in
    0:1 | 3:1) unharmed[$fault]=$((${unharmed[$fault]-0} + 1)) ;;
    *:0) failed[$fault]=$((${failed[$fault]-0} + 1)) ;;
    *:1) committed[$fault]=$((${committed[$fault]-0} + 1)) ;;
    esac
    case $status:$new in
    0:1 | 3:1 | 1:[01] | 129:[01] | 130:[01] | 137:[01] | 143:[01]) ;;
    *) fail "status $status, and $new new restore points" ;;
    esac
    if [ -d "$set" ] && [ "$(points)" -gt 0 ]; then
        "$program" verify -n --quiet -i "$set" >"$log/verify" 2>&1 || fail "the set is not whole after the fault" "$log/verify"
    fi
    ! is_zombie "$log/run" || free_zombie

    (backup) >"$log/next" 2>&1
    status=$?
    if is_zombie "$log/next"; then
        free_zombie
        (backup) >"$log/next" 2>&1
        status=$?
    fi
    case $status in
    0 | 3) ;;
    *) fail "the next run ends with $status" && continue ;;
    esac
    references || fail "no reference"
    compare_newest
    keep
    no_traces
    if [ $((round % 10)) = 0 ]; then
        "$program" verify -n --quiet -i "$set" >"$log/verify" 2>&1 || fail "the set is not whole" "$log/verify"
        compare_older
        echo "chaos: $round rounds, $((SECONDS - begin)) seconds, $mismatches mismatches, $failures failures"
    fi
done

# Failed: nothing new in the set. Committed: there is, though the run says that it failed or was
# ended. Unharmed: it succeeded, the fault came too late or is one that a run must stand.
echo "chaos: done: $rounds rounds in $((SECONDS - begin)) seconds, $mismatches mismatches, $failures failures"
printf '%-20s %8s %8s %10s %8s\n' fault struck failed committed unharmed
for fault in "${faults[@]}"; do
    printf '%-20s %8d %8d %10d %8d\n' "$fault" "${struck[$fault]-0}" "${failed[$fault]-0}" "${committed[$fault]-0}" "${unharmed[$fault]-0}"
done
[ $zombies = 0 ] || echo "libvirt was helped out of a half begun job $zombies times"
[ "$failures" = 0 ]
