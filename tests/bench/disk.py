#!/usr/bin/env python3
"""Makes the disks of tests/bench.sh.

data PATH MIB SIZE_GIB       raw: MIB of data, half of it compressible, in pieces of 16 MiB between holes
scattered COUNT STEP         a list of qemu-io commands on stdout: COUNT writes of 64 KiB, STEP bytes apart
fragments PATH COUNT         raw: COUNT pieces of 4 KiB, each with content of its own, 4 KiB apart
pieces PATH SIZE_GIB         qcow2: 64 KiB of data every 192 KiB; all of them are one cluster, so the file is small
"""

import os
import struct
import sys


def data(path, mib, size):
    text = (b"The quick brown fox jumps over the lazy dog. " * 24000)[: 1 << 20]
    pieces = (mib + 15) // 16
    step = max(32, size * 1024 // max(1, pieces))
    with open(path, "wb") as disk:
        disk.truncate(size << 30)
        for number in range(mib):
            disk.seek((number // 16 * step + number % 16) << 20)
            shift = number % 977
            disk.write(os.urandom(1 << 20) if number % 2 else text[shift:] + text[:shift])


def scattered(count, step):
    for number in range(count):
        print(f"write -q -P {number % 255 + 1} {number * step} 65536")


def fragments(path, count):
    with open(path, "wb", buffering=0) as disk:
        disk.truncate(max(count * 8192, 8 << 30))
        for number in range(count):
            disk.seek(number * 8192)
            disk.write(number.to_bytes(8, "little") * 512)


def pieces(path, size):
    """As docs/interop/qcow2.txt of QEMU says: header, refcount table and block, L1 table, L2 tables, one data cluster."""
    cluster = 1 << 16
    clusters = (size << 30) // cluster
    entries = cluster // 8
    tables = (clusters + entries - 1) // entries
    l1_clusters = (tables * 8 + cluster - 1) // cluster
    l1 = 3 * cluster
    l2 = l1 + l1_clusters * cluster
    content = l2 + tables * cluster
    used = content // cluster + 1
    assert used <= entries, "one block of refcounts"
    count = 0
    with open(path, "wb") as image:
        # Version 3, refcounts of 64 bits.
        image.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size << 30, 0, tables, l1, cluster, 1, 0, 0,
                                0, 0, 0, 6, 104))
        image.seek(l1)
        image.write(b"".join(struct.pack(">Q", (l2 + number * cluster) | 1 << 63) for number in range(tables)))
        for table in range(tables):
            image.seek(l2 + table * cluster)
            numbers = range(table * entries, min((table + 1) * entries, clusters))
            image.write(b"".join(struct.pack(">Q", 0 if number % 3 else content) for number in numbers))
            count += sum(1 for number in numbers if number % 3 == 0)
        image.seek(content)
        image.write(b"A piece of data. " * 3855 + b".")
        image.seek(cluster)
        image.write(struct.pack(">Q", 2 * cluster))
        image.seek(2 * cluster)
        image.write(b"".join(struct.pack(">Q", 1) for _ in range(used - 1)) + struct.pack(">Q", count))
        image.truncate(used * cluster)
    print(count)


def main():
    what, *rest = sys.argv[1:]
    if what == "data":
        data(rest[0], int(rest[1]), int(rest[2]))
    elif what == "scattered":
        scattered(int(rest[0]), int(rest[1]))
    elif what == "fragments":
        fragments(rest[0], int(rest[1]))
    elif what == "pieces":
        pieces(rest[0], int(rest[1]))
    else:
        sys.exit(__doc__)


main()
