# Shell functions of tests/bench.sh: samples, medians, tables, a pull job for other programs.
# shellcheck shell=bash disable=SC2154 # work, lab and uri are the caller's

say() { echo "bench: $*" >&2; }

# A virtual machine gives memory that is free for some seconds back to its host, and the next to use it pays for that
# (seconds per GiB were seen): what a run will take, warm_mib, is taken and freed right before it. Not where the disk
# is a real one: most of it would stay free, and giving that back takes the run its processors.
warm() {
    case $(findmnt -n -o SOURCE -T "$work") in tmpfs | /dev/loop*) ;; *) return 0 ;; esac
    head -c "${warm_mib}M" /dev/zero >"/dev/shm/${work##*/}.warm"
    rm "/dev/shm/${work##*/}.warm"
}

# A solid-state disk of so many GiB, made of memory that is taken once; the work directory becomes a file system on it.
disk_up() {
    head -c "$1G" /dev/zero >"/dev/shm/${work##*/}.disk"
    disk=$(losetup -f --show --direct-io=on "/dev/shm/${work##*/}.disk")
    # What is deleted keeps its memory.
    mkfs.ext4 -q -E nodiscard "$disk"
    mount "$disk" "$work"
    chmod 755 "$work"
}
disk_down() {
    umount "$work" 2>/dev/null || true
    [ -z "${disk-}" ] || losetup -d "$disk"
    rm -f "/dev/shm/${work##*/}.disk"
}

# Runs a command; appends "seconds kilobytes processor-seconds" to the samples of NAME.
measure() {
    local name=$1 && shift
    warm
    /usr/bin/time -f '%e %M %U %S' -o "$work/time" -- "$@" >"$work/output" 2>&1 ||
        { cat "$work/output" >&2 && say "$name failed" && exit 1; }
    tail -n 1 "$work/time" | awk '{ print $1, $2, $3 + $4 }' >>"$work/samples.$name"
    say "$name: $(tail -n 1 "$work/samples.$name" | awk '{ printf "%s s, %d MiB, processor %s s", $1, $2 / 1024, $3 }')"
}

# Runs a command that is part of another run's way; appends its seconds to the samples of NAME.
timed() {
    local name=$1 start && shift
    start=$(date +%s%N)
    "$@"
    echo "$(awk -v n=$(($(date +%s%N) - start)) 'BEGIN { printf "%.3f", n / 1e9 }') 0 0" >>"$work/samples.$name"
}

# Median of a column of NAME's samples.
median() { cut -d ' ' -f "$2" "$work/samples.$1" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
seconds() { median "$1" 1; }
memory() { echo "$(($(median "$1" 2) / 1024)) MiB"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b ? a / b : 0 }'; }

row() { # TITLE NAME COMPARED=WORDS...
    local title=$1 name=$2 line other && shift 2
    line="| $title | $(seconds "$name") s | $(memory "$name") | "
    for other; do line+="$(ratio "$(seconds "$name")" "$(seconds "${other%%=*}")") x ${other#*=}; "; done
    echo "${line%; } |" >>"$work/rows"
}

virsh() { command virsh -q -c "$uri" "$@"; }

# A domain with disks of ours: DOMAIN TARGET=PATH[,OPTION]...
domain() {
    local name=$1 disks=() disk file && shift
    for disk; do
        file=${disk#*=}
        chmod 666 "${file%%,*}"
        disks+=("${disk%%=*}:0:path=${disk#*=}")
    done
    tests/lab.sh domain "$lab" "$name" "${disks[@]}" >/dev/null
}

# A pull job of DOMAIN's disks as virtkeep makes it, for others: DOMAIN DISK...
job() {
    local name=$1 disk && shift
    {
        echo "<domainbackup mode='pull'><server transport='unix' socket='$lab/scratch/bench.sock'/><disks>"
        for disk; do
            echo "<disk name='$disk' backup='yes' type='file' backupmode='full' exportname='$disk'>" \
                "<driver type='qcow2'/><scratch file='$lab/scratch/bench.$disk'/></disk>"
        done
        echo "</disks></domainbackup>"
    } >"$work/job.xml"
    virsh backup-begin "$name" "$work/job.xml" >/dev/null
}
exported() { echo "nbd+unix:///$1?socket=$lab/scratch/bench.sock"; }

# What the page cache has of a disk is dropped where cold runs are asked for.
cold() {
    local file
    [ -n "${BENCH_COLD-}" ] || return 0
    sync
    for file; do dd if="$file" iflag=nocache count=0 status=none; done
}

virtkeep_backup() { # NAME DOMAIN DIRECTORY OPTION...
    local name=$1 domain=$2 directory=$3 && shift 3
    measure "$name" "$bin" backup -U "$uri" -d "$domain" -o "$directory" --scratchdir "$lab/scratch" --quiet "$@"
}
virtnbdbackup_backup() {
    local name=$1 domain=$2 directory=$3 && shift 3
    measure "$name" virtnbdbackup -U "$uri" -d "$domain" -o "$directory" --scratchdir "$lab/scratch" -n "$@"
}
