#!/usr/bin/env python3
"""What AppArmor's stock policy lets a QEMU of libvirt do: the profile of a domain, as virt-aa-helper makes it for libvirt,
is compiled by apparmor_parser, and paths are looked up in what the kernel would be given. No kernel with AppArmor is
needed. usage: apparmor.py RULES, the file with the rules that the package has. Needs apparmor, libvirt-daemon-system.
"""
import re
import struct
import subprocess
import sys

WRITE, READ, LOCK = 2, 4, 0x20
UUID = "11111111-2222-3333-4444-555555555555"
DOMAIN = f"""<domain type='qemu' id='3'><name>web</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/web.qcow2'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""


def helper(*options):
    """The rules that virt-aa-helper would add for the domain."""
    command = ["/usr/lib/libvirt/virt-aa-helper", "--dryrun", *options, "-u", f"libvirt-{UUID}"]
    said = subprocess.run(command, input=DOMAIN, capture_output=True, text=True, check=True)
    return re.findall(r'^  "/.*,$', said.stdout + said.stderr, re.M)


def compiled(rules):
    """The binary policy."""
    text = "#include <tunables/global>\nprofile test flags=(attach_disconnected) {\n  #include <abstractions/libvirt-qemu>\n"
    text += "\n".join(rules) + "\n}\n"
    # Differential encoding would be one thing more to undo below.
    command = ["apparmor_parser", "-Q", "-K", "-S", "-O", "no-diff-encode"]
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"apparmor_parser: {done.stderr.decode()}\n{text}")
    return done.stdout


class Machine:
    """The state machine that the kernel matches paths with (its security/apparmor/match.c)."""

    def __init__(self, data):
        magic, size, _, _ = struct.unpack(">IIIH", data[:14])
        assert magic == 0x1B5E783D, hex(magic)
        self.tables, at = {}, size
        while at + 12 <= len(data) and len(self.tables) < 8:
            kind, width, _, length = struct.unpack(">HHII", data[at : at + 12])
            if kind not in range(1, 9) or width not in (1, 2, 4, 8):
                break
            at += 12
            form = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
            self.tables[kind] = struct.unpack(f">{length}{form}", data[at : at + width * length])
            at = (at + width * length + 7) // 8 * 8

    def access(self, path):
        accept, base, check, default, classes, _, _, following = (self.tables.get(kind) for kind in range(1, 9))
        state = 1
        for byte in path.encode():
            at = (base[state] & 0xFFFFFF) + (classes[byte] if classes else byte)
            state = following[at] if check[at] == state else default[state]
        return accept[state]


def machine(policy):
    """That of files, which is the larger of the two; the other is for what has no path."""
    begins = [found.start() for found in re.finditer(re.escape(struct.pack(">I", 0x1B5E783D)), policy)]
    return max((Machine(policy[begin:]) for begin in begins), key=lambda machine: len(machine.tables[1]))


def allowed(rules, path):
    """Access of an owner, and of anybody else, to a path."""
    access = machine(compiled(rules)).access(path)
    return access & 0x7F, access >> 14 & 0x7F


def main():
    domain = helper("-c")
    own = "/var/lib/libvirt/qemu/domain-3-web/virtkeep.0a7d3f86-9dc3-4fe2-a5f7-a4dcb3ad7e0b.sock"
    scratch = "/var/tmp/virtkeep.0a7d3f86-9dc3-4fe2-a5f7-a4dcb3ad7e0b.vda.scratch"
    example = open(sys.argv[1], encoding="utf-8").read().splitlines()
    with_example = domain + [line for line in example if not line.startswith("#")]
    failed = 0

    def check(what, rules, path, wanted, bits):
        nonlocal failed
        given = allowed(rules, path)
        right = all((access & bits == bits) == wanted for access in given)
        failed += not right
        print(f"{what}: {'allowed' if wanted else 'not allowed'}: {path}" + ("" if right else f" WRONG: {given}"))

    # That the reading of the policy is right, by rules that are in plain sight.
    check("AppArmor, an image of the domain", domain, "/var/lib/libvirt/images/web.qcow2", True, READ | WRITE | LOCK)
    check("AppArmor, another's image", domain, "/var/lib/libvirt/images/db.qcow2", False, READ)
    check("AppArmor, firmware", domain, "/usr/share/OVMF/OVMF_CODE.fd", True, READ)
    check("AppArmor, firmware", domain, "/usr/share/OVMF/OVMF_CODE.fd", False, WRITE)
    # What a backup needs.
    check("AppArmor, the default socket", domain, own, True, READ | WRITE)
    check("AppArmor, another domain's directory", domain, own.replace("3-web", "4-db"), False, WRITE)
    check("AppArmor, a scratch file, before libvirt labels it", domain, scratch, False, WRITE)
    labelled = domain + helper("-r", "-F", scratch)
    check("AppArmor, a scratch file of a job", labelled, scratch, True, READ | WRITE | LOCK)
    # What needs the rules of the package.
    for path in ["/var/tmp/virtkeep.1.sock", "/var/tmp/virtnbdbackup.17", "/run/virtkeep-boot.x1/nbd.sock"]:
        check("AppArmor, stock", domain, path, False, WRITE)
        check("AppArmor, with the package's rules", with_example, path, True, READ | WRITE)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
