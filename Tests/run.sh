#!/usr/bin/env bash
# All tests: Swift Testing in debug, the end-to-end suite on the release binary, then what a request may cost. Ends with "N passed, N failed",
# counted from what the runners printed.
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
bash Tests/EndToEnd/run.sh | tee "$log"
line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
e2e_passed=$(echo "${line:-0 passed, 1 failed}" | sed 's/ passed.*//')
e2e_failed=$(echo "${line:-0 passed, 1 failed}" | sed 's/.*passed, //; s/ failed.*//')
python3 Tests/budgets.py "$(dirname "${CAIRN:-.build/release/cairn}")" | tee "$log"
line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
cost_passed=$(echo "${line:-0 passed, 1 failed}" | sed 's/ passed.*//')
cost_failed=$(echo "${line:-0 passed, 1 failed}" | sed 's/.*passed, //; s/ failed.*//')
echo
echo "unit: $unit_passed passed, $unit_failed failed; end to end: $e2e_passed passed, $e2e_failed failed; budgets: $cost_passed passed, $cost_failed failed"
echo "$((unit_passed + e2e_passed + cost_passed)) passed, $((unit_failed + e2e_failed + cost_failed)) failed"
[ $((unit_failed + e2e_failed + cost_failed)) -eq 0 ]
