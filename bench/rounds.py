"""What all benchmarks against others share: paired rounds, medians, quartiles, and a stage whose files and processes go in the end."""

import os
import shutil
import statistics
import subprocess
import tempfile

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def quartiles(values):
    if len(values) < 2:
        return values[0], values[0]
    q = statistics.quantiles(values, n=4, method="inclusive")
    return q[0], q[2]


def is_noisy(ratios):
    low, high = quartiles(ratios)
    return (high - low) / statistics.median(ratios) >= 0.25


def cpu_of(process):
    """Seconds of user and system time, of all its threads."""
    words = open("/proc/%d/stat" % process).read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICK


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return "%s, %d CPUs, Linux %s" % (cpu, os.cpu_count(), os.uname().release)


class Workplace:
    """A directory of its own with an engine of its own."""

    def __init__(self, cairn, parent, prefix):
        self.cairn_path = os.path.abspath(cairn)
        self.directory = tempfile.mkdtemp(prefix=prefix, dir=parent)
        self.environment = dict(os.environ, CAIRN_RUNTIME_DIR=self.path("rt"), CAIRN_STATE_DIR=self.path("st"))
        for name in ("rt", "st"):
            os.mkdir(self.path(name), 0o700)
        self.content = os.urandom(MIB)

    def path(self, name):
        return os.path.join(self.directory, name)

    def cairn(self, *words):
        done = subprocess.run([self.cairn_path, *words], env=self.environment, cwd=self.directory, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError("cairn %s: %s" % (" ".join(words), done.stderr + done.stdout))
        return done.stdout.strip()

    def file(self, name, mib, cached=True):
        """Data in every block, so that nobody reads holes; in the page cache, too, or not: the first direct write to what is there has to
        drop it, which is slower than the write."""
        with open(self.path(name), "wb") as out:
            for _ in range(mib):
                out.write(self.content)
            out.flush()
            os.fsync(out.fileno())
            if not cached:
                os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return self.path(name)

    def sparse(self, name, mib):
        with open(self.path(name), "wb") as out:
            out.truncate(mib * MIB)
        return self.path(name)

    def close(self):
        subprocess.run([self.cairn_path, "engine", "stop", "--force"], env=self.environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        shutil.rmtree(self.directory, ignore_errors=True)
