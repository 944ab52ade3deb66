"""bars.py [--only TEXT] [--rounds N] [--seconds S] [--dir DIR] [--cairn PATH] [--out FILE]

What the engine and its targets have to reach, measured against the file or the device below them, in paired rounds: in each round
the contestants of one bar run right after one another, and the median of the rounds' ratios counts. Prints a Markdown table. Its files
and its engine live in a directory of their own, which goes in the end. Against other servers: bench/peers.
"""

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time

from rounds import MIB, Workplace, cpu_of, is_noisy, machine, quartiles

BARS = []


def bar(name, wanted):
    """A function that measures one bar; it yields (what, values by round, unit) and the bar is met when the first row reaches it."""
    def enter(function):
        BARS.append((name, wanted, function))
        return function
    return enter


class Place(Workplace):
    def __init__(self, options):
        super().__init__(options.cairn, options.dir, "cairn-bars-")
        self.options = options

    def bench(self, *words, table, time=None):
        """The result of `cairn bench` of a table of its own."""
        command = ["bench", *words, "-o", "json", "--yes", "--force", "--table", table]
        if "--operations" not in words:
            command += ["--time", str(time or self.options.seconds), "--ramp", "0.3"]
        result = json.loads(self.cairn(*command))["bench"]
        if result["errors"]:
            raise RuntimeError("cairn %s: %d errors" % (" ".join(command), result["errors"]))
        return result

    def fio(self, *words):
        done = subprocess.run(["fio", "--name=x", "--output-format=json", "--group_reporting", "--time_based",
                               "--runtime=%s" % self.options.seconds, "--ramp_time=0.3", *words],
                              cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError("fio %s: %s" % (" ".join(words), (done.stderr or done.stdout)[-300:]))
        result = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        return sum(result[kind]["iops"] for kind in ("read", "write"))

    def rounds(self, *contestants):
        """Each in turn, each round begins with another; their values in order."""
        found = [[] for _ in contestants]
        for number in range(self.options.rounds):
            for step in range(len(contestants)):
                i = (number + step) % len(contestants)
                found[i].append(contestants[i]())
        return found

    def volume(self, name, table):
        """(its URI, the engine's process)"""
        self.cairn("create", name, "--table", table)
        uri, pid = self.cairn("info", "-c", "--noheadings", "-o", "uri,pid", "--separator", " ", name).split()
        return uri, int(pid)

    def ssdcache(self, mib, direct):
        """A warm cache: (table of the cache, table of the same file alone)"""
        word = ",cache=direct" if direct else ""
        # No holes: to read those costs nothing, and the cache reads only what it wrote.
        backing, fast = (self.file(name, size, cached=not direct) for name, size in (("back.img", mib), ("fast.img", mib * 5 // 4 + 64)))
        self.cairn("format-cache", "--target", "ssdcache", "--backing", backing, "--blocksize", "256", "--yes", "--force", fast)
        sectors = mib * 2048
        table = "0 %d ssdcache %s%s %s%s" % (sectors, backing, word, fast, word)
        for _ in range(2):
            self.bench("--pattern", "sequential", "--block", "1M", "--depth", "4", "--operations", str(mib), table=table)
        return table, "0 %d linear %s%s 0" % (sectors, fast, word)


def ratios(a, b):
    return [x / y for x, y in zip(a, b)]


# MARK: The engine in process

def against_fio(place, rw, direct):
    size = 256
    path = place.file("disk.img", size, cached=not direct)
    table = "0 %d linear %s%s 0" % (size * 2048, path, ",cache=direct" if direct else "")
    ours, fio = place.rounds(
        lambda: place.bench("--depth", "32", "--mix", rw, table=table)["iops"],
        lambda: place.fio("--ioengine=io_uring", "--filename=" + path, "--direct=%d" % direct, "--rw=rand" + rw, "--bs=4k", "--iodepth=32",
                          "--size=%dM" % size))
    yield "of fio's io_uring engine", ratios(ours, fio), "x"
    yield "cairn", ours, "/s"
    yield "fio", fio, "/s"


for kind in ("read", "write"):
    for direct in (0, 1):
        bar("in process, linear, rand%s 4k, depth 32, %s" % (kind, "direct" if direct else "buffered"), 0.95)(
            lambda place, kind=kind, direct=direct: against_fio(place, kind, direct))


@bar("zero, 4 KiB writes for each CPU-second", 3e6)
def zero_writes(place):
    found, = place.rounds(lambda: 1e9 / place.bench("--depth", "32", "--mix", "write", table="0 2097152 zero")["cpu_ns_per_operation"])
    yield "engine and generator together", found, "/s"


def zero_reads(place, kib):
    # Depth 32, or as much as the second-level cache holds: memory that is farther away is slower for both.
    depth = min(32, 512 // kib)
    libc, count = ctypes.CDLL(None), (10 << 20) // kib // depth
    memory = ctypes.create_string_buffer(depth * kib * 1024)

    def memset():
        start = time.process_time()
        for _ in range(count):
            libc.memset(memory, 0, len(memory))
        return count * depth / (time.process_time() - start)
    ours, plain = place.rounds(
        lambda: 1e9 / place.bench("--depth", str(depth), "--block", "%dk" % kib, "--mix", "read", table="0 2097152 zero")["cpu_ns_per_operation"],
        memset)
    yield "of memset, for each CPU-second", ratios(ours, plain), "x"
    yield "cairn", ours, "/s"
    yield "memset of %d x %d KiB in a row" % (depth, kib), plain, "/s"


for kib in (4, 128):
    bar("zero, reads of %d KiB, against a memset of the same bytes (at least half its speed)" % kib, 0.5)(
        lambda place, kib=kib: zero_reads(place, kib))


def cache_hit(place, direct):
    cache, alone = place.ssdcache(256, direct)
    hit, linear = place.rounds(lambda: place.bench("--depth", "32", table=cache)["iops"], lambda: place.bench("--depth", "32", table=alone)["iops"])
    yield "of linear on the same file", ratios(hit, linear), "x"
    yield "ssdcache hit", hit, "/s"
    yield "linear", linear, "/s"


bar("in process, ssdcache hit, randread 4k, depth 32, buffered", 0.85)(lambda place: cache_hit(place, False))
bar("in process, ssdcache hit, randread 4k, depth 32, direct", 0.85)(lambda place: cache_hit(place, True))


@bar("ssdcache hit over NBD, randread 4k, depth 32, buffered", 0.85)
def cache_hit_nbd(place):
    cache, _ = place.ssdcache(256, False)
    # Not the cache's own file, which the cache claims.
    alone = "0 524288 linear %s 0" % place.file("beside.img", 256)
    uris = [place.volume(name, table)[0] for name, table in (("hit", cache), ("alone", alone))]
    hit, linear = place.rounds(*[lambda uri=uri: place.fio("--ioengine=nbd", "--uri=" + uri, "--rw=randread", "--bs=4k", "--iodepth=32",
                                                           "--size=256M") for uri in uris])
    yield "of linear on another file", ratios(hit, linear), "x"
    yield "ssdcache hit", hit, "/s"
    yield "linear", linear, "/s"


@bar("group commit: flushes of all devices for each flush of a client", None)
def group_commit_flushes(place):
    def share(name, table, jobs, mix):
        place.cairn("create", name, "--table", table)
        place.cairn("bench", "--jobs", str(jobs), "--mix", mix, "--time", str(place.options.seconds), "--ramp", "0", "--yes", "--force", name)
        volume, = json.loads(place.cairn("stats", "-o", "json", name))["volumes"]
        place.cairn("remove", name)
        asked = volume["write" if "fua" in mix else "flush"]["operations"]
        return sum(device["flush"]["operations"] for device in volume["devices"]) / asked

    linear = "0 524288 linear %s 0" % place.file("flushed.img", 256)
    boost = Boost(place, 1024, ",cache=direct")
    for what, table, jobs, mix in (
            ("linear, 1 writer", lambda: linear, 1, "write=50,flush=50"), ("linear, 32 writers", lambda: linear, 32, "write=50,flush=50"),
            ("linear, 32 writers with FUA, for each write", lambda: linear, 32, "fua=100"),
            ("writeboost, 32 writers", boost.format, 32, "write=50,flush=50"),
            ("ssdcache, write-back, 32 writers", lambda: place.ssdcache(256, True)[0] + " writeback", 32, "write=50,flush=50")):
        yield what, place.rounds(lambda: share("flushed", table(), jobs, mix))[0], "x"


def status_of(process):
    return dict(re.findall(r"^(\w+):\s+(\d+)", open("/proc/%d/status" % process).read(), re.M))


@bar("memory of an engine with one linear volume under load, MiB (at most)", -64)
def memory_loaded(place):
    uri, pid = place.volume("one", "0 524288 linear %s 0" % place.file("disk.img", 256))
    place.fio("--ioengine=nbd", "--uri=" + uri, "--rw=randrw", "--bs=4k", "--iodepth=32", "--size=256M")
    yield "largest resident set", [int(status_of(pid)["VmHWM"]) / 1024], "MiB"


@bar("memory of an engine with ten idle volumes, MiB (at most)", -48)
def memory_idle(place):
    for number in range(10):
        pid = place.volume("idle%d" % number, "0 32768 linear %s 0" % place.file("disk%d.img" % number, 16))[1]
    yield "largest resident set", [int(status_of(pid)["VmHWM"]) / 1024], "MiB"


@bar("context switches of an idle engine within 10 s (at most)", -0)
def idle(place):
    pid = place.volume("idle", "0 32768 linear %s 0" % place.file("disk.img", 16))[1]

    def switches():
        return sum(int(re.findall(r"ctxt_switches:\s+(\d+)", open("/proc/%d/task/%s/status" % (pid, task)).read())[0])
                   for task in os.listdir("/proc/%d/task" % pid))
    time.sleep(3)
    before = switches()
    time.sleep(10)
    yield "of all its threads", [switches() - before], ""


# MARK: writeboost

class Boost:
    """A log before a backing, new for each run."""

    def __init__(self, place, mib, words="", backing_mib=None):
        self.place, self.words = place, words
        self.fast, self.slow = place.file("fast.img", mib, cached=False), place.sparse("slow.img", backing_mib or mib)
        self.sectors = (backing_mib or mib) * 2048
        # Writing back is another bar.
        self.table = "0 %d writeboost %s %s%s 2 writeback_threshold 0" % (self.sectors, self.slow, self.fast, words)
        self.alone = "0 %d linear %s%s 0" % (mib * 2048, self.fast, words)

    def format(self):
        self.place.cairn("format-cache", "--target", "writeboost", "--backing", self.slow, "--yes", "--force", self.fast)
        return self.table

    def random(self, table, time=None):
        """MB/s of 4 KiB writes."""
        return self.place.bench("--mix", "write", "--depth", "64", table=table, time=time)["iops"] * 4096 / 1e6

    def sequential(self, time=None):
        """MB/s of 1 MiB writes to the cache's file alone."""
        words = ("--mix", "write", "--depth", "4", "--block", "1M", "--pattern", "sequential")
        return self.place.bench(*words, table=self.alone, time=time)["iops"] * MIB / 1e6


@bar("writeboost: random 4k writes on a device of 266 MB/s, of its sequential 1 MiB writes", 0.974)
def paced(place):
    boost = Boost(place, 1536, ",cache=direct,pace=266M")
    log, sequential = place.rounds(lambda: boost.random(boost.format(), 3), lambda: boost.sequential(3))
    yield "of the sequential rate", ratios(log, sequential), "x"
    yield "through the log", log, "MB/s"
    yield "sequential", sequential, "MB/s"


@bar("writeboost: random 4k writes, unpaced, direct, of what is wanted: min(6, 0.9 x sequential/random) x random", 1)
def unpaced(place):
    # As much as goes into the log in a run: a full one has to be written back.
    boost = Boost(place, 4096, ",cache=direct")
    log, random, sequential = place.rounds(lambda: boost.random(boost.format()), lambda: boost.random(boost.alone), boost.sequential)
    yield "of what is wanted", [a / (min(6, 0.9 * c / b) * b) for a, b, c in zip(log, random, sequential)], "x"
    yield "of the sequential rate (wanted 0.5)", ratios(log, sequential), "x"
    yield "through the log", log, "MB/s"
    yield "random", random, "MB/s"
    yield "sequential", sequential, "MB/s"


@bar("writeboost over NBD: random 4k writes, depth 32, of linear on the same file, direct", 1)
def over_nbd(place):
    boost = Boost(place, 2048, ",cache=direct")

    def run(table):
        uri = place.volume("v", table)[0]
        rate = place.fio("--ioengine=nbd", "--uri=" + uri, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=2G")
        place.cairn("remove", "v")
        return rate
    log, linear = place.rounds(lambda: run(boost.format()), lambda: run(boost.alone))
    yield "of linear", ratios(log, linear), "x"
    yield "through the log", log, "/s"
    yield "linear", linear, "/s"


@bar("writeboost: write+flush by 32 writers, of linear on the same file, direct", 2)
def group_commit(place):
    boost = Boost(place, 2048, ",cache=direct")
    words = ("--jobs", "32", "--mix", "write=50,flush=50")
    log, linear = place.rounds(lambda: place.bench(*words, table=boost.format())["iops"], lambda: place.bench(*words, table=boost.alone)["iops"])
    yield "of linear", ratios(log, linear), "x"
    yield "through the log", log, "/s"
    yield "linear", linear, "/s"


@bar("writeboost: write-back of random blocks to a real file, of the same number of random writes to it at depth 32", None)
def write_back(place):
    boost, count = Boost(place, 512, ",cache=direct", backing_mib=2048), 90000
    place.file("slow.img", 2048, cached=False)
    words = ("--mix", "write", "--depth", "32", "--operations", str(count), "--yes", "--force")

    def drained():
        place.cairn("create", "v", "--table", boost.format())
        place.cairn("bench", *words, "v")
        dirty = int(place.cairn("status", "v").split()[9])
        start = time.monotonic()
        place.cairn("message", "v", "0", "drop_caches")
        while int(re.search(r"drain_left (\d+)", place.cairn("status", "v")).group(1)) > 0:
            time.sleep(0.01)
        rate = dirty / (time.monotonic() - start)
        place.cairn("remove", "v")
        return rate
    log, random = place.rounds(drained, lambda: place.bench(*words[:-2], table="0 %d linear %s%s 0" % (boost.sectors, boost.slow, boost.words))["iops"])
    yield "of the random writes", ratios(log, random), "x"
    yield "write-back, flushed, its log trimmed", log, "blocks/s"
    yield "random writes, not flushed", random, "/s"


def main():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser = argparse.ArgumentParser(description="cairn against the file below it")
    parser.add_argument("--only", default="", help="only bars whose name holds this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--dir", default=None, help="where the files lie")
    parser.add_argument("--cairn", default=os.path.join(top, ".build/release/cairn"))
    options = parser.parse_args()
    print("%s; load before: %.2f; %d rounds; %s s for each measurement.\n" % (machine(), os.getloadavg()[0], options.rounds, options.seconds))
    print("| bar | wanted | measured | median | IQR | min-max | |\n| --- | ---: | --- | ---: | ---: | ---: | --- |")
    for name, wanted, function in BARS:
        if options.only not in name:
            continue
        place = Place(options)
        try:
            for number, (what, values, unit) in enumerate(function(place)):
                middle = statistics.median(values)
                shape = "%.3f" if abs(middle) < 100 else "%.0f"
                verdict = ""
                if number == 0 and wanted is None:
                    verdict = "reported"
                elif number == 0:
                    verdict = "met" if (middle >= wanted if wanted > 0 else middle <= -wanted) else "missed"
                    if unit == "x" and len(values) > 1 and is_noisy(values):
                        verdict += ", noisy"
                print("| %s | %s | %s | %s %s | %s | %s | %s |" % (
                    name if number == 0 else "", "%g" % abs(wanted) if number == 0 and wanted is not None else "", what, shape % middle, unit,
                    "-".join(shape % v for v in quartiles(values)), "-".join(shape % v for v in (min(values), max(values))), verdict),
                    flush=True)
        except RuntimeError as error:
            print("| %s | | | | | | %s |" % (name, str(error).replace("\n", " ")[:300]), flush=True)
        finally:
            place.close()


main()
