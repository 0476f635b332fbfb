#!/bin/bash
# The life of the Debian packages in /packages, in a system that has nothing else: for tests/packages.sh, in a chroot.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

say() { echo "life: $*"; }
die() { echo "life: error: $*" && exit 1; }
apt() { apt-get -y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" </dev/null; }
# The status of a command, and what it said in $said.
status() { said=$("$@" 2>&1) && status=0 || status=$?; }
installed() { dpkg-query -W -f '${Version} ${db:Status-Status}' "$1" 2>/dev/null || true; }

new=$(echo /packages/virtkeep_*.deb)
dropin=$(echo /packages/virtkeep-drop-in_*.deb)
old=$(echo /packages/old/virtkeep_*.deb)
version=$(dpkg-deb -f "$new" Version)
config=/etc/virtkeep/virtkeep.toml
# Services are nobody's to start in a chroot.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
apt update

apt install --no-install-recommends "$old"
[ "$(installed virtkeep)" = "0.0.9 installed" ] || die "0.0.9 is not installed"
say "installed with $(ldd /usr/bin/virtkeep | grep -c '=>') libraries, all there"
ldd /usr/bin/virtkeep | grep -q 'not found' && die "a library is missing"

runs() {
    status virtkeep --version
    [ "$status" = 0 ] && [ -n "$said" ] || die "--version: $status: $said"
    say "$said"
    status virtkeep config check
    [ "$status" = 0 ] || die "config check: $status: $said"
    # There is no libvirtd here: it says so, and how.
    status virtkeep doctor -d web
    [ "$status" = 1 ] || die "doctor: $status: $said"
    [[ $said == *"error: "*libvirt* ]] || die "doctor: $said"
    status virtkeep doctor -i /nowhere
    [ "$status" != 0 ] || die "doctor finds a set that is not there: $said"
    # What the units run.
    status virtkeep backup --all
    [ "$status" = 1 ] || die "backup --all: $status: $said"
    [ "$(COMPLETE=bash _CLAP_COMPLETE_INDEX=1 _CLAP_IFS=' ' virtkeep -- virtkeep dump)" = dump ] || die "no completion"
}
runs

echo '# mine' >>$config
apt install --no-install-recommends "$new"
[ "$(installed virtkeep)" = "$version installed" ] || die "$version is not installed"
[ "$(tail -n 1 $config)" = '# mine' ] || die "the upgrade did not keep the changed configuration"
say "upgraded from 0.0.9 to $version: the changed configuration is kept"
runs
if grep -q '^# of the old version' "$config.dpkg-dist" 2>/dev/null; then die "the new configuration is the old one"; fi

apt install --no-install-recommends man-db
man -w virtkeep virtkeep-backup >/dev/null || die "no manual page"
[ "$(man -Tutf8 virtkeep-backup | wc -l)" -gt 100 ] || die "the manual page does not render"
say "manual pages render"

apt install --no-install-recommends "$dropin"
status virtnbdbackup --version
[ "$status" = 0 ] || die "virtnbdbackup --version: $status: $said"
man -w virtnbdrestore >/dev/null || die "no manual page of virtnbdrestore"
apt-get -s install virtnbdbackup | grep -q '^Remv virtkeep-drop-in' || die "virtnbdbackup and virtkeep-drop-in go together"
say "virtkeep-drop-in: virtnbdbackup says $said, and conflicts with the package of that name"
apt remove virtkeep-drop-in
[ ! -e /usr/bin/virtnbdbackup ] && [ ! -L /usr/bin/virtnbdbackup ] || die "virtkeep-drop-in left virtnbdbackup behind"

list=$(dpkg -L virtkeep)
mkdir -p /etc/systemd/system/timers.target.wants /var/backups/virtkeep/web
ln -s /usr/lib/systemd/system/virtkeep@.timer /etc/systemd/system/timers.target.wants/virtkeep@web.timer
apt remove virtkeep
while read -r path; do
    [ "$path" = $config ] || [ -d "$path" ] || [ ! -e "$path" ] || die "left behind by remove: $path"
done <<<"$list"
[ "$(tail -n 1 $config)" = '# mine' ] || die "remove took the configuration"
say "removed: the configuration stays"
apt purge virtkeep
while read -r path; do
    # Directories of others stay.
    case $path in *virtkeep*) [ ! -e "$path" ] || die "left behind by purge: $path" ;; esac
done <<<"$list"
[ ! -L /etc/systemd/system/timers.target.wants/virtkeep@web.timer ] || die "purge left the enabled timer"
[ -d /var/backups/virtkeep/web ] || die "purge took the backups"
say "purged: nothing is left but backups"
