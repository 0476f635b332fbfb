#!/bin/bash
# Two hosts on one machine: network namespaces `here` and `there` with a wire between them. There: an sshd and
# a lab (tests/lab.sh) of its own. Commands run here do not see the lab's files: what they know of them came
# over the wire.
#
# Needs root. Everything lives in DIR and in the namespaces called after it, and goes with `down`.
set -euo pipefail

usage() {
    cat <<'END'
usage: tests/hosts.sh COMMAND DIR [ARGUMENT...]

  up DIR [--owner PID]        make both hosts; with --owner they go by themselves when that process ends
  here DIR COMMAND...         run a command on this side
  there DIR COMMAND...        run a command on the other side, as root
  sshd DIR [LINE...]          restart the sshd there with these lines in its configuration
  down DIR                    end everything and remove DIR

  There is an sshd for root and for user keeper, 10.77.0.2, called `there` (as in its certificate); here is 10.77.0.1. The key
  is in DIR/here/ssh. DIR/lab is the lab; libvirtd listens for TLS (16514) and for TCP with SASL (16509, user
  `keeper`, password `secret`). DIR/tls has the client's certificates, DIR/stranger those of another authority.
END
}

self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

die() { echo "hosts: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }

in_here() { ip netns exec "$name-here" "$@"; }
in_there() { ip netns exec "$name-there" "$@"; }

# ---- up

make_wire() {
    ip netns add "$name-here"
    ip netns add "$name-there"
    ip -n "$name-here" link add wire type veth peer name wire netns "$name-there"
    ip -n "$name-here" address add 10.77.0.1/24 dev wire
    ip -n "$name-there" address add 10.77.0.2/24 dev wire
    for side in here there; do
        ip -n "$name-$side" link set lo up
        ip -n "$name-$side" link set wire up
    done
}

start_sshd() {
    # shellcheck disable=SC2016 # expanded by the shell of that side
    in_there sh -c 'mount --bind "$1/passwd" /etc/passwd && exec "$2" -f "$1/sshd_config" -E "$1/sshd.log"' \
        there "$dir/there" "$(command -v sshd)"
}

make_ssh() {
    mkdir -m 700 "$dir/here/ssh"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/there/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/here/ssh/id_ed25519"
    cp "$dir/here/ssh/id_ed25519.pub" "$dir/there/authorized_keys"
    echo "there,10.77.0.2 $(cat "$dir/there/host_key.pub")" >"$dir/here/ssh/known_hosts"
    cp /etc/hosts "$dir/here/hosts"
    echo "10.77.0.2 there" >>"$dir/here/hosts"
    cat >"$dir/there/sshd_config" <<END
HostKey $dir/there/host_key
AuthorizedKeysFile $dir/there/authorized_keys
PidFile $dir/there/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
AllowUsers root keeper
Include $dir/there/sshd_extra
END
    touch "$dir/there/sshd_extra"
    # Where sshd drops to; the package leaves that to the service.
    mkdir -p /run/sshd
    cp /etc/passwd "$dir/there/passwd"
    echo 'keeper:*:12345:12345::/:/bin/sh' >>"$dir/there/passwd"
    start_sshd
}

# An authority in DIR/$1 and a certificate of it for each of the names that follow.
make_authority() {
    local directory=$1 who
    mkdir "$directory"
    certtool --generate-privkey --key-type ed25519 --outfile "$directory/ca-key.pem" 2>/dev/null
    printf 'cn = "test %s"\nca\ncert_signing_key\nexpiration_days = 10\n' "${directory##*/}" >"$dir/template"
    certtool --generate-self-signed --load-privkey "$directory/ca-key.pem" --template "$dir/template" \
        --outfile "$directory/ca-cert.pem" 2>/dev/null
    shift
    for who; do
        certtool --generate-privkey --key-type rsa --bits 2048 --outfile "$directory/$who-key.pem" 2>/dev/null
        printf 'cn = "%s"\nsigning_key\nencryption_key\nexpiration_days = 10\n' "$who" >"$dir/template"
        [ "$who" = client ] || printf 'tls_www_server\ndns_name = "there"\nip_address = "10.77.0.2"\n' >>"$dir/template"
        [ "$who" = server ] || printf 'tls_www_client\n' >>"$dir/template"
        certtool --generate-certificate --load-privkey "$directory/$who-key.pem" --load-ca-privkey "$directory/ca-key.pem" \
            --load-ca-certificate "$directory/ca-cert.pem" --template "$dir/template" \
            --outfile "$directory/$who-cert.pem" 2>/dev/null
    done
}

make_certificates() {
    make_authority "$dir/tls" server client
    make_authority "$dir/stranger" client
    mkdir "$dir/there/tls"
    cp "$dir"/tls/{ca-cert,server-cert,server-key}.pem "$dir/there/tls/"
    # libvirt's names of them, for ?pkipath=
    ln -s ca-cert.pem "$dir/tls/cacert.pem"
    ln -s client-cert.pem "$dir/tls/clientcert.pem"
    ln -s client-key.pem "$dir/tls/clientkey.pem"
    chmod -R a+rX "$dir/there/tls"
    chown -R nobody "$dir/there/tls"
}

make_libvirt() {
    mkdir "$dir/there/sasl2"
    printf 'mech_list: digest-md5\nsasldb_path: %s\n' "$dir/there/sasl2/passwords" >"$dir/there/sasl2/libvirt.conf"
    echo secret | saslpasswd2 -p -c -f "$dir/there/sasl2/passwords" -a libvirt keeper
    chown nobody "$dir/there/sasl2/passwords"
    cat >"$dir/there/libvirtd.conf" <<END
listen_tls = 1
listen_tcp = 1
auth_tcp = "sasl"
auth_unix_ro = "none"
auth_unix_rw = "none"
key_file = "$dir/there/tls/server-key.pem"
cert_file = "$dir/there/tls/server-cert.pem"
ca_file = "$dir/there/tls/ca-cert.pem"
END
    printf 'backup_tls_x509_cert_dir = "%s"\nbackup_tls_x509_verify = 1\n' "$dir/there/tls" >"$dir/there/qemu.conf"
    chmod -R a+r "$dir/there/libvirtd.conf" "$dir/there/qemu.conf" "$dir/there/sasl2/libvirt.conf"
    "$self/lab.sh" up "$dir/lab" --netns "$name-there" --there "$dir/there" >/dev/null
}

up() {
    local owner=
    if [ "${1-}" = --owner ]; then owner=${2:?}; fi
    [ "$(id -u)" = 0 ] || die "network namespaces need root" "run the tests as root"
    for tool in ip sshd ssh-keygen certtool saslpasswd2 unshare; do
        command -v $tool >/dev/null || die "$tool is not installed" "run tests/install.sh --tests"
    done
    [ ! -e "$dir" ] || die "'$dir' exists"
    mkdir -p "$dir"/{here/tmp,there}
    touch "$dir/hosts"
    if [ -n "$owner" ]; then
        setsid "$self/hosts.sh" watch "$dir" "$owner" </dev/null >/dev/null 2>&1 &
    fi
    make_wire
    make_ssh
    make_certificates
    make_libvirt
}

watch() {
    while [ -e "$dir/hosts" ] && kill -0 "$1" 2>/dev/null; do sleep 0.5; done
    [ ! -e "$dir/hosts" ] || down
}

# ---- down

down() {
    local side pid round
    [ -e "$dir" ] || return 0
    [ -e "$dir/hosts" ] || die "no hosts in '$dir'"
    [ ! -e "$dir/lab" ] || "$self/lab.sh" down "$dir/lab"
    for side in here there; do
        ip netns pids "$name-$side" >/dev/null 2>&1 || continue
        # All that is in there is ours.
        for round in {1..100}; do
            pid=$(ip netns pids "$name-$side")
            [ -n "$pid" ] || break
            # shellcheck disable=SC2086 # a list
            kill "$([ "$round" -lt 40 ] && echo -TERM || echo -KILL)" $pid 2>/dev/null || true
            sleep 0.05
        done
        ip netns delete "$name-$side"
    done
    rm -rf "$dir"
}

# ---- commands

restart_sshd() {
    local old round
    old=$(cat "$dir/there/sshd.pid")
    printf '%s\n' "$@" >"$dir/there/sshd_extra"
    kill "$old"
    for round in {1..100}; do
        if ! kill -0 "$old" 2>/dev/null; then break; fi
        sleep 0.05
    done
    start_sshd
}

# shellcheck disable=SC2016 # expanded by the shell of that side
here='mount -t tmpfs -o mode=755 none "$1/lab" && mount --bind "$1/here/hosts" /etc/hosts && mkdir -p -m 700 ~root/.ssh &&
    mount --bind "$1/here/ssh" ~root/.ssh && shift && exec "$@"'

# shellcheck disable=SC2120
here() { exec ip netns exec "$name-here" unshare --mount --propagation private \
    env TMPDIR="$dir/here/tmp" sh -c "$here" here "$dir" "$@"; }
there() { exec ip netns exec "$name-there" "$@"; }

case ${1-} in
'' | -h | --help | help) usage && exit ;;
esac
command=$1
[ -n "${2-}" ] || { usage >&2 && exit 2; }
mkdir -p "$(dirname "$2")"
dir=$(cd "$(dirname "$2")" && pwd -P)/$(basename "$2")
name=$(basename "$2")
shift 2
case $command in
sshd) restart_sshd "$@" ;;
up | down | here | there | watch) "$command" "$@" ;;
*) usage >&2 && exit 2 ;;
esac
