#!/usr/bin/env bash
# The main job, end to end, on files in a temporary directory: a cache that survives its engine.
set -eu
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
cairn() { "$CAIRN" "$@"; }
dir=$(mktemp -d)
export CAIRN_RUNTIME_DIR=$dir/run CAIRN_STATE_DIR=$dir/state
mkdir -m 700 "$CAIRN_RUNTIME_DIR" "$CAIRN_STATE_DIR"
trap 'cairn engine stop --force >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT
cd "$dir"

say "A slow device, a fast one and some data (all of them files here)"
run truncate -s 48M backing.img
run truncate -s 64M cache.img
head -c 32M /dev/urandom > data.img
S=$(($(stat -c %s backing.img) / 512))

say "The fast device becomes a cache of the slow one"
run cairn format-cache --target ssdcache --backing backing.img --blocksize 256 --yes cache.img

say "create starts an engine in the background and answers when I/O works"
run cairn create fast --table "0 $S ssdcache backing.img cache.img blocksize 256 writethrough"
uri=$(cairn info -c --noheadings -o uri fast)
run cairn ls --tree
run nbdinfo --size "$uri"

say "A real NBD client writes 32 MiB and reads them back"
run nbdcopy data.img "$uri"
run nbdcopy "$uri" back.img
cmp -n $((32 << 20)) data.img back.img && echo "same data"
run cairn status fast

say "The backing belongs to the cache now: nobody else may have it"
echo "0 $S linear backing.img 0" | cairn create plain || echo "(refused, as it should be)"

say "Change the mode of the running volume: load, then swap"
run cairn load fast --table "0 $S ssdcache backing.img cache.img blocksize 256 readcache"
run cairn resume fast
run cairn table fast

say "Stop the engine; everything is on disk"
run cairn remove fast
run cairn engine stop
run cairn probe cache.img

say "Start again: the cache is warm, the data is there"
run cairn create fast --table "0 $S ssdcache backing.img cache.img blocksize 256 writethrough"
run nbdcopy "$(cairn info -c --noheadings -o uri fast)" again.img
cmp -n $((32 << 20)) data.img again.img && echo "same data"
run cairn status fast
hits=$(cairn status fast | sed -n 's/.*clean \([0-9]*\) .*/\1/p')
[ "$hits" -gt 0 ] || { echo "no read came from the cache"; exit 1; }
echo "$hits reads came from the cache"

say "Write-back: the writes stay in the cache until somebody asks, or nobody works"
run cairn message fast 0 mode writeback
run cairn message fast 0 clean_idle 3600000
head -c 16M /dev/urandom > new.img
run nbdcopy --flush new.img "$(cairn info -c --noheadings -o uri fast)"
run cairn status --target ssdcache fast
cmp -s -n $((16 << 20)) new.img backing.img && { echo "the backing has it already?"; exit 1; }
run kill -9 "$(cairn info -c --noheadings -o pid fast)"
sleep 0.2
echo "0 $S linear backing.img 0" | cairn create plain || echo "(refused, as it should be: the backing alone is old)"
run cairn create fast --table "0 $S ssdcache backing.img cache.img blocksize 256 writeback"
run cairn uncache fast
cmp -n $((16 << 20)) new.img backing.img && echo "same data, now in the backing alone"
run cairn remove fast
run cairn engine stop
say "A burst of random writes: the disk below does 4 MB/s, the log takes them at its own speed"
seconds() { date +%s.%N; }
passed() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b - a }'; }
rate() { awk -v t="$1" 'BEGIN { printf "%.1f", 4096 * 4096 / 1e6 / t }'; }
burst() { # the same 4096 random writes of 4 KiB, then a flush
    cairn bench "$1" --pattern random --block 4k --mix write=1 --depth 32 --operations 4096 --ramp 0 --seed 7 --yes --force -q > "$1.txt" 2>&1
    qemu-io -f raw "$(cairn info -c --noheadings -o uri "$1")" -c flush > /dev/null
}
truncate -s 32M disk.img log.img plain.img
run cairn create plain --table "0 65536 linear plain.img,pace=4M 0"
t=$(seconds); burst plain; alone=$(passed "$t" "$(seconds)")
run cairn remove plain
run cairn format-cache --target writeboost --backing disk.img --yes log.img
run cairn create burst --table "0 65536 writeboost disk.img,pace=4M log.img 2 writeback_threshold 0"
t=$(seconds); burst burst; absorbed=$(passed "$t" "$(seconds)")
nbdcopy "$(cairn info -c --noheadings -o uri burst)" volume.img
dirty=$(cairn stats burst | awk '$1 == "dirty_blocks" { print $2 }')
cmp -s volume.img disk.img && { echo "the disk has it already?"; exit 1; }
t=$(seconds)
run cairn message burst 0 drop_caches
back=$(passed "$t" "$(seconds)")
writes=$(cairn stats burst | awk '$1 == "backing_writes" { print $2 }')
run cairn remove burst
run cairn writeboost check --backing disk.img log.img
cmp volume.img disk.img && echo "the disk has all of it, byte for byte"
echo "16.8 MB of random writes and a flush: $alone s on the disk alone ($(rate "$alone") MB/s)," \
    "$absorbed s through the log ($(rate "$absorbed") MB/s)"
echo "$dirty blocks were written back afterwards in $back s, sorted, with $writes writes"
awk -v a="$alone" -v b="$absorbed" 'BEGIN { exit !(b < a) }' || { echo "the burst was not absorbed"; exit 1; }
run cairn engine stop
say "Done; the temporary directory goes away"
