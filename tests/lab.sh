#!/bin/bash
# A private libvirtd with small QEMU domains in one directory: the host's own is never touched.
# As root the daemon runs as nobody (root has no session daemon), else as the caller.
#
# Everything lives in DIR (sockets, disks, logs), is found by DIR, and goes with `down`, also after
# a crash: processes are recognised by the path of DIR on their command line.
set -euo pipefail

usage() {
    cat <<'END'
usage: tests/lab.sh COMMAND DIR [ARGUMENT...]

  up DIR [--owner PID] [--netns NAME --there DIR]
                              start a libvirtd in DIR (made; a short path), print its URI;
                              with --owner the lab goes down by itself when that process ends;
                              --netns and --there are for tests/hosts.sh
  uri DIR                     print the URI
  virsh DIR ARGUMENT...       run virsh against it
  domain DIR NAME [--os XML] [--devices XML] [--memory MIB] [--running] [--off] DISK...
                              define a domain and start it paused
  hmp DIR NAME DISK COMMAND...  qemu-io commands on a running domain's disk, as the guest would
  reference DIR NAME DISK=OUT.raw...  what the guest of a running domain sees, taken without a job
  image DIR NAME DISK         print the path of the disk's image
  start DIR NAME              start a stopped domain, paused
  stop DIR NAME               end a domain as pulling the plug of a paused guest would
  remove DIR NAME             end and undefine a domain, remove its images
  guest DIR NAME [--devices XML] [DISK...]
                              boot a small Linux with its agent, wait until it answers
  exec DIR NAME COMMAND       run a shell command inside that guest, print its output
  qemu-pid DIR NAME           print the process id of a running domain's QEMU
  qemu-kill DIR NAME          kill a running domain's QEMU (SIGKILL), as a crash would
  daemon-kill DIR             kill libvirtd (SIGKILL); its domains go on
  daemon-start DIR            start it again, wait until it answers
  down DIR                    end everything and remove DIR

  DISK is TARGET:SIZE[:OPTION,...]: vda:64M, sdb:17826304:cluster_size=2M, vdc:64M:raw
  The target's prefix gives the bus: vd virtio, sd scsi, hd ide, fd floppy.
  Options: raw (format), volume (through a storage pool), block (path= is a device), cdrom, readonly, nodiscard,
  dir=NAME (subdirectory of the image), name=NAME (its file name), path=FILE (an existing
  image; SIZE is not used), cache=MIB (what QEMU keeps of the tables), any other KEY=VALUE is an option of qcow2.
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8
# Where `up` makes it listen to another host, see hosts.sh.
network=() there=

die() { echo "lab: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }

# ---- who runs what

as_lab() {
    local drop=()
    if [ "$(id -u)" = 0 ]; then drop=(setpriv --reuid=nobody --regid=nogroup --clear-groups); fi
    "${network[@]}" "${drop[@]}" env -i ${there:+SASL_CONF_PATH="$there/sasl2"} HOME="$dir/home" XDG_RUNTIME_DIR="$dir/run" XDG_CONFIG_HOME="$dir/config" \
        XDG_CACHE_HOME="$dir/cache" PATH="$PATH" LC_ALL=C.UTF-8 "$@"
}

own() { [ "$(id -u)" != 0 ] || chown -hR nobody:nogroup "$@"; }

uri() { echo "qemu:///session?socket=$dir/run/libvirt/libvirt-sock"; }

virsh() { command virsh -q -c "$(uri)" "$@"; }

need_lab() { [ -e "$dir/lab" ] || die "no lab in '$dir'" "make one with: tests/lab.sh up $dir"; }

# Our processes by name, all or those of one PATTERN: libvirtd, its keeper, QEMUs; and DIR on the
# command line.
processes() {
    local entry name
    for entry in /proc/[0-9]*; do
        name=$(cat "$entry/comm" 2>/dev/null) || continue
        # shellcheck disable=SC2254 # a pattern
        case $name in ${1-*}) ;; *) continue ;; esac
        case $name in
        libvirtd | tini | bash) is_argument "$entry" -x "$dir/libvirtd.pid" || continue ;;
        qemu-system*) is_argument "$entry" "$dir/config/" || continue ;;
        *) continue ;;
        esac
        echo "${entry#/proc/}"
    done
}

is_argument() { tr '\0' '\n' <"$1/cmdline" 2>/dev/null | grep -qF "${@:2}"; }

# A zombie is not: it has no command line. Containers may reap late.
is_alive() {
    local first
    read -r -d '' first 2>/dev/null <"/proc/$1/cmdline"
}

# Ends processes by id: asks first, insists after five seconds.
end_processes() {
    local pid round
    for pid; do kill "$pid" 2>/dev/null || true; done
    for pid; do
        for round in {1..100}; do
            is_alive "$pid" || break
            [ "$round" -lt 100 ] || kill -9 "$pid" 2>/dev/null || true
            sleep 0.05
        done
    done
}

# ---- the daemon

# What QEMU can do is asked once for all labs of a user (3 to 5 seconds); libvirt checks by itself
# whether the answer still suits its version and QEMU's.
capabilities_cache="${TMPDIR:-/tmp}/virtkeep-lab-$(id -u)"

load_capabilities() {
    [ -d "$capabilities_cache" ] && [ -O "$capabilities_cache" ] || return 0
    mkdir -p "$dir/cache/libvirt/qemu/cache/capabilities"
    cp "$capabilities_cache"/*.xml "$dir/cache/libvirt/qemu/cache/capabilities/" 2>/dev/null || true
}

save_capabilities() {
    local file
    mkdir -p -m 700 "$capabilities_cache" && [ -O "$capabilities_cache" ] || return 0
    for file in "$dir"/cache/libvirt/qemu/cache/capabilities/*.xml; do
        [ -e "$file" ] && ! cmp -s "$file" "$capabilities_cache/${file##*/}" || continue
        cp "$file" "$capabilities_cache/.$$.new" && mv "$capabilities_cache/.$$.new" "$capabilities_cache/${file##*/}"
    done
}

make_directories() {
    # Longest socket in here: config/libvirt/qemu/lib/domain-NN-NAME/monitor.sock, of 107 bytes.
    [ ${#dir} -le 40 ] || die "the path '$dir' is too long for the sockets in it (${#dir} of at most 40 bytes)"
    case $dir in *[!A-Za-z0-9_./-]*) die "the path '$dir' has more than letters, digits and _./-" ;; esac
    mkdir -p "$dir"
    [ -z "$(ls -A "$dir")" ] || die "'$dir' is not empty"
    chmod 755 "$dir"
    touch "$dir/lab"
    mkdir -p "$dir"/{home,run,cache,disks,scratch,config/libvirt}
    printf '%s\n' 'stdio_handler = "file"' 'security_driver = "none"' >"$dir/config/libvirt/qemu.conf"
    [ -z "$there" ] || cat "$there/qemu.conf" >>"$dir/config/libvirt/qemu.conf"
    load_capabilities
    own "$dir"
    as_lab test -w "$dir/run" || die "nobody cannot reach '$dir'" "take a directory below /tmp"
}

# The keeper starts a libvirtd for each line in a pipe, and ends with one that ended by itself (the
# timeout is for labs that nobody took down). It outlives killed daemons, and with it tini, which
# reaps ended QEMUs at once: libvirt waits for that, and the first process of a container may do it
# late or never.
# shellcheck disable=SC2016 # expanded by the keeper
keeper='exec 3<>"$1" && shift && while read -r _ <&3; do libvirtd --timeout 3600 --pid-file "$@" 3<&- && exit; done'

start_keeper() {
    local reaper=() listen=()
    if command -v tini >/dev/null; then reaper=(tini -s --); fi
    as_lab mkfifo "$dir/run/start-daemon"
    # On a host of its own it listens to others.
    [ -z "$there" ] || listen=(--listen --config "$there/libvirtd.conf")
    as_lab setsid "${reaper[@]}" bash -c "$keeper" keeper "$dir/run/start-daemon" "$dir/libvirtd.pid" "${listen[@]}" \
        </dev/null >"$dir/libvirtd.log" 2>&1 &
}

daemon() { processes libvirtd; }

# A killed daemon leaves its socket: only an answer tells.
daemon_start() {
    local round
    [ -z "$(daemon)" ] || die "libvirtd is running"
    # Opened for reading too: does not wait for a keeper that is not there.
    echo start 1<>"$dir/run/start-daemon"
    # Half a minute: the machine may be busy.
    for round in {1..600}; do
        if virsh version >/dev/null 2>&1; then return; fi
        # The keeper may be on its way still: what it is started by was never read from the disk before.
        [ "$round" -lt 20 ] || [ -n "$(processes bash)" ] || break
        sleep 0.05
    done
    die "libvirtd does not start: $(tail -n 3 "$dir/libvirtd.log")"
}

# Kills at once, waits until they are gone.
slay() {
    local pid
    [ $# -gt 0 ] || return 0
    kill -9 "$@" 2>/dev/null || true
    for pid; do while is_alive "$pid"; do sleep 0.01; done; done
}

daemon_kill() {
    local pids
    mapfile -t pids < <(daemon)
    [ ${#pids[@]} -gt 0 ] || die "libvirtd is not running"
    slay "${pids[@]}"
}

# The id of a domain's QEMU: libvirt calls it guest=NAME.
qemu_pid() {
    local pid
    for pid in $(processes 'qemu-system*'); do
        if is_argument "/proc/$pid" "guest=$1,"; then echo "$pid"; fi
    done
}

qemu_kill() {
    local pid
    pid=$(qemu_pid "$1")
    [ -n "$pid" ] || die "domain '$1' is not running"
    slay "$pid"
}

up() {
    local owner=
    while [ $# -gt 1 ]; do
        case $1 in
        --owner) owner=$2 ;;
        --netns) network=(ip netns exec "$2") ;;
        --there) there=$2 ;;
        *) die "unknown option '$1'" ;;
        esac
        shift 2
    done
    command -v libvirtd >/dev/null || die "libvirtd is not installed" "run tests/install.sh --tests"
    make_directories
    start_keeper
    daemon_start
    save_capabilities
    if [ -n "$owner" ]; then
        setsid "$here/lab.sh" watch "$dir" "$owner" </dev/null >/dev/null 2>&1 &
    fi
    uri
}

watch() {
    while [ -e "$dir/lab" ] && kill -0 "$1" 2>/dev/null; do sleep 0.5; done
    [ ! -e "$dir/lab" ] || down
}

# The daemon first: it would restart nothing, but it would write into the directory.
down() {
    local pids
    [ -e "$dir" ] || return 0
    need_lab
    mapfile -t pids < <(processes)
    [ ${#pids[@]} -eq 0 ] || end_processes "${pids[@]}"
    mapfile -t pids < <(processes)
    [ ${#pids[@]} -eq 0 ] || end_processes "${pids[@]}"
    rm -rf "$dir"
}

# ---- disks

# One disk's XML; makes its image unless it exists.
disk_xml() {
    local name=$1 spec=$2 target size options option
    local format=qcow2 device=disk file='' sub='' path='' type=file extra='' cache='' discard=" discard='unmap'"
    local -a create=()
    IFS=: read -r target size options <<<"$spec"
    [ -n "$target" ] && [ -n "$size" ] || die "disk '$spec' is not TARGET:SIZE[:OPTION,...]"
    IFS=, read -ra options <<<"${options-}"
    for option in "${options[@]}"; do
        case $option in
        raw) format=raw ;;
        volume) type=volume ;;
        block) type=block ;;
        cdrom) device=cdrom format=raw extra="<readonly/>" discard='' ;;
        readonly) extra="<readonly/>" ;;
        nodiscard) discard='' ;;
        dir=*) sub=${option#dir=}/ ;;
        name=*) file=${option#name=} ;;
        path=*) path=${option#path=} ;;
        cache=*) cache="<metadata_cache><max_size unit='MiB'>${option#cache=}</max_size></metadata_cache>" ;;
        *=*) create+=("$option") ;;
        *) die "disk '$spec': unknown option '$option'" ;;
        esac
    done
    case $target in fd*) device=floppy format=raw discard='' ;; esac
    [ -n "$path" ] || path=$(make_image "$name" "$sub" "${file:-$name-$target.$format}" "$format" "$size" "${create[@]}")
    cat <<END
<disk type='$type' device='$device'>
<driver name='qemu' type='$format'$discard>$cache</driver>
$(source_xml "$type" "$path")
<target dev='$target' bus='$(bus "$target")'/>
$extra
</disk>
END
}

bus() {
    case $1 in
    vd*) echo virtio ;;
    sd*) echo scsi ;;
    hd*) echo ide ;;
    fd*) echo fdc ;;
    *) die "disk target '$1': prefix is none of vd, sd, hd, fd" ;;
    esac
}

make_image() {
    local directory=$dir/disks/$2 path=$dir/disks/$2$3 format=$4 size=$5 joined=
    [ ! -e "$path" ] || die "image '$path' exists"
    as_lab mkdir -p "$directory"
    if [ $# -gt 5 ]; then joined=$(IFS=, && shift 5 && echo "$*"); fi
    as_lab qemu-img create -q -f "$format" ${joined:+-o "$joined"} "$path" "$size" >&2
    echo "$path"
}

source_xml() {
    case $1 in
    file) echo "<source file='$2'/>" && return ;;
    block) echo "<source dev='$2'/>" && return ;;
    esac
    virsh pool-info lab >/dev/null 2>&1 || {
        virsh pool-define-as lab dir --target "$dir/disks" >/dev/null
        virsh pool-start lab >/dev/null
    }
    virsh pool-refresh lab >/dev/null
    echo "<source pool='lab' volume='${2#"$dir/disks/"}'/>"
}

# ---- domains

domain_xml() {
    local name=$1 memory=$2 os=$3 devices=$4
    shift 4
    # Of a machine without PCI Express: starts a little faster and has IDE and floppy drives.
    cat <<END
<domain type='qemu'>
<name>$(sed 's/&/\&amp;/g; s/</\&lt;/g' <<<"$name")</name>
<memory unit='MiB'>$memory</memory>
<vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type>$os</os>
<features><acpi/></features>
<on_reboot>destroy</on_reboot>
<devices>
<controller type='usb' model='none'/>
<controller type='scsi' model='virtio-scsi'/>
<memballoon model='none'/>
$devices
END
    local spec
    for spec; do disk_xml "$name" "$spec"; done
    echo "</devices></domain>"
}

domain() {
    local name=$1 memory=64 os='' devices='' state=--paused xml
    shift
    while :; do
        case ${1-} in
        --os) os=$2 && shift 2 ;;
        --devices) devices=$2 && shift 2 ;;
        --memory) memory=$2 && shift 2 ;;
        --running) state='' && shift ;;
        --off) state=off && shift ;;
        --*) die "unknown option '$1'" ;;
        *) break ;;
        esac
    done
    xml=$dir/home/$name.xml
    domain_xml "$name" "$memory" "$os" "$devices" "$@" >"$xml"
    virsh define "$xml" >/dev/null
    [ "$state" = off ] || virsh start "$name" $state >/dev/null
}

image() {
    local path
    path=$(virsh dumpxml --inactive "$1" | disk_field "$2" file)
    [ -n "$path" ] || path=$(virsh dumpxml --inactive "$1" | disk_field "$2" dev)
    if [ -z "$path" ]; then
        path=$(virsh dumpxml --inactive "$1" | disk_field "$2" volume)
        [ -z "$path" ] || path=$dir/disks/$path
    fi
    [ -n "$path" ] || die "domain '$1' has no image on disk '$2'"
    echo "$path"
}

# From a domain's XML: attribute FIELD of the <source> of a disk, or FIELD `alias`.
disk_field() {
    awk -v target="$1" -v field="$2" '
        function value(line, key) {
            if (!match(line, key "=\047[^\047]*\047")) return ""
            return substr(line, RSTART + length(key) + 2, RLENGTH - length(key) - 3)
        }
        /<disk / { inside = 1; found = mine = ""; depth = 0 }
        inside && /<backingStore[^\/]*>$/ { depth++ }
        inside && /<\/backingStore>/ { depth-- }
        inside && !depth && field != "alias" && /<source / { found = value($0, field) }
        inside && /<alias / && field == "alias" { found = value($0, "name") }
        inside && /<target / && value($0, "dev") == target { mine = 1 }
        /<\/disk>/ { if (mine) print found; inside = 0 }'
}

# The device behind a disk, as QEMU's monitor wants it; $3: the domain's XML when it is at hand.
device() {
    local alias xml=${3-}
    [ -n "$xml" ] || xml=$(virsh dumpxml "$1")
    alias=$(disk_field "$2" alias <<<"$xml")
    [ -n "$alias" ] || die "domain '$1' is not running or has no disk '$2'"
    case $alias in
    virtio-*) echo "/machine/peripheral/$alias/virtio-backend" ;;
    *) echo "/machine/peripheral/$alias" ;;
    esac
}

# Each command must say in QEMU's log that it did all it was asked to: the monitor never fails.
# In what virsh reads as a script, names stand in quotes.
hmp() {
    local name=$1 device log start command script='' wanted=0
    device=$(device "$1" "$2")
    log=$dir/cache/libvirt/qemu/log/$name.log
    shift 2
    for command; do
        script+="qemu-monitor-command '$name' --hmp 'qemu-io -d $device \"$command\"';"
        case $command in write* | read* | discard*) wanted=$((wanted + 1)) ;; esac
    done
    start=$(stat -c %s "$log")
    local said
    said=$(virsh "$script") || exit
    [ -z "${said//[[:space:]]/}" ] || die "qemu-io on disk of '$name': $said"
    check_qemu_io "$log" "$start" "$wanted"
}

# Waits until QEMU's log has the words of WANTED commands; any complaint in it is a failure.
check_qemu_io() {
    local log=$1 start=$2 wanted=$3 text done round
    for round in {1..200}; do
        text=$(tail -c "+$((start + 1))" "$log" | grep -v tainted || true)
        if grep -qiE 'fail|error|invalid|bad|not |non-|unknown|usage|cannot' <<<"$text"; then
            die "qemu-io: $text"
        fi
        done=$(sed -nE 's#^(wrote|read|discard) ([0-9]+)/([0-9]+) bytes at.*#\2 \3#p' <<<"$text" | awk '$1 == $2' | wc -l)
        [ "$done" -lt "$wanted" ] || return 0
        sleep 0.05
    done
    die "qemu-io did $done of $wanted commands: $text"
}

# Read-only NBD exports of the live nodes, beside any guest: exact for zeroes and discards too.
reference() {
    local name=$1 socket=$dir/run/reference.$$ xml blocks device node pair script status=0
    shift
    xml=$(virsh dumpxml "$name")
    blocks=$(virsh qemu-monitor-command "$name" --hmp 'info block' | tr -d '\r')
    script=$(qmp "$name" "{\"execute\":\"nbd-server-start\",\"arguments\":{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"$socket\"}}}}")
    for pair; do
        device=$(device "$name" "${pair%%=*}" "$xml")
        node=$(block_node "$device" <<<"$blocks")
        [ -n "$node" ] || die "domain '$name': no block node for disk '${pair%%=*}'"
        script+=$(qmp "$name" "{\"execute\":\"block-export-add\",\"arguments\":{\"type\":\"nbd\",\"id\":\"reference-${pair%%=*}\",\"node-name\":\"$node\",\"name\":\"${pair%%=*}\",\"writable\":false}}")
    done
    check_qmp "$script" && for pair; do
        rm -f "${pair#*=}"
        nbdcopy "nbd+unix:///${pair%%=*}?socket=$socket" "${pair#*=}" || status=$?
    done || status=1
    check_qmp "$(qmp "$name" '{"execute":"nbd-server-stop"}')"
    return "$status"
}

# The name of the node that `info block` says is attached to a device: by its path, or its id.
block_node() {
    awk -v device="$1" '
        /^[^ ]/ { node = $1; sub(/:$/, "", node) }
        $1 == "Attached" && ($3 == device || device == "/machine/peripheral/" $3) { print node }'
}

# A line of virsh's that sends one command to QEMU; check_qmp sends several.
qmp() { echo "qemu-monitor-command '$1' '$2';"; }

check_qmp() {
    local answer
    answer=$(virsh "$1") || return
    case $answer in *'"error"'*) echo "lab: error: QEMU: $answer" >&2 && return 1 ;; esac
}

is_off() { [ "$(virsh domstate "$1" 2>/dev/null)" = "shut off" ]; }

stop() { is_off "$1" || virsh destroy "$1" >/dev/null; }

remove() {
    local target path
    stop "$1"
    for target in $(virsh domblklist --inactive "$1" | awk '{ print $1 }'); do
        path=$(image "$1" "$target")
        case $path in "$dir"/disks/*) rm -f "$path" ;; esac
    done
    virsh undefine "$1" --checkpoints-metadata >/dev/null
}

# ---- a real guest

guest() {
    local name=$1 boot kernel round devices=''
    shift
    if [ "${1-}" = --devices ]; then devices=$2 && shift 2; fi
    [ $# -gt 0 ] || set -- vda:256M
    boot=$dir/guest
    # A copy: QEMU's user may not reach the checkout.
    if [ ! -d "$boot" ]; then
        mkdir "$boot"
        cp --reflink=auto "$("$here/guest.sh")"/{vmlinux,initramfs} "$boot/"
        chmod 644 "$boot"/*
    fi
    kernel="console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check cryptomgr.notests"
    domain "$name" --running --memory 128 \
        --os "<kernel>$boot/vmlinux</kernel><initrd>$boot/initramfs</initrd><cmdline>$kernel</cmdline>" \
        --devices "<serial type='file'><source path='$dir/run/$name.console'/><target port='0'/></serial>
<channel type='unix'><source mode='bind' path='$dir/run/$name.agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>$devices" "$@"
    for round in {1..240}; do
        if virsh qemu-agent-command --timeout 5 "$name" '{"execute":"guest-ping"}' >/dev/null 2>&1; then return; fi
        sleep 0.25
    done
    die "the agent of guest '$name' does not answer; console: $(tail -n 20 "$dir/run/$name.console")"
}

# Runs a shell command through the guest agent; its status is ours.
guest_exec() {
    local name=$1 command answer pid round
    command=$(printf '%s' "$2" | base64 -w 0)
    answer=$(virsh qemu-agent-command "$name" "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\"echo $command | base64 -d >/tmp/command && . /tmp/command 2>&1\"],\"capture-output\":true}}")
    pid=$(sed -nE 's/.*"pid": *([0-9]+).*/\1/p' <<<"$answer")
    [ -n "$pid" ] || die "guest-exec: $answer"
    for round in {1..600}; do
        answer=$(virsh qemu-agent-command "$name" "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":$pid}}")
        case $answer in *'"exited":true'*) break ;; esac
        sleep 0.1
    done
    sed -nE 's/.*"out-data": *"([^"]*)".*/\1/p' <<<"$answer" | base64 -d
    [[ $answer == *'"exitcode":0'* ]] || die "guest '$name': '$2' ended with: $answer"
}

# ---- arguments

case ${1-} in
'' | -h | --help | help) usage && exit ;;
esac
command=$1
[ -n "${2-}" ] || { usage >&2 && exit 2; }
mkdir -p "$(dirname "$2")"
dir=$(cd "$(dirname "$2")" && pwd -P)/$(basename "$2")
shift 2
case $command in
up | down) "$command" "$@" ;;
watch) watch "$1" ;;
uri | virsh | domain | hmp | reference | image | stop | remove | guest) need_lab && "$command" "$@" ;;
start) need_lab && virsh start "$1" --paused >/dev/null ;;
qemu-pid | qemu-kill | daemon-kill | daemon-start) need_lab && "${command/-/_}" "$@" ;;
exec) need_lab && guest_exec "$@" ;;
*) usage >&2 && exit 2 ;;
esac
