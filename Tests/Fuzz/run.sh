#!/usr/bin/env bash
# Fuzzers of what reads outside bytes (docs/STORM.md). Needs libFuzzer's archive, which comes with the toolchain.
#   run.sh short          every target over its corpus and a fixed number of runs more; ends with "N passed, N failed"
#   run.sh long           FUZZ_MINUTES (10) shared by the targets, or all for FUZZ_TARGET; new inputs stay in .build-fuzz
#   run.sh merge          what such runs have found takes its place in the corpus
#   run.sh repeat TARGET FILE...   these inputs only
# FUZZ_CONFIGURATION: debug (short) builds faster, release (all others) runs faster; both check all that can be checked.
set -u
cd "$(dirname "$0")/../.."
mode=${1:-short}
configuration=${FUZZ_CONFIGURATION:-$([ "$mode" = short ] && echo debug || echo release)}
corpus=Tests/Fuzz/Corpus
work=.build-fuzz
rm -f "$work"/found/*-last
# AddressSanitizer knows nothing of Swift's backtraces, and what lives for ever is no leak.
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8 SWIFT_BACKTRACE=enable=no

skip() { echo "fuzz: skipped: $1"; echo "0 passed, 0 failed"; exit 0; }
command -v swiftc > /dev/null || skip "there is no swiftc"
resources=$(swiftc -print-target-info | sed -n 's/.*"runtimeResourcePath": "\(.*\)".*/\1/p')
runtime=$(ls "$resources"/clang/lib/linux/libclang_rt.fuzzer_no_main-"$(uname -m)".a "$resources"/../clang/*/lib/linux/libclang_rt.fuzzer_no_main-"$(uname -m)".a 2> /dev/null | head -1)
[ -n "$runtime" ] || skip "this toolchain has no libclang_rt.fuzzer_no_main-$(uname -m).a, libFuzzer's runtime"

mkdir -p "$work/found"
export CAIRN_FUZZ_DIRECTORY
CAIRN_FUZZ_DIRECTORY=$(mktemp -d)
trap 'rm -rf "$CAIRN_FUZZ_DIRECTORY"' EXIT
if ! CAIRN_FUZZ="$runtime" swift build --scratch-path "$work" -c "$configuration" --product cairn-fuzz > "$work/build.log" 2>&1; then
    grep -aE "error" "$work/build.log" | head -20
    echo "fuzz: the build failed, see $work/build.log"
    echo "0 passed, 1 failed"
    exit 1
fi
tool=$work/$configuration/cairn-fuzz
targets=${FUZZ_TARGET:-$($tool --list | cut -d' ' -f1)}

# An input may take 1 GiB and 60 s; more is a defect. It takes milliseconds, but the time is the wall clock's, and a machine may stall.
fuzz() {  # target, then libFuzzer's words
    local target=$1
    shift
    "$tool" "$target" -timeout=60 -rss_limit_mb=1024 -max_len="$($tool --list | sed -n "s/^$target //p")" \
        -artifact_prefix="$work/found/$target-" "$@" > "$work/$target.log" 2>&1
}
complain() {
    echo "not ok fuzz $1: $(grep -aE 'broken invariant|Fatal error|ERROR: ' "$work/$1.log" | head -1 | cut -c1-300)"
    grep -aE '^ +#[0-9]+ .*/(Sources|Tests)/' "$work/$1.log" | head -4 | cut -c1-200
    for last in "$CAIRN_FUZZ_DIRECTORY"/engine-*/last; do
        [ -s "$last" ] && cp "$last" "$work/found/$1-last" && echo "   the last input is $work/found/$1-last"
    done
    grep -aoE "$work/found/$1-[a-z]+-[0-9a-f]+" "$work/$1.log" | tail -1 | sed "s|.*|   bash Tests/Fuzz/run.sh repeat $1 &|"
}

passed=0 failed=0
case $mode in
short)
    for target in $targets; do
        runs=$(sed -n "s/^$target //p" Tests/Fuzz/short-runs)
        scratch=$(mktemp -d)
        if fuzz "$target" -seed=1 -runs="${runs:-1000}" "$scratch" "$corpus/$target"; then
            passed=$((passed + 1))
            echo "ok fuzz $target: $(grep -aE 'DONE' "$work/$target.log" | sed 's/ corp.*//')"
        else
            failed=$((failed + 1))
            complain "$target"
        fi
        rm -r "$scratch"
    done ;;
long)
    count=$(echo $targets | wc -w)
    seconds=$((${FUZZ_MINUTES:-10} * 60 / count))
    for target in $targets; do
        mkdir -p "$work/corpus/$target"
        if fuzz "$target" -max_total_time="$seconds" "$work/corpus/$target" "$corpus/$target"; then
            passed=$((passed + 1))
            echo "ok fuzz $target: $(grep -aE 'DONE' "$work/$target.log")"
        else
            failed=$((failed + 1))
            complain "$target"
        fi
    done ;;
merge)
    for target in $targets; do
        mkdir -p "$work/corpus/$target"
        fuzz "$target" -merge=1 "$corpus/$target" "$work/corpus/$target" && passed=$((passed + 1)) || failed=$((failed + 1))
    done ;;
repeat)
    target=$2
    shift 2
    if fuzz "$target" "$@"; then passed=1; else failed=1; complain "$target"; grep -aE '^ +#' "$work/$target.log" | cut -c1-200 | head -30; fi ;;
*)
    sed -n '2,8p' "$0"
    exit 2 ;;
esac
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
