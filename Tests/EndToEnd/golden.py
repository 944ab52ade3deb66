#!/usr/bin/python3
"""Replays Fixtures/dm-golden.txt (what the real kernel and dmsetup print) against cairn, exchange by exchange.

Needs root: the disks are loop devices over sparse files. Before comparing, the capture's device numbers and kernel names are
put into ours (253 -> 512, 254:16 -> 7:N, vdb -> loopN). Standard output must be the same to the byte. A line of standard
error must be the same, or the same followed by ": reason" and then a line with a hint; where the kernel log tells
the reason, its text must be there.
DIFFERENT below lists every exchange where cairn means to answer otherwise, with the reason; an entry that no longer differs
is an error too. Usage: golden.py CAIRN (in an empty directory, CAIRN_RUNTIME_DIR and CAIRN_STATE_DIR set)."""
import os
import re
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CAIRN = sys.argv[1]

# Command -> (why ours differs, what puts the state back to the capture's).
DIFFERENT = {
    "version": ("our own version lines", []),
    "--version": ("our own version lines", []),
    "targets": ("our own list of targets", []),
    "create linuuid -u FIX-0123456789 --table '0 8 linear lin 16'":
        ("a word without / names a volume first", ["remove", "linuuid"]),
    "udevcookies": ("nothing waits for udev", []),
    "setgeometry lin 16 16 32 0": ("volumes have no cylinders", []),
    "setgeometry lin 16 16 32 x": ("volumes have no cylinders", []),
    "setgeometry nosuch 1 1 1 0": ("volumes have no cylinders", []),
    "setgeometry lin 1": ("volumes have no cylinders", []),
    "mknodes nosuch": ("there are no nodes", []),
    "measure c1": ("there is no IMA log of a user-space volume", []),
    "info lin3": ("dmsetup's complaint about the missing node", []),
    "create x --table '0 8 linear /bin/busybox 0'": ("a regular file is a device of ours", ["remove", "x"]),
}


class Exchange:
    def __init__(self, command, section):
        self.command, self.section = command, section
        self.stdin, self.out, self.err, self.log, self.status, self.cut = None, "", [], [], None, False


def parse(text):
    """Yields Exchanges and ("%", words) steps in order."""
    current, section, heredoc = None, "", None
    for line in text.split("\n"):
        if heredoc is not None:
            if line == "EOF":
                heredoc = None
            else:
                current.stdin += line + "\n"
        elif line.startswith("################ "):
            section = line[17:]
        elif line.startswith("$ "):
            command = line[2:]
            current = Exchange(command, section)
            if command.endswith(" <<EOF"):
                current.command, current.stdin, heredoc = command[:-6], "", True
        elif line.startswith("1| "):
            current.out += line[3:] + "\n"
        elif line.startswith("2| "):
            current.err.append(line[3:])
        elif line.startswith("k| "):
            current.log.append(line[3:])
        elif line.startswith("[the rest of the usage"):
            current.cut = True
        elif line.startswith("rc="):
            current.status = int(line[3:])
            yield current
            current = None
        elif line.startswith("% "):
            yield ("%", line[2:].split())


class World:
    def __init__(self):
        self.loops, self.client = {}, None
        for letter in "bcdefgh":
            path = os.path.abspath(f"vd{letter}")
            with open(path, "wb") as file:
                file.truncate(131072 * 512)
            self.loops[letter] = subprocess.run(["losetup", "-f", "--show", path], check=True, text=True,
                                                capture_output=True).stdout.strip()

    def close(self):
        self.let_go()
        subprocess.run([CAIRN, "engine", "stop", "--force"], capture_output=True)
        for loop in self.loops.values():
            subprocess.run(["losetup", "-d", loop])

    def number(self, letter):
        status = os.stat(self.loops[letter])
        return os.major(status.st_rdev), os.minor(status.st_rdev)

    def ours(self, text):
        """The capture's text with our names and numbers."""
        text = re.sub(r"/dev/vd([b-h])", lambda m: self.loops[m[1]], text)
        text = re.sub(r"\bvd([b-h])\b", lambda m: os.path.basename(self.loops[m[1]]), text)
        for letter in self.loops:
            theirs = (ord(letter) - ord("a")) * 16
            major, minor = self.number(letter)
            text = re.sub(rf"\b254(:|, ){theirs}\b", rf"{major}\g<1>{minor}", text)
        return re.sub(r"\b253(:|, | +|:)(?=\d)", r"512\1", text)

    def let_go(self):
        if self.client is not None:
            self.client.shutdown()
            self.client = None

    def run(self, words, stdin):
        return subprocess.run(["cairn"] + words, executable=CAIRN, text=True, capture_output=True, input=stdin,
                              env=dict(os.environ, LC_ALL="C"))

    def step(self, words):
        if words == ["new", "engine"]:
            subprocess.run([CAIRN, "engine", "stop", "--force"], check=True)
        elif words[0] == "remove":
            subprocess.run([CAIRN, "remove"] + words[1:], check=True)
        elif words[0] == "open":
            import nbd
            self.client = nbd.NBD()
            uri = subprocess.run([CAIRN, "info", "-c", "--noheadings", "-o", "uri", words[1]], check=True, text=True,
                                 capture_output=True).stdout.strip()
            self.client.connect_uri(uri)
        elif words == ["close"]:
            self.let_go()


def loose(text):
    """Runs of blanks as one: column widths follow our longer or shorter numbers."""
    return re.sub(r"[ \t]+", " ", text)


def compare(world, exchange, run):
    """A list of what differs."""
    problems = []
    expected = world.ours(exchange.out)
    if run.stdout != expected and not (" -c" in exchange.command and loose(run.stdout) == loose(expected)):
        problems.append(f"stdout, expected:\n{expected}got:\n{run.stdout}")
    if run.returncode != exchange.status:
        problems.append(f"exit {run.returncode}, expected {exchange.status}")
    got = run.stderr.split("\n")[:-1]
    wanted = [world.ours(line).replace("dmsetup:", "cairn:") for line in exchange.err]
    if exchange.cut:
        got = got[:len(wanted)]
    if len(got) == len(wanted) + 1 >= 3 and ": " in got[-3]:
        del got[-2]  # the hint that follows a reason
    if len(got) != len(wanted) or not all(g == w or g.startswith(w + ": ") for g, w in zip(got, wanted)):
        problems.append("stderr, expected:\n" + "\n".join(wanted) + "\ngot:\n" + "\n".join(got))
    for line in exchange.log:
        reason = re.match(r"device-mapper: table: \d+:\d+: (?:\w+: )?(.*?)(?: \(-E\w+\))?$", line)
        if reason and world.ours(reason[1]) not in run.stderr and "unknown target type" not in line:
            problems.append(f"the reason <{world.ours(reason[1])}> is not in: {run.stderr}")
    return problems


def main():
    world, failed, same, used = World(), 0, 0, set()
    try:
        text = open(os.path.join(HERE, "../Fixtures/dm-golden.txt"), encoding="utf-8").read()
        for exchange in parse(text):
            if isinstance(exchange, tuple):
                world.step(exchange[1])
                continue
            words = shlex.split(world.ours(exchange.command))
            if words[0] != "dmsetup":
                continue
            problems = compare(world, exchange, world.run(words[1:], world.ours(exchange.stdin or "")))
            key = exchange.command[8:]
            if key in DIFFERENT:
                used.add(key)
                if not problems:
                    problems = ["it is said to differ, but does not"]
                else:
                    if DIFFERENT[key][1]:
                        world.run(DIFFERENT[key][1], "")
                    continue
            if problems:
                failed += 1
                print(f"[{exchange.section}] {exchange.command}\n" + "\n".join(problems) + "\n")
            else:
                same += 1
    finally:
        world.close()
    for key in sorted(set(DIFFERENT) - used):
        failed += 1
        print(f"DIFFERENT names <{key}>, which is not in the capture")
    print(f"{same} exchanges the same, {len(used)} meant to differ, {failed} wrong")
    return 1 if failed or same == 0 else 0


sys.exit(main())
