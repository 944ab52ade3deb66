#!/usr/bin/python3
"""Completion in a real shell on a pseudo terminal: types a line with tabs, and looks at the words that the command gets.
Usage: completions.py SHELL CAIRN COMPLETIONS DIRECTORY"""
import os, pty, select, shutil, subprocess, sys, time

shell, cairn, completions, directory = sys.argv[1:]
home = f"{directory}/home-{shell}"
os.makedirs(f"{home}/bin")
typed = f"{home}/typed"
# A command of that name that writes down what it was given, and completes as the real one does.
with open(f"{home}/bin/cairn", "w") as file:
    file.write(f"""#!/bin/bash
if [ "$1" = __complete ]; then {cairn} "$@"; echo >> {home}/asked; exit; fi
printf '%s\\n' "$@" END > {typed}.new && mv {typed}.new {typed}
""")
os.chmod(f"{home}/bin/cairn", 0o755)
environment = {
    "PATH": f"{home}/bin:" + os.environ["PATH"], "HOME": home, "TERM": "xterm", "LC_ALL": "C.UTF-8",
    "CAIRN_RUNTIME_DIR": os.environ["CAIRN_RUNTIME_DIR"], "XDG_DATA_HOME": f"{home}/data", "XDG_CONFIG_HOME": f"{home}/config",
}
system = "/usr/share/bash-completion/bash_completion"
if shell == "bash":
    command = ["bash", "--norc", "--noprofile", "-i"]
    if os.path.exists(system):  # the way of an installed file
        os.makedirs(f"{home}/data/bash-completion/completions")
        shutil.copy(f"{completions}/cairn.bash", f"{home}/data/bash-completion/completions/cairn")
        setup = f"source {system}"
    else:
        setup = f"source {completions}/cairn.bash"
elif shell == "zsh":
    command = ["zsh", "-f", "-i"]
    os.makedirs(f"{home}/functions")
    shutil.copy(f"{completions}/_cairn", f"{home}/functions")
    setup = f"fpath=({home}/functions $fpath); autoload -Uz compinit; compinit -u -d {home}/dump"
else:
    command = ["fish", "-i"]
    os.makedirs(f"{home}/config/fish/completions")
    shutil.copy(f"{completions}/cairn.fish", f"{home}/config/fish/completions")
    setup = "set fish_greeting"

master, slave = pty.openpty()
process = subprocess.Popen(
    command, stdin=slave, stdout=slave, stderr=slave, cwd=directory, env=environment, start_new_session=True,
    preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
os.close(slave)
seen = b""


def settle(quiet=0.4, most=5):
    """Until the shell has said nothing for a while."""
    global seen
    end = time.time() + most
    while time.time() < end and select.select([master], [], [], quiet)[0]:
        seen += os.read(master, 65536)


def asked():
    """How often a shell has asked for completions so far."""
    return os.path.getsize(f"{home}/asked") if os.path.exists(f"{home}/asked") else 0


def line(text):
    """Types `text`; behind each tab it waits for the shell. The words that the command got."""
    if os.path.exists(typed):
        os.unlink(typed)
    for part in text.replace("\t", "\t\0").split("\0"):
        before, end = asked(), time.time() + 10
        os.write(master, part.encode())
        while part.endswith("\t") and asked() == before and time.time() < end:
            settle(0.05, 0.1)
        settle()
    os.write(master, b"\r")
    end = time.time() + 5
    while time.time() < end:
        settle(0.1, 0.2)
        if os.path.exists(typed):
            return open(typed).read().split("\n")[:-2]
    sys.exit(f"{shell}: no command came of {text!r}: {seen[-1500:]!r}")


settle(1)
os.write(master, (setup + "\r").encode())
settle(1)
cases = [
    ("cairn susp\t fast", ["suspend", "fast"]),  # verbs
    ("cairn remove fa\t", ["remove", "fast"]),  # volumes of the running engine
    ("cairn remove we\t", ["remove", "we ird"]),
    ("cairn remove co:l\t", ["remove", "co:lon"]),
    ("cairn remove --engine nope fa\t", ["remove", "--engine", "nope", "fa"]),
    ("cairn status --target ssd\t", ["status", "--target", "ssdcache"]),  # targets
    ("cairn status --target=ssd\t", ["status", "--target=ssdcache"]),
    ("cairn ls -o dirty_sh\t", ["ls", "-o", "dirty_share"]),  # columns
    ("cairn ls -o name,dirty_sh\t", ["ls", "-o", "name,dirty_share"]),
    ("cairn ls --reportf\t js\t", ["ls", "--reportformat", "json"]),  # options
    ("cairn message fast 0 drop\t", ["message", "fast", "0", "drop_clean"]),  # messages
    ("cairn message fa\t 0 pol\t lf\t", ["message", "fast", "0", "policy", "lfu"]),
    ("cairn load fast tab\t", ["load", "fast", "table.txt"]),  # files
    ("cairn engine sta\t", ["engine", "status"]),
]
wrong = []
for text, expected in cases:
    words = [word for word in line(text) if word != ""]
    if words != expected:
        wrong.append(f"{shell}: {text!r} came out as {words}")
os.write(master, b"exit\r")
try:
    process.wait(3)
except subprocess.TimeoutExpired:
    process.kill()
sys.exit("\n".join(wrong) or 0)
