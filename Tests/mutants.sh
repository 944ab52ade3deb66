#!/usr/bin/env bash
# Every deliberate bug of Sources/CairnCore/Mutants.swift must be found by the storm: within MUTANT_SEEDS seeds, or else by the crashes
# at every point of all workloads of two operations. A process each, for a bug may well end it: that counts as found. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/.."
swift build -c release -Xswiftc -DMUTANTS --scratch-path .build-mutants --product cairn-storm > /dev/null 2> .build-mutants.log ||
    { cat .build-mutants.log; echo "0 passed, 1 failed"; exit 1; }
rm -f .build-mutants.log
storm=.build-mutants/release/cairn-storm
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
hunt() {
    # storm, mutant, seeds, where the results go, target of the crashes at every point
    timeout 300 "$1" --mutant "$2" --count "$3" > "$4/$2" 2>&1
    local status=$? start
    if [ $status = 1 ]; then
        start=$(date +%s.%N)
        timeout 100 "$1" --every-point --target "$5" --length 2 --mutant "$2" > "$4/$2.points" 2>&1
        if [ $? = 1 ] && grep -q '^VIOLATION' "$4/$2.points"; then
            echo "| $2 | $5, every point | not in $3 | $(echo "$(date +%s.%N) $start" | awk '{print $1 - $2}') seconds |" \
                "$(grep -m 1 -A 1 '^VIOLATION' "$4/$2.points" | tail -1 | sed 's/^ *//') |" > "$4/$2"
        fi
        rm -f "$4/$2.points"
    fi
    case $status in 0 | 1) ;; 124) echo "$2: NOT FOUND in 300 s" > "$4/$2" ;; *) echo "| $2 | | | | the engine stopped at once: a check of its own |" > "$4/$2" ;; esac
}
export -f hunt
names=$("$storm" --mutants)
echo "$names" | xargs -P 2 -n 2 bash -c 'hunt "$1" "$4" "$2" "$3" "$5"' _ "$storm" "${MUTANT_SEEDS:-200}" "$results"
echo "| deliberate bug | found by | seeds | time | as |"
echo "| --- | --- | --- | --- | --- |"
for name in $(echo "$names" | cut -d" " -f1); do tail -1 "$results/$name"; done
missed=$(cat "$results"/* | grep -c "NOT FOUND")
# None of them is in the product: only a build with MUTANTS has the switch.
product=${CAIRN:-.build/release/cairn}
if [ -e "$product" ] && nm -a "$product" 2> /dev/null | grep -q 'Mutant.*active'; then echo "$product has the mutants' switch"; missed=$((missed + 1)); fi
echo "$(($(echo "$names" | wc -l) - missed)) passed, $missed failed"
[ "$missed" -eq 0 ]
