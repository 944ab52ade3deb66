"""peers.py [--set quick|full] [--out DIR] [--rounds N] [--seconds S] [--cairn PATH] [--only TEXT]

The same fio jobs (its nbd engine), writes with FUA (fua.py) and nbdcopy in turn against cairn, nbdkit and qemu-nbd. Where fio's client is
the limit, `cairn bench`, which sends and receives many requests with one call, loads the same servers, too. In each round every contestant runs every job
once, right after the others; what counts is the median of the ratios of one round, and where their inter-quartile range is 25 % or more
the table says so and the server's CPU time decides. Writes peers.md and peers.svg to DIR. Its files and sockets live in a directory of
their own, which goes in the end, and it stops only what it started.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from rounds import MIB, Workplace, cpu_of, is_noisy, machine, quartiles  # noqa: E402


class Job:
    """Of fio; with `fua`, that many writes with FUA under way; with `lean`, words for `cairn bench`; with none of them, nbdcopy."""

    def __init__(self, name, fua=0, lean=(), **fio):
        self.name, self.fua, self.lean, self.fio = name, fua, lean, fio


JOBS = [
    Job("randread 4k, depth 1", rw="randread", bs="4k", iodepth=1),
    Job("randwrite 4k, depth 1", rw="randwrite", bs="4k", iodepth=1),
    Job("randread 4k, depth 32", rw="randread", bs="4k", iodepth=32),
    Job("randwrite 4k, depth 32", rw="randwrite", bs="4k", iodepth=32),
    Job("randread 4k, depth 32, 2 connections", rw="randread", bs="4k", iodepth=32, numjobs=2),
    Job("randwrite 4k, depth 32, 2 connections", rw="randwrite", bs="4k", iodepth=32, numjobs=2),
    Job("read 128k, depth 8", rw="read", bs="128k", iodepth=8),
    Job("write 128k, depth 8", rw="write", bs="128k", iodepth=8),
    Job("write+flush 4k, depth 1", rw="randwrite", bs="4k", iodepth=1, fsync=1),
    Job("write+flush 4k, depth 32", rw="randwrite", bs="4k", iodepth=32, fsync=1),
    Job("write FUA 4k, depth 1", fua=1),
    Job("write FUA 4k, depth 32", fua=32),
    Job("nbdcopy from"),
    Job("nbdcopy to"),
    Job("randread 4k, depth 4", rw="randread", bs="4k", iodepth=4),
    Job("randwrite 4k, depth 4", rw="randwrite", bs="4k", iodepth=4),
    *(Job("lean client, rand%s 4k, depth %d" % (kind, depth), lean=("--mix", kind + "=1", "--depth", str(depth)))
      for depth in (4, 32) for kind in ("read", "write")),
]
LEAN = [job.name for job in JOBS if job.lean]
# What a client reaches against a server that does nothing (bench/ClientLimit) stands beside the servers that do something.
LIMIT = "the client's own limit"
LIMIT_OF_HOLES = LIMIT + ", when reads are answered with holes"
LIMIT_OF_SIMPLE = LIMIT + ", with simple replies"
LIMITED = [JOBS[i].name for i in (2, 3, 6, 7)]
NO_COPIES = ("zero", "cache", "threads", "simple", "tcp")  # groups without nbdcopy and flushes
QUICK = {
    "buffered": [j.name for j in JOBS if j.name not in LEAN[:2]],
    "direct": [JOBS[i].name for i in (0, 2, 3)],
    "zero": [JOBS[i].name for i in (0, 2, 3)] + LEAN[2:],
    "cache": [JOBS[i].name for i in (0, 2)],
    "threads": [JOBS[i].name for i in (0, 1, 2, 3)],
    "simple": [JOBS[i].name for i in (2, 4)],
    "tcp": [JOBS[i].name for i in (0, 2, 3, 6)],
}


class Server:
    """A contestant: a process of ours with a socket, or a volume of our engine."""

    def __init__(self, group, name, uri, process):
        self.group, self.name, self.uri, self.process = group, name, uri, process


class Stage(Workplace):
    def __init__(self, options):
        super().__init__(options.cairn, options.dir, "cairn-peers-")
        self.options = options
        self.started, self.servers, self.files = [], [], {}

    def shared(self, group, cached=True):
        """The file on which all of the group work in turn: where a file lies on the disk, and in which pieces its pages are in memory, makes
        more of a difference to writes than who does them."""
        if group not in self.files:
            self.files[group] = self.file(group + ".img", self.options.size, cached)
        return self.files[group]

    def spawn(self, group, name, command, socket, port=None):
        log = open(self.path(socket + ".log"), "wb")
        process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        ready = False
        for _ in range(200):
            ready = listens(port) if port else os.path.exists(self.path(socket))
            if ready or process.poll() is not None:
                break
            time.sleep(0.05)
        if not ready or process.poll() is not None:
            print("peers: %s does not start, and is left out: %s" % (name, open(log.name).read().strip()[:200]), file=sys.stderr)
            return
        uri = "nbd://127.0.0.1:%d" % port if port else "nbd+unix:///?socket=" + self.path(socket)
        self.servers.append(Server(group, name, uri, process.pid))

    def volume(self, group, name, volume, table, engine=(), options=(), port=None):
        self.cairn(*engine, "create", volume, *options, "--table", table)
        uri, process = self.cairn(*engine, "info", "-c", "--noheadings", "-o", "uri,pid", "--separator", " ", volume).split()
        if port:
            uri = self.cairn(*engine, "export", volume, "--nbd", "tcp:127.0.0.1:%d" % port)
        self.servers.append(Server(group, name, uri, int(process)))

    def limit(self, group, name=LIMIT, words=()):
        if not os.path.exists(self.options.limit):
            return print("peers: %s is not there, and %s is left out: make bench builds it" % (self.options.limit, name), file=sys.stderr)
        socket = "limit-%s.sock" % "-".join((group, *words))
        self.spawn(group, name, [os.path.abspath(self.options.limit), self.path(socket), str(self.options.size), *words], socket)

    def begin(self):
        size, sectors = self.options.size, self.options.size * 2048
        groups = self.options.groups
        if "buffered" in groups:
            file = self.shared("buffered")
            self.volume("buffered", "cairn linear", "buffered", "0 %d linear %s 0" % (sectors, file))
            self.spawn("buffered", "nbdkit file", ["nbdkit", "-f", "-U", "kit.sock", "file", file], "kit.sock")
            for aio in ("threads", "io_uring"):
                self.qemu("buffered", "qemu-nbd writeback, " + aio, "writeback", aio)
            self.limit("buffered")
        if "direct" in groups:
            self.volume("direct", "cairn linear", "direct", "0 %d linear %s,cache=direct 0" % (sectors, self.shared("direct", cached=False)))
            for aio in ("threads", "io_uring"):
                self.qemu("direct", "qemu-nbd none, " + aio, "none", aio)
        if "zero" in groups:
            self.volume("zero", "cairn zero", "zero", "0 %d zero" % sectors)
            self.spawn("zero", "nbdkit null", ["nbdkit", "-f", "-U", "null.sock", "null", "%dM" % size], "null.sock")
            self.spawn("zero", "nbdkit memory", ["nbdkit", "-f", "-U", "memory.sock", "memory", "%dM" % size], "memory.sock")
            self.spawn("zero", "qemu-nbd null-co", ["qemu-nbd", "-k", self.path("null-co.sock"), "-t", "-e", "8", "--image-opts",
                                                    "driver=null-co,size=%d" % (size * MIB)], "null-co.sock")
            self.limit("zero")
            self.limit("zero", LIMIT_OF_HOLES, ["holes"])
        if "cache" in groups:
            back = self.file("back.img", size)
            fast = self.file("fast.img", size * 5 // 4 + 64)
            self.cairn("format-cache", "--target", "ssdcache", "--backing", back, "--blocksize", "256", "--yes", fast)
            self.volume("cache", "cairn ssdcache hit", "cache", "0 %d ssdcache %s %s" % (sectors, back, fast))
            self.volume("cache", "cairn linear beside it", "beside", "0 %d linear %s 0" % (sectors, self.file("beside.img", size)))
            # Everything is in the cache once it has been read; twice, for what the first reading left out.
            for _ in range(2):
                self.run(self.servers[-2], Job("warm", rw="read", bs="1M", iodepth=4), whole=True)

        if "threads" in groups:
            self.volume("threads", "cairn linear, threads", "threads", "0 %d linear %s 0" % (sectors, self.shared("threads")),
                        engine=("--engine", "threads"), options=("--io", "threads"))
            self.spawn("threads", "nbdkit file", ["nbdkit", "-f", "-U", "kit2.sock", "file", self.shared("threads")], "kit2.sock")

        if "simple" in groups:
            # Simple replies are received with fewer calls; qemu-nbd cannot be told to give no others.
            self.volume("simple", "cairn linear, simple replies", "simple", "0 %d linear %s 0" % (sectors, self.shared("simple")),
                        engine=("--engine", "simple"), options=("--simple-replies",))
            self.spawn("simple", "nbdkit file, simple replies",
                       ["nbdkit", "--no-sr", "-f", "-U", "kit4.sock", "file", self.shared("simple")], "kit4.sock")
            self.limit("simple", LIMIT_OF_SIMPLE, ["simple"])
        if "tcp" in groups:
            ours, kit, qemu = free_ports(3)
            self.volume("tcp", "cairn linear, TCP", "tcp", "0 %d linear %s 0" % (sectors, self.shared("tcp")), port=ours)
            self.spawn("tcp", "nbdkit file, TCP", ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(kit), "file", self.shared("tcp")],
                       "kit3", kit)
            self.qemu("tcp", "qemu-nbd writeback, io_uring, TCP", "writeback", "io_uring", qemu)

    def qemu(self, group, name, cache, aio, port=None):
        socket = "%s-%s-%s.sock" % (group, cache, aio)
        where = ["-b", "127.0.0.1", "-p", str(port)] if port else ["-k", self.path(socket)]
        image = "driver=raw,file.driver=file,file.locking=off,file.filename=" + self.shared(group)
        self.spawn(group, name, ["qemu-nbd", *where, "-t", "-e", "8", "--cache=" + cache, "--aio=" + aio, "--image-opts", image], socket, port)

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for engine in ("threads", "simple"):
            subprocess.run([self.cairn_path, "--engine", engine, "engine", "stop", "--force"], env=self.environment,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.close()

    def load(self, server, job):
        before = cpu_of(server.process)
        done = self.cairn("bench", server.uri, *job.lean, "--time", str(self.options.seconds), "--yes", "--json")
        result = json.loads(done)["bench"]
        return result["iops"], (cpu_of(server.process) - before) * 1e6 / max(1, result["operations"])

    def run(self, server, job, whole=False):
        """(requests or bytes per second, microseconds of the server's CPU for each request or MiB)"""
        if server.group in self.files:  # what another one left to be written is not this one's work
            with open(self.files[server.group], "rb") as file:
                os.fsync(file.fileno())
        if job.fua:
            return self.write_through(server, job)
        if job.lean:
            return self.load(server, job)
        if not job.fio:
            return self.copy(server, job)
        command = ["fio", "--name=x", "--ioengine=nbd", "--uri=" + server.uri, "--size=%dM" % self.options.size, "--group_reporting",
                   "--output-format=json"] + ["--%s=%s" % item for item in job.fio.items()]
        if not whole:
            command += ["--time_based", "--runtime=%dms" % (self.options.seconds * 1000)]
        before = cpu_of(server.process)
        done = subprocess.run(command, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        used = cpu_of(server.process) - before
        if done.returncode != 0:
            raise RuntimeError("fio against %s, %s: %s" % (server.name, job.name, (done.stderr or done.stdout)[-300:]))
        result = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        requests = sum(result[kind]["total_ios"] for kind in ("read", "write"))
        rate = sum(result[kind]["iops"] for kind in ("read", "write"))
        return rate, used * 1e6 / max(1, requests)

    def write_through(self, server, job):
        before = cpu_of(server.process)
        # Debian's python has libnbd.
        command = ["/usr/bin/python3", os.path.join(HERE, "fua.py"), server.uri, str(job.fua), str(self.options.seconds), str(self.options.size)]
        done = subprocess.run(command, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError("%s against %s: %s" % (job.name, server.name, done.stderr[-300:]))
        answered, elapsed = done.stdout.split()
        return int(answered) / float(elapsed), (cpu_of(server.process) - before) * 1e6 / max(1, int(answered))

    def copy(self, server, job):
        command = ["nbdcopy", "--connections=1"]
        command += [server.uri, "null:"] if job.name.endswith("from") else [self.source(), server.uri]
        before, start = cpu_of(server.process), time.monotonic()
        subprocess.run(command, cwd=self.directory, check=True)
        elapsed, used = time.monotonic() - start, cpu_of(server.process) - before
        return self.options.size / elapsed, used * 1e6 / self.options.size

    def source(self):
        return self.path("source.img") if os.path.exists(self.path("source.img")) else self.file("source.img", self.options.size)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def measure(stage, options):
    """(group, job) -> server -> list of (rate, cpu), one for each round"""
    found, jobs = {}, [j for j in JOBS if options.only in j.name]
    for number in range(options.rounds):
        for group in options.groups:
            servers = [s for s in stage.servers if s.group == group]
            # Each round begins with another one: nobody always comes after the same neighbour.
            servers = servers[number % len(servers):] + servers[:number % len(servers)]
            for job in jobs:
                if options.set == "quick" and job.name not in QUICK[group]:
                    continue
                if group in NO_COPIES and any(word in job.name for word in ("nbdcopy", "flush", "FUA")):
                    continue
                for server in servers:
                    if job.lean and server.name.startswith(LIMIT):
                        continue
                    if server.name == LIMIT and options.set == "quick" and group == "buffered" and job.name not in LIMITED:
                        continue
                    if server.name == LIMIT_OF_HOLES and "read" not in job.name:
                        continue
                    found.setdefault((group, job.name), {}).setdefault(server.name, []).append(stage.run(server, job))
        print("peers: round %d of %d" % (number + 1, options.rounds), file=sys.stderr)
    return found


def compare(results):
    """Of one job: our name, and rows (name, median rate, median cpu, ratios of us to it by round)."""
    ours = next(name for name in results if name.startswith("cairn"))
    rows = []
    for name, values in results.items():
        ratios = [a[0] / b[0] for a, b in zip(results[ours], values)] if name != ours else None
        rows.append((name, statistics.median(v[0] for v in values), statistics.median(v[1] for v in values), ratios))
    return ours, rows


def table(found, options):
    version = lambda *words: subprocess.run(words, stdout=subprocess.PIPE, text=True).stdout.split("\n")[0]
    out = ["# cairn and its peers, set %s" % options.set, "",
           "%s; %s; %s; %s." % (machine(), version("nbdkit", "--version"), version("qemu-nbd", "--version"), version("fio", "--version")),
           "%d rounds, %s s for each job, %d MiB; `python3 bench/peers/peers.py --set %s`." % (
               options.rounds, options.seconds, options.size, options.set), "",
           "Rate: requests per second, of nbdcopy MiB per second; median. Ratio: cairn's rate to this one's in the same round, median and",
           "inter-quartile range; \"noisy\" where the range is 25 % of the median or more, and CPU decides. CPU: the server's, for each",
           "request or MiB, median.", ""]
    for group in options.groups:
        keys = [key for key in found if key[0] == group]
        if not keys:
            continue
        out += ["## " + group, "", "| job | server | rate | CPU us | cairn is | IQR | cairn's CPU is |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
        for key in keys:
            ours, rows = compare(found[key])
            own = next(row for row in rows if row[0] == ours)
            for name, rate, used, ratios in rows:
                line = "| %s | %s | %.0f | %.1f |" % (key[1] if name == ours else "", name, rate, used)
                if ratios:
                    low, high = quartiles(ratios)
                    middle = statistics.median(ratios)
                    noisy = " noisy" if is_noisy(ratios) else ""
                    line += " %.2f | %.2f-%.2f%s | %s |" % (middle, low, high, noisy, "%.2f" % (own[2] / used) if used else "")
                else:
                    line += " | | |"
                out.append(line)
        out.append("")
    return "\n".join(out)


def plot(found):
    """Bars of the ratio to the best peer of each job; a line at 1."""
    bars = []
    for (group, job), results in found.items():
        _, rows = compare(results)
        peers = [row for row in rows if row[3] and not row[0].startswith(LIMIT)]
        if peers:
            best = max(peers, key=lambda row: row[1])
            bars.append(("%s: %s" % (group, job), statistics.median(best[3]), quartiles(best[3]), best[0]))
    if not bars:
        return "<svg xmlns='http://www.w3.org/2000/svg'/>"
    left, width, step = 330, 420, 22
    scale = width / max(2.0, max(bar[2][1] for bar in bars) * 1.05)
    height = step * len(bars) + 60
    out = ["<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' font-family='sans-serif' font-size='12'>" % (left + width + 190, height),
           "<rect width='100%' height='100%' fill='white'/>",
           "<text x='10' y='20' font-size='14'>cairn's rate, as a multiple of the best peer's in the same round (median, quartiles)</text>"]
    for i, (name, middle, (low, high), peer) in enumerate(bars):
        y = 40 + i * step
        out += ["<text x='%d' y='%d' text-anchor='end'>%s</text>" % (left - 8, y + 12, name),
                "<rect x='%d' y='%d' width='%.1f' height='14' fill='%s'/>" % (left, y, middle * scale, "#3a7" if middle >= 1 else "#c66"),
                "<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='black'/>" % (left + low * scale, left + high * scale, y + 7, y + 7),
                "<text x='%.1f' y='%d'>%.2f of %s</text>" % (left + max(middle, high) * scale + 6, y + 12, middle, peer)]
    x = left + scale
    out += ["<line x1='%.1f' x2='%.1f' y1='32' y2='%d' stroke='gray' stroke-dasharray='4 3'/>" % (x, x, height - 16), "</svg>"]
    return "\n".join(out)


def main():
    top = os.path.join(HERE, "../..")
    parser = argparse.ArgumentParser(description="cairn against nbdkit and qemu-nbd")
    parser.add_argument("--set", choices=["quick", "full"], default="quick")
    parser.add_argument("--out", default=os.path.join(top, ".build/peers"))
    parser.add_argument("--dir", default=None, help="where the files of the contestants lie")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--size", type=int, default=256, help="MiB of each contestant's file")
    parser.add_argument("--groups", default="buffered,direct,zero,cache,threads,simple,tcp")
    parser.add_argument("--only", default="", help="only jobs whose name holds this")
    parser.add_argument("--cairn", default=os.path.join(top, ".build/release/cairn"))
    parser.add_argument("--limit", default=os.path.join(top, ".build/release/client-limit"), help="the server that does nothing")
    options = parser.parse_args()
    options.groups = options.groups.split(",")
    options.rounds = options.rounds or (7 if options.set == "quick" else 9)
    options.seconds = options.seconds or (0.6 if options.set == "quick" else 3)
    os.makedirs(options.out, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stage = Stage(options)
    try:
        stage.begin()
        found = measure(stage, options)
    finally:
        stage.end()
    text = table(found, options)
    open(os.path.join(options.out, "peers.md"), "w").write(text + "\n")
    open(os.path.join(options.out, "peers.svg"), "w").write(plot(found) + "\n")
    print(text)


main()
