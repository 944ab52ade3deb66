#!/usr/bin/env bash
# Rules of the tree that no compiler checks. Prints what breaks them; exit 1 when something does.
cd "$(dirname "$0")/.." || exit 1
bad=0
complain() { echo "tidy: $1"; bad=1; }
for module in CairnCore CairnFormats CairnTargets CairnEngine CairnSim CairnExport CairnOffline; do
    found=$(grep -rlE '^ *((public|package|internal) )?import (Glibc|Foundation|Dispatch|CCairn|CBlkid|CairnIO)' "Sources/$module") && complain "an operating system is imported in: $found"
done
found=$(grep -rlE '^ *((public|package|internal) )?import Foundation' Sources) && complain "Foundation is imported in: $found"
found=$(grep -rnE 'TODO|FIXME|XXX|not implemented' Sources | head -5); [ -n "$found" ] && complain "unfinished: $found"
found=$(find Sources -name '*.swift' -exec wc -l {} + | awk '$2 != "total" && $1 > 650 {print $2 " (" $1 " lines)"}'); [ -n "$found" ] && complain "too long: $found"
for verb in $(sed -n 's/^        case \(".*"\): try.*/\1/p' Sources/cairn/main.swift | tr -d '",'); do
    grep -q "$verb" man/cairn.8 || complain "man/cairn.8 does not name $verb"
done
if command -v swift > /dev/null; then
    found=$(swift format lint --strict --recursive Sources Tests bench Package.swift 2>&1 | head -5); [ -n "$found" ] && complain "make format: $found"
fi
exit $bad
