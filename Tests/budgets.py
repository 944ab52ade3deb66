"""budgets.py [--rewrite] [BUILD]: what a request costs on each way through the engine, in instructions and in allocations, against
Tests/budgets.txt. BUILD holds path-cost and libCAllocations.so (.build/release). Ends with "N passed, N failed".

A path may cost 5 % more instructions than its budget, and no allocation more. Whoever makes a path dearer, or cheaper by more than
5 %, changes its budget in the same commit: --rewrite does. The bar is what the issue asks for; where it is not met, the number stands
beside it and counts as passed."""

import glob
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "budgets.txt")
ALLOWED = 1.05
words = [w for w in sys.argv[1:] if not w.startswith("--")]
build = os.path.abspath(words[0] if words else os.path.join(HERE, "../.build/release"))


def fail(text):
    print("budgets: " + text)
    print("0 passed, 1 failed")
    sys.exit(1)


def run(command, **environment):
    # Swift's hashes have a seed for each process, which would move where things land.
    done = subprocess.run(
        command, env=dict(os.environ, SWIFT_DETERMINISTIC_HASHING="1", **environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=300)
    if done.returncode != 0:
        fail("%s: exit %d: %s" % (" ".join(command), done.returncode, done.stdout[-500:]))
    return done.stdout


def measure(directory):
    """(path, batch) -> [instructions, allocations] of one request, as numbers."""
    costs = {}
    # Swift's debug information is more than this valgrind reads.
    program = directory + "/path-cost"
    run(["strip", "-g", "-o", program, build + "/path-cost"])
    run(["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=%s/out" % directory, program, "instructions"])
    for path in glob.glob(directory + "/out.*"):
        name, total = None, None
        for line in open(path):
            if line.startswith("desc: Trigger: Client Request: "):
                name = line.split(": ", 3)[3].split()
            elif line.startswith(("summary:", "totals:")):
                total = int(line.split()[1])
        if name:
            costs[name[0], int(name[1])] = [total, None]
    for line in run([build + "/path-cost", "allocations"], LD_PRELOAD=build + "/libCAllocations.so").splitlines():
        name, batch, requests, count = line.split()
        if (name, int(batch)) not in costs:
            fail("%s %s was not counted by callgrind" % (name, batch))
        cost = costs[name, int(batch)]
        cost[0] = cost[0] / int(requests)
        cost[1] = int(count) / int(requests)
    return costs


def read_table():
    rows = {}
    for line in open(TABLE):
        words = line.split("#")[0].split()
        if words:
            rows[words[0], int(words[1])] = (float(words[2]), float(words[3]))
    return rows


def write_table(costs):
    head = [line for line in open(TABLE) if line.startswith("#")]
    with open(TABLE, "w") as out:
        out.writelines(head)
        for name, batch in sorted(costs):
            instructions, allocations = costs[name, batch]
            bar = "" if allocations == 0 or name.startswith("nbd") else "   # bar: 0 allocations"
            out.write("%-22s %5d %13.0f %11.4f%s\n" % (name, batch, instructions, allocations, bar))


for program in ("path-cost", "libCAllocations.so"):
    if not os.path.exists(build + "/" + program):
        fail("%s/%s is missing: make bench-tools builds it" % (build, program))
with tempfile.TemporaryDirectory() as directory:
    costs = measure(directory)
if "--rewrite" in sys.argv:
    write_table(costs)
    sys.exit(0)
rows, failed = read_table(), 0
for key in sorted(set(rows) | set(costs)):
    what = "%s, batches of %d" % key
    if key not in rows or key not in costs:
        print("budgets: %s: %s" % (what, "it has no budget" if key in costs else "there is no such path any more"))
        failed += 1
        continue
    (allowed, most), (cost, allocations) = rows[key], costs[key]
    if cost > allowed * ALLOWED:
        print("budgets: %s: %.0f instructions for each request, %.0f is its budget" % (what, cost, allowed))
        failed += 1
    elif allocations > most:
        print("budgets: %s: %.4f allocations for each request, %.4f is its budget" % (what, allocations, most))
        failed += 1
    elif cost * ALLOWED < allowed:
        print("budgets: %s: %.0f instructions, its budget of %.0f can be lowered" % (what, cost, allowed))
print("%d passed, %d failed" % (len(rows) - failed, failed))
sys.exit(1 if failed else 0)
