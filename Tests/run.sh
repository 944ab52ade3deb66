#!/usr/bin/env bash
# All tests: Swift Testing in debug, a short run of the fuzzers, deliberate bugs that the storm must find, the end-to-end suite on
# the release binary, then what a request may cost. Ends with "N passed, N failed", counted from what the runners printed.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 summary=""
# counted NAME: the runner's last line is "N passed, N failed".
counted() {
    local p f skipped
    read -r p f <<< "$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1 | sed 's/ passed, / /; s/ failed.*//')"
    add "$1" "${p:-0}" "${f:-1}"
    skipped=$(sed -n "s/^$1: skipped: \(.*\)/\1/p" "$log")
    [ -z "$skipped" ] || summary="$summary (skipped: $skipped)"
}
add() {
    passed=$((passed + $2)) failed=$((failed + $3))
    summary="${summary:+$summary; }$1: $2 passed, $3 failed"
}

swift test 2>&1 | tee "$log" | grep -vE '^(◇|􀟈|\[[0-9]+/[0-9]+\])|(✔|􁁛) (Test|Suite) |^◇' || true
swift_status=${PIPESTATUS[0]}
unit_failed=$(grep -E '^✘ Test .* failed after' "$log" | grep -vcE '^✘ Test (case|run)' || true)
unit_passed=$(grep -E '^✔ Test .* passed after' "$log" | grep -vcE '^✔ Test (case|run)' || true)
if [ "$swift_status" -ne 0 ] && [ "$unit_failed" -eq 0 ]; then unit_failed=1; fi
if [ "$swift_status" -eq 0 ] && [ "$unit_passed" -eq 0 ]; then echo "swift test ran nothing"; unit_failed=1; fi
add unit "$unit_passed" "$unit_failed"

bash Tests/Fuzz/run.sh short | tee "$log"; counted fuzz
bash Tests/mutants.sh | tee "$log"; counted mutants
bash Tests/EndToEnd/run.sh | tee "$log"; counted "end to end"
python3 Tests/budgets.py "$(dirname "${CAIRN:-.build/release/cairn}")" | tee "$log"; counted budgets
echo
echo "$summary"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
