"""examples.py PAGE: prints the commands of a manual page's EXAMPLES as one shell script that stops at the first that fails."""

import sys

section = open(sys.argv[1]).read().split("\n.Sh EXAMPLES\n")[1].split("\n.Sh ")[0]
inside, count = False, 0
print("set -e\nset -o pipefail")
for line in section.split("\n"):
    if line.startswith((".Bd", ".Ed")):
        inside = line.startswith(".Bd")
    elif line.startswith(".Dl ") or inside:
        line = line.removeprefix(".Dl ") if not inside else line
        command = line.replace("\\(dq", '"').replace("\\e", "\\").replace("\\&", "")
        print(command)
        count += 1
sys.exit(0 if count else 1)
