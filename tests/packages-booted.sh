#!/bin/bash
# The units in a system that was booted, with the system's own libvirtd: for tests/packages.sh, inside systemd-nspawn.
# A domain that runs, one that is off, all at once, a failure and its report; where the socket is; and what AppArmor's
# stock policy for libvirt says of it. Ends the system.
set -euo pipefail
export LC_ALL=C.UTF-8
export LIBVIRT_DEFAULT_URI=qemu:///system

say() { echo "booted: $*"; }
die() { echo "booted: error: $*" && exit 1; }
trap 'systemctl --no-block exit $?' EXIT

# They want certificates.
systemctl stop libvirtd-tls.socket libvirtd-tcp.socket 2>/dev/null || true
systemctl reset-failed
systemctl start libvirtd
say "systemd $(systemctl --version | head -n 1 | cut -d ' ' -f 2), $(virsh version | sed -n 's/^Using library: //p'), $(virsh version | sed -n 's/^Running hypervisor: //p')"

images=/var/lib/libvirt/images
mkdir -p $images
for disk in vda vdb; do qemu-img create -q -f qcow2 $images/web-$disk.qcow2 16M; done
disk() { echo "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$images/web-$1.qcow2'/><target dev='$1' bus='virtio'/></disk>"; }
cat >/root/web.xml <<END
<domain type='qemu'><name>web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>$(disk vda)$(disk vdb)</devices></domain>
END
virsh -q define /root/web.xml
qemu-io -c 'write -P 0xaa 1M 1M' $images/web-vda.qcow2 >/dev/null

points() { virtkeep dump --json -i /var/backups/virtkeep/web/"$(date +%Y-%m)" | grep -c '"checkpoint": "virtnbdbackup'; }
starts() { # UNIT WORDS: the unit succeeds, and says the words
    systemctl start "$1" || { journalctl --no-pager -o cat -u "$1" && die "$1 failed"; }
    journalctl --sync
    journalctl --no-pager -o cat -u "$1" | grep -qF "$2" || die "$1 did not say: $2"
}

# Where the socket is: a hook looks while the job runs.
cat >>/etc/virtkeep/virtkeep.toml <<'END'
hook-post-disk = "virsh backup-dumpxml web >>/run/job.xml; ls -lZ /var/lib/libvirt/qemu/domain-*-web >>/run/job.ls"
END
virtkeep config check >/dev/null
starts virtkeep@web.service 'domain web is off: its images are read'
virsh -q start web --paused
starts virtkeep@web.service 'inc since virtnbdbackup.0'
socket=$(sed -n "s/.*<server transport='unix' socket='\(.*\)'.*/\1/p" /run/job.xml | head -n 1)
[[ $socket == /var/lib/libvirt/qemu/domain-1-web/virtkeep.*.sock ]] || { cat /run/job.xml; die "the socket is at $socket"; }
[ -z "$(find /var/lib/libvirt/qemu /var/tmp -name 'virtkeep.*')" ] || die "files of the job are left"
starts virtkeep.service 'Finished successfully: 1 domain'
[ "$(points)" = 3 ] || die "not three points: $(virtkeep dump -i /var/backups/virtkeep/web/*)"
virtkeep verify --deep -i /var/backups/virtkeep/web/*
say "hardened units back up a domain that runs, one that is off, and all; the socket is in $(dirname "$socket")"

# A failure is seen: in the system's log, and as mail.
mkdir -p /usr/local/sbin
printf '#!/bin/sh\ncat >>/run/mail\n' >/usr/sbin/sendmail && chmod 755 /usr/sbin/sendmail
! systemctl start virtkeep@nosuch.service 2>/dev/null || die "a domain that is not there is backed up"
for _ in $(seq 100); do [ "$(systemctl is-active 'virtkeep-failed@virtkeep@nosuch.service.service' || true)" = inactive ] && [ -s /run/mail ] && break || sleep 0.1; done
grep -q '^Subject: backup: virtkeep@nosuch.service failed on .* with status 1' /run/mail || die "no mail: $(cat /run/mail)"
grep -q 'Domain not found.*nosuch' /run/mail || die "the mail does not tell why: $(cat /run/mail)"
journalctl --sync
journalctl --no-pager -o cat -t virtkeep -p crit | grep -q 'virtkeep@nosuch.service failed' || die "the log does not tell"
say "a failure is in the log and in a mail, with its reason"

# Stopped while it works, it undoes its run.
echo 'hook-pre-run = "sleep 60"' >>/etc/virtkeep/virtkeep.toml
systemctl start --no-block virtkeep@web.service
for _ in $(seq 100); do pgrep -f 'sleep 60' >/dev/null && break || sleep 0.1; done
systemctl stop virtkeep@web.service
sed -i '/hook-pre-run/d' /etc/virtkeep/virtkeep.toml
[ "$(points)" = 3 ] || die "a run that was stopped left a point"
! pgrep -f 'sleep 60' >/dev/null || die "a run that was stopped left a process"
starts virtkeep@web.service 'inc since virtnbdbackup.2'
say "a run that is stopped leaves nothing"

systemctl enable --now virtkeep.timer virtkeep@web.timer 2>/dev/null
[ "$(systemctl list-timers --no-pager | grep -c 'virtkeep')" = 2 ] || die "timers: $(systemctl list-timers --no-pager)"
say "timers: $(systemctl list-timers --no-pager | grep virtkeep@ | awk '{ print $2, $3, $4 }')"

python3 /root/apparmor.py /root/apparmor-libvirt-qemu | sed 's/^/booted: /'
