#!/usr/bin/python3
"""Measures what one client of `virtkeep map` feels of others that behave badly: the median time of 1,000 reads of
4 KiB, alone and beside them, in interleaved rounds. A table for docs/performance.md on stdout. Other load on the
machine spoils it.

usage: tests/bench-clients.py PROGRAM SET [ROUNDS]     SET: a set with one disk of some data, PROGRAM: virtkeep
"""
import os, random, socket, statistics, struct, subprocess, sys, tempfile, time

import nbd

READS = 1000


def handshake(path, name=b"vda"):
    """An NBD connection by hand, after NBD_OPT_GO."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    exactly(s, 18)
    s.sendall(struct.pack(">I", 3))
    s.sendall(b"IHAVEOPT" + struct.pack(">II", 7, 4 + len(name) + 2) + struct.pack(">I", len(name)) + name + b"\0\0")
    while True:
        _, _, kind, length = struct.unpack(">QIII", exactly(s, 20))
        exactly(s, length)
        if kind == 1:
            return s


def exactly(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def stop_reading(path):
    """Asks for a lot, and reads nothing of it."""
    kept = []
    for _ in range(8):
        s = handshake(path)
        s.setblocking(False)
        try:
            for cookie in range(1000):
                s.send(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, 0, 32 << 20))
        except BlockingIOError:
            pass
        kept.append(s)
    print("there", flush=True)
    time.sleep(3600)


def garbage(path):
    """Bytes that mean nothing, in and after the handshake, a hundred times a second."""
    print("there", flush=True)
    while True:
        for late in (False, True):
            try:
                s = handshake(path) if late else socket.socket(socket.AF_UNIX)
                if not late:
                    s.connect(path)
                s.sendall(os.urandom(4096))
                s.close()
            except (OSError, EOFError):
                pass
        time.sleep(0.01)


def crowd(path):
    """1,000 connections; those that the server refuses are opened again."""
    kept = []
    told = False
    while True:
        for index in range(1000):
            if index == len(kept):
                kept.append(None)
            s = kept[index]
            try:
                if s is not None:
                    if not s.recv(4096, socket.MSG_DONTWAIT):
                        s.close()
                        kept[index] = s = None
            except BlockingIOError:
                pass
            except OSError:
                kept[index] = s = None
            if s is None:
                try:
                    kept[index] = s = socket.socket(socket.AF_UNIX)
                    s.settimeout(1)
                    s.connect(path)
                except OSError:
                    kept[index] = None
        if not told:
            print("there", flush=True)
            told = True
        time.sleep(0.1)


KINDS = {"stop-reading": stop_reading, "garbage": garbage, "crowd": crowd}


def median(path):
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///vda?socket={path}")
    size = h.get_size()
    times = []
    for _ in range(READS):
        offset = random.randrange(size // 4096) * 4096
        begin = time.perf_counter_ns()
        h.pread(4096, offset)
        times.append(time.perf_counter_ns() - begin)
    h.shutdown()
    return statistics.median(times) / 1000


def main():
    program, set_, rounds = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["5"])[0])
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "s")
        server = subprocess.Popen([program, "map", "-i", set_, "-d", "vda", "-s", path, "--quiet"], stdout=subprocess.PIPE)
        server.stdout.readline()
        # Everything is read, and proven, once.
        median(path)
        samples = {kind: [] for kind in ["alone", *KINDS]}
        for _ in range(rounds):
            for kind in samples:
                other = None
                if kind != "alone":
                    other = subprocess.Popen([sys.executable, __file__, kind, path], stdout=subprocess.PIPE)
                    other.stdout.readline()
                samples[kind].append(median(path))
                if other:
                    other.kill()
                    other.wait()
                print(f"bench: {kind}: {samples[kind][-1]:.0f} us", file=sys.stderr, flush=True)
        server.terminate()
        server.wait()
    alone = statistics.median(samples["alone"])
    print(f"{os.cpu_count()} cores, median of {rounds} interleaved rounds, each the median of {READS} reads of 4 KiB\n")
    print("| beside | a read takes | times that alone |\n|---|---|---|")
    for kind, words in [
        ("alone", "nobody"),
        ("stop-reading", "8 clients that each ask for 32 GB and read nothing"),
        ("garbage", "200 connections a second that send garbage"),
        ("crowd", "1,000 connections"),
    ]:
        found = statistics.median(samples[kind])
        print(f"| {words} | {found:.0f} us | {found / alone:.2f} |")


if len(sys.argv) == 3 and sys.argv[1] in KINDS:
    KINDS[sys.argv[1]](sys.argv[2])
elif len(sys.argv) in (3, 4):
    main()
else:
    sys.exit(__doc__)
