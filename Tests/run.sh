#!/usr/bin/env bash
# All tests: Swift Testing in debug, then a short run of the fuzzers, then the end-to-end suite on the release binary. Ends with
# "N passed, N failed", counted from what the runners printed.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
swift test 2>&1 | tee "$log" | grep -vE '^(◇|􀟈|\[[0-9]+/[0-9]+\])|(✔|􁁛) (Test|Suite) |^◇' || true
swift_status=${PIPESTATUS[0]}
unit_failed=$(grep -E '^✘ Test .* failed after' "$log" | grep -vcE '^✘ Test (case|run)' || true)
unit_passed=$(grep -E '^✔ Test .* passed after' "$log" | grep -vcE '^✔ Test (case|run)' || true)
if [ "$swift_status" -ne 0 ] && [ "$unit_failed" -eq 0 ]; then unit_failed=1; fi
if [ "$swift_status" -eq 0 ] && [ "$unit_passed" -eq 0 ]; then echo "swift test ran nothing"; unit_failed=1; fi
# The last line of a runner that counts by itself: "passed failed".
counted() {
    local line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
    echo "${line:-0 passed, 1 failed}" | sed 's/ passed, / /; s/ failed.*//'
}
bash Tests/Fuzz/run.sh short | tee "$log"
read -r fuzz_passed fuzz_failed <<< "$(counted)"
fuzz_skipped=$(sed -n 's/^fuzz: skipped: \(.*\)/, skipped: \1/p' "$log")
bash Tests/EndToEnd/run.sh | tee "$log"
read -r e2e_passed e2e_failed <<< "$(counted)"
echo
echo "unit: $unit_passed passed, $unit_failed failed; fuzzers: $fuzz_passed passed, $fuzz_failed failed$fuzz_skipped;" \
    "end to end: $e2e_passed passed, $e2e_failed failed"
failed=$((unit_failed + fuzz_failed + e2e_failed))
echo "$((unit_passed + fuzz_passed + e2e_passed)) passed, $failed failed"
[ "$failed" -eq 0 ]
