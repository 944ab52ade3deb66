"""The table of errors: errors.py CAIRN TABLE [--rewrite]. Runs each command line of the table in a private directory and compares
exit status and sentences, word for word.

    @ NAME        a new directory without an engine; what follows belongs to it
    ! COMMAND     preparation; must succeed
    $ COMMAND     a row: what is tried. Then its answer:
    = STATUS      the exit status
    | LINE        each line of what it says, on either descriptor

In the answers <dir> is the directory, <uuid> any uuid, <pid> any process, <usage> the usage text. A refused command is to
say what, where, why and, behind that, what to do. With --rewrite the answers are written as they are now; read the difference.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile


def answer(command, directory, environment):
    done = subprocess.run(
        ["bash", "-c", 'cairn() { "$CAIRN" "$@"; }\n' + command], cwd=directory, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    text = done.stdout.decode(errors="replace").replace(directory, "<dir>").replace(environment["CAIRN"], "<cairn>")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>", text)
    text = re.sub(r"(process|pid) [0-9]+", r"\1 <pid>", text)
    text = re.sub(r"Usage:\n.*see also cairn\(8\)\.\n", "<usage>\n", text, flags=re.S)
    text = "".join(c if c >= " " or c == "\n" else "\\x%02x" % ord(c) for c in text.replace("\t", " "))
    return ["= %d" % done.returncode] + ["| " + line for line in text.splitlines()]


def main():
    cairn, table = os.path.abspath(sys.argv[1]), sys.argv[2]
    rewrite = "--rewrite" in sys.argv
    lines = open(table).read().splitlines()
    out, rows, wrong, directory, environment = [], 0, 0, None, None
    root = tempfile.mkdtemp(dir=os.getcwd())

    def stop():
        if directory:
            subprocess.run([cairn, "engine", "stop", "--force"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    at = 0
    try:
        while at < len(lines):
            line = lines[at]
            at += 1
            out.append(line)
            if line.startswith("@ "):
                stop()
                directory = os.path.join(root, line[2:])
                environment = dict(os.environ, CAIRN=cairn, CAIRN_RUNTIME_DIR=directory + "/rt", CAIRN_STATE_DIR=directory + "/st")
                os.mkdir(directory)
                for name in ("rt", "st"):
                    os.mkdir(directory + "/" + name, 0o700)
            elif line.startswith("! "):
                got = answer(line[2:], directory, environment)
                if got[0] != "= 0":
                    sys.exit("preparation failed: %s\n%s" % (line, "\n".join(got)))
            elif line.startswith("$ "):
                rows += 1
                wanted = []
                while at < len(lines) and lines[at][:1] in "=|" and lines[at]:
                    wanted.append(lines[at])
                    at += 1
                got = answer(line[2:], directory, environment)
                out += got
                if got != wanted and not rewrite:
                    wrong += 1
                    print("%s\n  expected\n    %s\n  got\n    %s" % (line, "\n    ".join(wanted), "\n    ".join(got)))
    finally:
        stop()
        shutil.rmtree(root, ignore_errors=True)
    if rewrite:
        open(table, "w").write("\n".join(out) + "\n")
    print("%d rows, %d wrong" % (rows, wrong))
    sys.exit(1 if wrong or rows < 80 else 0)


main()
