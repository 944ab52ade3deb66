#!/usr/bin/python3
"""`cairn top` on a pseudo terminal: keys, a resize, ^Z's neighbours and the end. Usage: top.py CAIRN"""
import fcntl, os, pty, re, select, signal, struct, subprocess, sys, termios, time

cairn = sys.argv[1]


def start(columns=100, rows=20):
    master, slave = pty.openpty()
    resize(master, columns, rows)
    before = termios.tcgetattr(slave)
    process = subprocess.Popen([cairn, "top", "-d", "0.3"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    return master, slave, before, process


def resize(master, columns, rows):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def frame(master, wanted, seconds=5):
    """The lines of the first whole screen that has `wanted` in it, without escapes."""
    end, data = time.time() + seconds, b""
    while time.time() < end:
        if select.select([master], [], [], 0.1)[0]:
            data += os.read(master, 65536)
        for screen in data.split(b"\x1b[H")[1:]:
            if not screen.endswith(b"\x1b[J") and b"\x1b[J" not in screen:
                continue
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.split(b"\x1b[J")[0].decode())
            lines = re.split(r"\r+\n", text)
            if wanted(lines):
                return lines
    sys.exit(f"no such screen; last: {data[-2000:]!r}")


def rest(master, seconds=3):
    end, data = time.time() + seconds, b""
    while time.time() < end:
        if not select.select([master], [], [], 0.2)[0]:
            break
        data += os.read(master, 65536)
    return data


def row(lines, name):
    return next((i for i, line in enumerate(lines) if line.startswith(name + " ")), -1)


def ends(master, slave, before, process, status):
    process.wait(5)
    assert process.returncode == status, process.returncode
    data = rest(master)
    assert b"\x1b[?1049l" in data and b"\x1b[?25h" in data, data
    assert termios.tcgetattr(slave) == before, "the terminal is not as it was"
    os.close(slave)
    os.close(master)


master, slave, before, process = start()
lines = frame(master, lambda l: row(l, "disk") > 0 and "by iops" in l[2])
assert row(lines, "disk") < row(lines, "still") and max(map(len, lines)) <= 100, lines
assert not termios.tcgetattr(slave)[3] & termios.ECHO
os.write(master, b"n")
frame(master, lambda l: "by name" in l[2])
os.write(master, b"r")
lines = frame(master, lambda l: "reversed" in l[2])
assert row(lines, "still") < row(lines, "disk"), lines
os.write(master, b"?")
frame(master, lambda l: any("hit rate" in x for x in l))
os.write(master, b"+")
frame(master, lambda l: "every 0.600 s" in l[2])
resize(master, 44, 6)
lines = frame(master, lambda l: max(map(len, l)) <= 44 and len(l) <= 6)
os.write(master, b"\x1b[B\x1b[Ax")  # arrows and an unknown key do no harm
frame(master, lambda l: "every" in l[2])
os.write(master, b"q")
ends(master, slave, before, process, 0)

# ^C and SIGTERM leave the terminal as it was, too.
for stop in (lambda m, p: os.write(m, b"\x03"), lambda m, p: p.send_signal(signal.SIGTERM)):
    master, slave, before, process = start()
    frame(master, lambda l: row(l, "disk") > 0)
    stop(master, process)
    ends(master, slave, before, process, 0)

# A terminal that goes away ends it.
master, slave, before, process = start()
frame(master, lambda l: row(l, "disk") > 0)
os.close(slave)
os.close(master)
process.wait(5)
