#!/usr/bin/env bash
# End-to-end tests: the real binary, real clients, a private directory for each test. Prints "ok NAME" or
# "not ok NAME" with its output, and ends with "N passed, N failed". Usage: CAIRN=path run.sh [NAME…]
set -u
CAIRN=${CAIRN:-$(cd "$(dirname "$0")/../.." && pwd)/.build/release/cairn}
HERE=$(cd "$(dirname "$0")" && pwd)
export CAIRN HERE
cairn() { "$CAIRN" "$@"; }
fail() { echo "FAILED: $*"; exit 1; }
same() { [ "$1" = "$2" ] || fail "expected <$2>, got <$1>"; }
refused() { # refused STATUS TEXT COMMAND…: the exit status and a part of the message
    local status=$1 text=$2 out; shift 2
    out=$("$@" 2>&1); local got=$?
    [ "$got" = "$status" ] || fail "exit $got instead of $status: $* -> $out"
    case $out in *"$text"*) ;; *) fail "no <$text> in <$out>" ;; esac
}
uri() { cairn info -c --noheadings -o uri "$1"; }
pid() { cairn info -c --noheadings -o pid "$1"; }

test_tidy() { bash "$HERE/../tidy.sh" || fail "see above"; }

test_script_of_the_readme() {
    truncate -s 256M backing.img; truncate -s 64M cache.img; head -c 128M /dev/urandom > data.img
    S=$(blockdev --getsz backing.img 2>/dev/null || echo $(( $(stat -Lc %s backing.img) / 512 )))
    cairn format-cache --target ssdcache --backing backing.img --blocksize 256 --yes cache.img || fail format
    cairn create fast --table "0 $S ssdcache backing.img cache.img blocksize 256 writethrough" || fail create
    nbdinfo "$(uri fast)" > /dev/null || fail nbdinfo
    nbdcopy data.img "$(uri fast)" || fail nbdcopy
    cairn status fast | head -1 | grep -qE '^0 524288 ssdcache cmd 31/31 cte 496/496/496$' || fail "status: $(cairn status fast)"
    same "$(cairn table fast)" "0 $S ssdcache $PWD/backing.img $PWD/cache.img blocksize 256 writethrough assoc 4"
    same "$(cairn deps fast)" "2 dependencies	: ($PWD/cache.img) ($PWD/backing.img)"
    cairn ls --tree | grep -q '^fast (512:0)' || fail tree
    out=$(echo "0 $S linear backing.img 0" | cairn create plain 2>&1) && fail "plain was created"
    case $out in *"claimed by volume fast"*) ;; *) fail "$out" ;; esac
    same "$(cairn ls)" "fast	(512:0)"
    cairn suspend fast && cairn load fast --table "0 $S ssdcache backing.img cache.img blocksize 256 readcache" && cairn resume fast || fail reload
    cairn stats fast | grep -q loaded_at_open || fail stats
    cairn events --follow fast > events.log & cairn wait fast & sleep 0.5
    cairn remove fast && wait && cairn engine stop || fail remove
    grep -q '"what":"remove"' events.log || fail "events: $(cat events.log)"
    cairn probe cache.img | grep -q 'STATE="clean" MODE="readcache"' || fail probe
    cairn create fast --foreground --table "0 $S ssdcache backing.img cache.img blocksize 256 writethrough" & local fg=$!
    for _ in $(seq 100); do cairn table fast 2>&1 | grep -q ssdcache && break; sleep 0.1; done
    nbdcopy "$(uri fast)" again.img || fail "read again"
    cmp -n $((128 << 20)) data.img again.img || fail "other data"
    kill -INT "$(pid fast)"; wait $fg || fail "the foreground engine ended with $?"
    cairn probe cache.img | grep -q 'STATE="clean"' || fail "not clean after Ctrl-C"
}

# What the real kernel and dmsetup printed, replayed.
test_golden() {
    [ "$(id -u)" = 0 ] || { echo "skipped: loop devices need root"; return; }
    /usr/bin/python3 "$HERE/golden.py" "$CAIRN" || fail "see above"
}

test_cache_over_a_volume_starts_cold() {
    truncate -s 16M b.img; truncate -s 8M c.img
    cairn create low --table "0 32768 linear b.img 0" || fail low
    cairn format-cache --target ssdcache --backing low --yes c.img || fail format
    loaded() { cairn stats v | grep -oE 'loaded_at_open [0-9]+' | tail -1; }
    io() { qemu-io -f raw "$(uri "$1")" -c "$2" | grep -qE 'read|wrote' || fail "$1 $2"; }
    cairn create v --table "0 32768 ssdcache low c.img" && io v 'write -P 1 4M 1M' && cairn remove v || fail v
    io low 'write -P 2 4M 1M'
    cairn create v --table "0 32768 ssdcache low c.img" || fail again
    same "$(loaded)" "loaded_at_open 0"
    qemu-io -f raw "$(uri v)" -c 'read -P 2 4M 1M' | grep -q 'verification failed' && fail "stale data"
    # A reload of the cache keeps its claim all the time, and its blocks.
    cairn load v --table "0 32768 ssdcache low c.img readcache" && cairn resume v || fail reload
    [ "$(loaded)" != "loaded_at_open 0" ] || fail "the reload lost the cache"
}

test_as_another_user() {
    [ "$(id -u)" = 0 ] || { echo "skipped: needs root to become another user"; return; }
    chmod 777 .; mkdir -m 700 u; chown nobody u
    cat > u.sh <<'SH'
set -e
cd "$1"; export CAIRN_RUNTIME_DIR=$PWD/rt CAIRN_STATE_DIR=$PWD/st; mkdir -m 700 rt st
truncate -s 16M b.img; truncate -s 8M c.img; head -c 4M /dev/urandom > d.img
"$2" format-cache --target ssdcache --backing b.img --yes c.img
"$2" create v --table "0 32768 ssdcache b.img c.img"
nbdcopy d.img "$("$2" info -c --noheadings -o uri v)"
nbdcopy "$("$2" info -c --noheadings -o uri v)" e.img
cmp -n 4194304 d.img e.img
"$2" remove v; "$2" engine stop
SH
    cp "$CAIRN" ./cairn-copy; chmod 755 cairn-copy u.sh
    setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent bash u.sh "$PWD/u" "$PWD/cairn-copy" || fail "as nobody"
}

test_basic_targets() {
    truncate -s 64M a.img b.img
    cairn create lin --table "0 20480 linear a.img 2048" || fail lin
    cairn create str --table "0 40960 striped 2 128 a.img 40960 b.img 40960" || fail str
    cairn create zer --table "0 20480 zero"; cairn create err --table "0 20480 error"
    cairn create del --table "0 2048 delay b.img 0 50" || fail del
    cairn create fl --table "0 2048 flakey b.img 2048 0 5 1 error_writes" || fail fl
    same "$(cairn table fl)" "0 2048 flakey $PWD/b.img 2048 0 5 1 error_writes"
    same "$(cairn status str)" "0 40960 striped 2 $PWD/a.img $PWD/b.img 1 AA"
    same "$(cairn status del)" "0 2048 delay 0 0 0"
    same "$(cairn table zer | cat -A)" '0 20480 zero $'
    head -c $((40960 * 512)) /dev/urandom > d.img
    nbdcopy d.img "$(uri str)" && nbdcopy "$(uri str)" e.img && cmp d.img e.img || fail "striped copy"
    # The chunks lie where the kernel puts them: chunk 1 is the second member's first.
    cmp -n 65536 -i 65536:$((40960 * 512)) d.img b.img || fail "striped layout"
    qemu-io -f raw "$(uri lin)" -c 'write -P 0xaa 0 64k' -c flush -c 'read -P 0xaa 0 64k' | grep -q 'read 65536' || fail qemu-io
    cmp -n 1 <(printf '\252') <(tail -c +$((2048 * 512 + 1)) a.img) || fail "linear offset"
    qemu-io -f raw "$(uri zer)" -c 'read -P 0 0 1M' | grep -q 'read 1048576' || fail zero
    qemu-io -f raw "$(uri err)" -c 'read 0 4k' 2>&1 | grep -qi 'Input/output error' || fail error
    qemu-io -f raw "$(uri fl)" -c 'write 0 4k' 2>&1 | grep -qi 'Input/output error' || fail flakey
    local t0 t1; t0=$(date +%s%N); qemu-io -f raw "$(uri del)" -c 'read 0 4k' > /dev/null; t1=$(date +%s%N)
    [ $(((t1 - t0) / 1000000)) -ge 50 ] || fail "no delay"
    nbdinfo --map "$(uri zer)" | grep -q 'hole,zero' || fail "block status"
}

test_suspend_and_reload_under_load() {
    truncate -s 64M a.img
    cairn create v --table "0 131072 linear a.img 0" || fail create
    cat > job.fio <<FIO
[verify]
ioengine=nbd
uri=$(uri v)
rw=randrw
bs=4k
iodepth=16
size=48M
io_size=48M
verify=crc32c
FIO
    fio --minimal job.fio > fio.out 2>&1 & local job=$!
    for i in $(seq 15); do
        cairn suspend v || fail suspend
        cairn load v --table "0 131072 linear a.img 0" || fail load
        cairn resume v || fail resume
        sleep 0.05
    done
    wait $job || fail "fio: $(cat fio.out)"
    same "$(cairn info -c --noheadings -o events v)" 0
}

test_stacking() {
    truncate -s 64M a.img
    cairn create low --table "0 131072 linear a.img 0" && cairn create mid --table "0 100000 linear low 1000" &&
        cairn create top --table "0 50000 linear /dev/mapper/mid 1000" || fail create
    same "$(cairn table top)" "0 50000 linear 512:1 1000"
    refused 1 "Device or resource busy" cairn remove low
    refused 1 "stands on low itself" cairn load low --table "0 100 linear top 0"
    qemu-io -f raw "$(uri top)" -c 'write -P 0x5a 0 4k' | grep -q wrote || fail write
    qemu-io -f raw -r -c 'read -P 0x5a 1024000 4k' "$(uri low)" | grep -q 'read 4096' || fail "read below"
    same "$(cairn table --concise low)" "low,,0,rw,0 131072 linear $PWD/a.img 0"
    cairn suspend mid; timeout 1 qemu-io -f raw "$(uri top)" -c 'read 0 4k' > /dev/null 2>&1 && fail "read through a suspended volume"
    cairn resume mid && qemu-io -f raw "$(uri top)" -c 'read 0 4k' | grep -q 'read 4096' || fail "read after resume"
}

test_bad_input_changes_nothing() {
    truncate -s 64M a.img
    for table in "0 0 zero|zero-length target" "0 -8 zero|too large device" "0 8 nosuch|unknown target type" "0 100 linear|Invalid argument count" \
        "0 100 linear a.img x|Invalid device sector" "0 100 linear a.img -1|Invalid device sector" "0 100 linear missing.img 0|No such file or directory" \
        "0 131073 linear a.img 0|too small for target" "0 40961 striped 2 128 a.img 0 a.img 0|not divisible by number of stripes" \
        "0 20480 delay a.img 0|Requires exactly 3, 6 or 9 arguments" "100 100 zero|Gap in table" "0 8 zero x|No arguments required" \
        "0 8 linear a.img,cache=fast 0|unknown device option" "0 8 linear 99:99 0|No such device or address" \
        "0 8 ssdcache a.img|Cache device is not specified" "0 8 ssdcache a.img a.img|named twice" "0 8 ssdcache a.img b.img writearound|Invalid argument"; do
        refused 1 "${table#*|}" cairn create x --table "${table%%|*}"
    done
    refused 1 "Gap in table" cairn create x --table "$(printf '0 100 zero\n50 100 zero')"
    refused 1 "Invalid format on line 1" cairn create x --table "0 abc zero"
    refused 1 'It contains "/"' cairn create a/b --table "0 8 zero"
    refused 1 "too long" cairn create "$(printf 'n%.0s' $(seq 128))" --table "0 8 zero"
    refused 1 "Device does not exist." cairn info nosuch
    refused 1 "No such device or address" cairn remove nosuch
    refused 1 "Unknown command." cairn frobnicate
    refused 1 "unrecognized option" cairn info --nosuchoption
    truncate -s 1M tiny.img
    refused 1 "too small" cairn format-cache --target ssdcache --backing a.img --yes tiny.img
    refused 2 "power of two" cairn format-cache --target ssdcache --backing a.img --blocksize 3 --yes tiny.img
    truncate -s 4M tiny.img; mkfs.ext4 -q -O ^has_journal tiny.img; sum=$(sha256sum tiny.img)
    refused 1 "ext4 signature" cairn format-cache --target ssdcache --backing a.img --blocksize 1 tiny.img < /dev/null
    same "$(sha256sum tiny.img)" "$sum"
    same "$(cairn ls)" "No devices found"
}

test_bad_superblocks() {
    truncate -s 16M b.img other.img; truncate -s 8M c.img
    local table="0 32768 ssdcache b.img c.img blocksize 16"
    refused 1 "has no ssdcache superblock" cairn create v --table "$table"
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    refused 1 "blocksize 16" cairn create v --table "0 32768 ssdcache b.img c.img blocksize 256"
    refused 1 "belongs to another backing" cairn create v --table "0 32768 ssdcache other.img c.img blocksize 16"
    cp c.img good.img
    printf 'x' | dd of=c.img bs=1 seek=100 conv=notrunc status=none   # one copy damaged: the other serves
    cairn create v --table "$table" && cairn remove v || fail "one bad superblock"
    for at in 100 65636; do printf 'y' | dd of=c.img bs=1 seek=$at conv=notrunc status=none; done
    sum=$(sha256sum c.img)
    refused 1 "damaged" cairn create v --table "$table"
    same "$(sha256sum c.img)" "$sum"
    truncate -s 4M good.img; mv good.img c.img
    refused 1 "formatted on 16384 sectors" cairn create v --table "$table"
}

test_taken_and_full_devices() {
    truncate -s 16M a.img; mkdir -m 700 rt2
    cairn create v --table "0 32768 linear a.img 0" || fail create
    # Another engine, qemu, and a loop device keep off what this engine has; and the other way round.
    refused 1 "Device or resource busy" env CAIRN_RUNTIME_DIR="$PWD/rt2" "$CAIRN" create w --table "0 32768 linear a.img 0"
    CAIRN_RUNTIME_DIR=$PWD/rt2 cairn engine stop
    qemu-io -f raw a.img -c 'write 0 4k' 2>&1 | grep -qi 'lock' || fail "qemu got the file"
    cairn remove v
    /usr/bin/python3 -c 'import subprocess, sys
p = subprocess.Popen(["qemu-io", "-f", "raw", "a.img"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
import time; time.sleep(1)
r = subprocess.run([sys.argv[1], "create", "v", "--table", "0 32768 linear a.img 0"], capture_output=True, text=True)
p.stdin.close(); p.wait()
sys.exit(0 if r.returncode == 1 and "busy" in r.stderr else r.stderr)' "$CAIRN" || fail "a file that qemu holds"
    printf 'bad\001name' > name; refused 1 "" cairn create "$(cat name)" --table "0 8 zero"
    same "$(cairn ls)" "No devices found"
    [ "$(id -u)" = 0 ] || { echo "skipped: the rest needs root"; return; }
    local loop; loop=$(losetup -f --show a.img) || fail losetup
    refused 1 "$loop" cairn create v --table "0 32768 linear a.img 0"
    mkfs.ext4 -q "$loop" && mkdir m && mount "$loop" m || fail mount
    refused 1 "Device or resource busy" cairn create v --table "0 32768 linear $loop 0"
    truncate -s 16M b.img
    refused 5 "busy" cairn format-cache --target ssdcache --backing b.img --yes "$loop"
    umount m; losetup -d "$loop"
    loop=$(losetup -r -f --show a.img)
    refused 1 "read-only" cairn create v --table "0 32768 linear $loop 0"
    cairn create v --readonly --table "0 32768 linear $loop 0" || fail "read-only table"
    qemu-io -f raw "$(uri v)" -c 'write 0 4k' 2>&1 | grep -qi 'read.only\|permission' || fail "a write to a read-only volume"
    cairn remove v; losetup -d "$loop"
    mkdir full; mount -t tmpfs -o size=4M none full; truncate -s 16M full/b.img
    cairn create v --table "0 32768 linear full/b.img 0" || fail "over tmpfs"
    qemu-io -f raw "$(uri v)" -c 'write 0 8M' 2>&1 | grep -qi 'No space left' || fail "a full disk is not reported"
    cairn status v > /dev/null && cairn remove v || fail "the engine suffered from a full disk"
    umount full
}

test_no_stale_block_after_the_backing_was_written_alone() {
    truncate -s 16M b.img; truncate -s 8M c.img
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16" || fail create
    qemu-io -f raw "$(uri v)" -c 'write -P 1 4M 64k' -c flush > /dev/null
    cairn remove v
    cairn create plain --table "0 32768 linear b.img 0" || fail plain
    qemu-io -f raw "$(uri plain)" -c 'write -P 2 4M 64k' -c flush > /dev/null
    cairn remove plain
    touch -d @1 b.img   # even when the time of modification tells nothing
    cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16" || fail "create again"
    qemu-io -f raw "$(uri v)" -c 'read -P 2 4M 64k' | grep -q 'read 65536' || fail "stale data"
    cairn stats v | grep -qE 'loaded_at_open 0$' || fail "entries were kept"
}

test_write_back() {
    truncate -s 16M b.img; truncate -s 8M c.img; head -c 1M /dev/urandom > d.img
    local cached="0 32768 ssdcache b.img c.img blocksize 16 writeback"
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create v --table "$cached" || fail create
    cairn message v 0 clean_idle 3600000 || fail clean_idle
    nbdcopy --flush d.img "$(uri v)" || fail write
    cairn status v | grep -q 'dirty 2048/128' || fail "status: $(cairn status v)"
    cmp -n 1048576 b.img /dev/zero || fail "the backing was written although nothing asked for it"
    # A reload without a flush keeps what is dirty; so does a clean close.
    cairn suspend --noflush v && cairn load v --table "$cached" && cairn resume v || fail reload
    qemu-io -f raw "$(uri v)" -c 'read 0 1M' > /dev/null || fail "read after the reload"
    cairn status v | grep -qE 'dirty (2048/128 cleaned 0|0/0 cleaned 2048)' || fail "after the reload: $(cairn status v)"
    cairn message v 0 clean_idle 3600000 && nbdcopy --flush d.img "$(uri v)" || fail "write again"
    cairn status v | grep -q 'dirty 2048/128' || fail "written again: $(cairn status v)"
    cairn remove v
    # The backing alone is old: no table gets it, not even when the state directory is lost, unless by force.
    refused 1 "its newest data may be in the cache" cairn create w --table "0 32768 linear b.img 0"
    cairn engine stop; mv st lost; mkdir -m 700 st
    refused 1 "its newest data may be in the cache" cairn create w --table "0 32768 linear b.img 0"
    cairn create w --force --readonly --table "0 32768 linear b.img 0" || fail "create --force"
    cairn remove w; cairn engine stop; rm -r st; mv lost st
    cairn create v --table "$cached" || fail "open again"
    nbdcopy "$(uri v)" e.img && cmp -n 1048576 d.img e.img || fail "other data"
    cairn message v 0 flush || fail flush
    for _ in $(seq 100); do cairn status v | grep -q 'dirty 0/0 ' && break; sleep 0.05; done
    cairn status v | grep -q 'dirty 0/0 ' || fail "not clean: $(cairn status v)"
    cmp -n 1048576 d.img b.img || fail "the backing has other data"
    cairn message v 0 clean_idle 3600000; qemu-io -f raw "$(uri v)" -c 'write -P 7 2M 64k' > /dev/null
    cairn status v | grep -q 'dirty 128/8 ' || fail "dirty again: $(cairn status v)"
    cairn message v 0 mode writethrough || fail "mode"
    for _ in $(seq 100); do cairn status v | grep -q dirty || break; sleep 0.05; done
    cairn status v | grep -q dirty && fail "still dirty: $(cairn status v)"
    cairn table v | grep -q writethrough || fail "mode in the table: $(cairn table v)"
    cairn message v 0 mode writeback || fail "mode"
    refused 1 "unknown message" cairn message v 0 nonsense
    refused 1 "there is no tunable" cairn message v 0 nonsense 1
    refused 1 "from 1 to 100" cairn message v 0 dirty_high 101
    refused 1 "modes are" cairn message v 0 mode around
    cairn message v 0 flush; for _ in $(seq 100); do cairn status v | grep -q 'dirty 0/0 ' && break; sleep 0.05; done
    cairn remove v
    cairn create w --table "0 32768 linear b.img 0" || fail "a clean backing is refused"
    qemu-io -f raw "$(uri w)" -c 'read -P 7 2M 64k' | grep -q 'read 65536' || fail "the last write is missing"
}

test_create_with_a_cache() {
    truncate -s 16M "my disk.img" small.img; truncate -s 8M fast.img; head -c 2M /dev/urandom > d.img
    refused 1 "has no ssdcache superblock" cairn create v --cache "my disk.img" --cachedev fast.img
    cairn format-cache --target ssdcache --backing "my\ disk.img" --blocksize 16 --assoc 2 --yes fast.img > /dev/null || fail format
    same "$(cairn create v --cache "my disk.img" --cachedev fast.img --cachemode writeback --cachesettings 'policy=lru clean_idle=3600000,evict_on_write' --test)" \
        "0 32768 ssdcache my\ disk.img fast.img blocksize 16 writeback assoc 2 options 2 lru evict_on_write
# message 0 clean_idle 3600000"
    same "$(cairn ls)" "No devices found"
    refused 1 "go together" cairn create v --cache small.img
    refused 1 "is none of" cairn create v --cache "my disk.img" --cachedev fast.img --cachemode fast
    refused 1 "assoc is 0 to 64" cairn create v --cache "my disk.img" --cachedev fast.img --cachesettings assoc=65
    refused 1 "no cache setting" cairn create v --cache "my disk.img" --cachedev fast.img --cachesettings nonsense
    refused 1 "there is no tunable" cairn create v --cache "my disk.img" --cachedev fast.img --cachesettings nonsense=1
    refused 1 "belongs to" cairn create v --cache small.img --cachedev fast.img
    same "$(cairn ls)" "No devices found"
    cairn create v --cache "my disk.img" --cachedev fast.img --cachemode writeback --cachesettings clean_idle=3600000 || fail create
    nbdcopy --flush d.img "$(uri v)" && cairn status v | grep -q 'dirty 4096/256' || fail "write: $(cairn status v)"
    qemu-io -f raw "$(uri v)" -c 'read 0 1M' -c 'sleep 2000' -c 'read 0 1M' > io.log & local io=$!
    sleep 0.5; cairn uncache v > out.txt || fail uncache
    grep -q 'uncached' out.txt || fail "$(cat out.txt)"
    wait $io || fail "a client suffered: $(cat io.log)"
    same "$(cairn table v)" "0 32768 linear $PWD/my\ disk.img 0"
    cmp -n 2097152 d.img "my disk.img" || fail "other data"
    refused 1 "not one ssdcache" cairn uncache v
    cairn remove v; cairn cache info fast.img | grep -qi 'clean' || fail "$(cairn cache info fast.img)"
}

test_devices_that_grow() {
    truncate -s 16M a.img b.img; truncate -s 8M c.img; head -c 1M /dev/urandom > d.img
    cairn create v --table "0 32768 linear a.img 0" || fail create
    truncate -s 32M a.img
    cairn load v --table "0 65536 linear a.img 0" && cairn resume v || fail "a longer table on a grown file"
    same "$(nbdinfo --size "$(uri v)")" 33554432
    cairn remove v
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16 writeback" || fail "create a cache"
    nbdcopy --flush d.img "$(uri v)" || fail write
    truncate -s 32M b.img
    cairn load v --table "0 65536 ssdcache b.img c.img blocksize 16 writeback" && cairn resume v || fail "a grown backing"
    nbdcopy "$(uri v)" e.img && cmp -n 1048576 d.img e.img && same "$(stat -c %s e.img)" 33554432 || fail "other data"
    cairn message v 0 mode writethrough; for _ in $(seq 100); do cairn status v | grep -q dirty || break; sleep 0.05; done
    truncate -s 32M c.img
    cairn load v --table "0 65536 ssdcache b.img c.img blocksize 16 writethrough" && cairn resume v || fail "a grown cache"
    cairn status v | grep -q '/3[0-9][0-9][0-9]$' || fail "no more room: $(cairn status v)"
    nbdcopy "$(uri v)" e.img && cmp -n 1048576 d.img e.img || fail "other data after the growth of the cache"
}

# A cache of 128 dirty blocks of random data over an empty backing, closed by kill -9. Leaves b.img, c.img and data d.img.
dirty_cache() {
    truncate -s 16M b.img; truncate -s 8M c.img; head -c 1M /dev/urandom > d.img
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes --force c.img > /dev/null || fail format
    cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16 writeback" || fail create
    cairn message v 0 clean_idle 3600000 && nbdcopy --flush d.img "$(uri v)" || fail write
    kill -9 "$(pid v)"; sleep 0.2
}
harm() { # harm OFFSET…: damage these bytes of c.img
    for at in "$@"; do printf '\252\125' | dd of=c.img bs=1 seek="$at" conv=notrunc status=none; done
}
first_page() { # the offset of the first entry page that holds something
    /usr/bin/python3 -c 'import struct
f = open("c.img", "rb").read(1 << 20)
for at in range(135168, 1 << 20, 8192):
    if any(f[at + 64:at + 4096]) or any(f[at + 4160:at + 8192]): print(at); break'
}

# killed SECONDS COMMAND…: started and killed. What comes next need not wait: the locks of one that was killed are waited for.
killed() { timeout -s KILL "$@" > /dev/null 2>&1; }

test_cache_tools() {
    dirty_cache
    refused 1 "its newest data may be in the cache" cairn create w --table "0 32768 linear b.img 0"
    truncate -s 8M other.img
    refused 5 "its newest data may be in the cache" cairn format-cache --target ssdcache --backing b.img --yes other.img
    refused 5 "never written back" cairn wipe --yes c.img
    # Looking changes nothing.
    local sum; sum=$(sha256sum c.img b.img)
    cairn cache info c.img | grep -qE '^state: +in use' || fail "info: $(cairn cache info c.img)"
    cairn cache info -o json --backing b.img c.img | /usr/bin/python3 -c 'import json, sys
c = json.load(sys.stdin)["cache"]; assert c["blocks"] == 896 and c["may_be_dirty"] and c["dirty_sectors"] is None, c
assert c["backing_check"] == "matches", c' || fail "info as json"
    cairn cache check --backing b.img c.img > check.txt || fail "check: $(cat check.txt)"
    grep -q '2048 sectors in 128 blocks dirty' check.txt && grep -q '^note: the cache was not closed' check.txt || fail "$(cat check.txt)"
    cairn cache check -o json c.img | /usr/bin/python3 -c 'import json, sys
r = json.load(sys.stdin); assert r["version"] == 1 and r["clean"] and r["summary"]["dirty_sectors"] == 2048, r' || fail "check as json"
    same "$(cairn cache dump c.img | grep -cE '^slot [0-9]+ block [0-9]+ uses [0-9]+ valid 0-15 dirty 0-15$')" 128
    cairn cache dump -o json c.img | /usr/bin/python3 -c 'import json, sys
e = json.load(sys.stdin)["entries"]; assert sorted(x["block"] for x in e) == list(range(128)), e
assert all(x["dirty"] == [[0, 16]] for x in e)' || fail "dump as json"
    cairn cache flush --read-only --backing b.img c.img | grep -q 'would write 2048' || fail "flush --read-only"
    cairn cache repair --read-only --backing b.img c.img | grep -q 'nothing to repair' || fail "repair --read-only"
    same "$(sha256sum c.img b.img)" "$sum"
    refused 2 "one of" cairn cache frobnicate c.img
    refused 1 "has no ssdcache superblock" cairn cache check b.img
    refused 1 "needs --backing" cairn cache flush c.img
    refused 1 "another backing" cairn cache flush --backing other.img c.img
    truncate -s 9M c.img; refused 1 "has grown" cairn cache check c.img; truncate -s 8M c.img
    # Flush: stopped or killed anywhere, it can be run again.
    timeout -s INT 0.01 "$CAIRN" cache flush --backing b.img c.img > /dev/null 2>&1
    killed 0.02 "$CAIRN" cache flush --backing b.img c.img
    cairn cache check --backing b.img c.img > check.txt || fail "after a kill: $(cat check.txt)"
    truncate -s 9M c.img   # a grown cache device begins anew; what is dirty is written back before
    cairn cache flush --backing b.img c.img | grep -q 'the cache is clean' || fail flush
    truncate -s 8M c.img
    cmp -n 1048576 b.img d.img || fail "the backing has other data"
    cairn cache check --backing b.img c.img | grep -q ' 0 sectors in 0 blocks dirty' || fail "not clean"
    cairn cache flush -o json --backing b.img c.img | grep -q '"dirty_sectors":0' || fail "flush again"
    # set-uuid: the cache stays warm under its new name.
    local old; old=$(cairn cache info c.img | sed -n 's/^uuid: *//p')
    refused 1 "is no uuid" cairn cache set-uuid --uuid nonsense c.img
    cairn cache set-uuid --uuid 01234567-89ab-cdef-0123-456789abcdef --backing b.img c.img || fail set-uuid
    cairn cache info c.img | grep -q '^uuid: *01234567-89ab-cdef-0123-456789abcdef$' || fail "uuid: $(cairn cache info c.img), was $old"
    grep -rq '^cache 01234567-89ab-cdef-0123-456789abcdef$' st || fail "the record has another uuid: $(cat st/*)"
    cairn cache check --backing b.img c.img > check.txt || fail "after set-uuid: $(cat check.txt)"
    cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16" || fail "create after set-uuid"
    cairn stats v | grep -q 'loaded_at_open 128' || fail "cold: $(cairn stats v)"
    refused 5 "locked by" cairn cache check c.img
    cairn cache info c.img > /dev/null || fail "info needs no lock"
    cairn remove v; cairn engine stop
    cairn create w --table "0 32768 linear b.img 0" && cairn remove w || fail "a clean backing is refused"
    cairn engine stop; cairn wipe --yes c.img > /dev/null || fail wipe
    same "$(ls st)" ""
}

test_cache_repair() {
    local page out
    # One superblock, one copy of a page, the doubt bitmap: nothing dirty is lost.
    dirty_cache; page=$(first_page)
    harm 100 $((page + 4196)) 131080   # copy 1; it was never written, and copy 0 tells all
    cairn cache check c.img > check.txt && fail "check found nothing"
    for text in "superblock A" "copy 1 of entry page" "block 0 of the doubt bitmap"; do grep -q "problem: .*$text" check.txt || fail "no $text: $(cat check.txt)"; done
    same "$(tail -1 check.txt)" "3 problems."
    refused 1 "aborted" cairn cache repair c.img < /dev/null
    cairn cache repair --yes --backing b.img c.img | grep -q '2048 dirty sectors among them' || fail repair
    cairn cache check --backing b.img c.img > check.txt || fail "after the repair: $(cat check.txt)"
    cairn cache flush --backing b.img c.img > /dev/null && cmp -n 1048576 b.img d.img || fail "data after the repair"
    # Both copies of a page: refused by the target and the tool, then given up, and only that page.
    rm -f b.img c.img; dirty_cache; page=$(first_page)
    harm $((page + 100)) $((page + 4196))
    refused 1 "cairn cache repair --drop-dirty" cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16 writeback"
    cairn engine stop
    refused 1 "cairn cache repair --drop-dirty" cairn cache flush --backing b.img c.img
    refused 1 "--drop-dirty gives" cairn cache repair --yes --backing b.img c.img
    out=$(cairn cache repair --yes --drop-dirty --backing b.img c.img) || fail "drop-dirty: $out"
    case $out in *"WHAT WAS DIRTY THERE IS LOST"*) ;; *) fail "the loss is not said: $out" ;; esac
    cairn cache check --backing b.img c.img > check.txt || fail "after drop-dirty: $(cat check.txt)"
    cairn cache flush --backing b.img c.img > flush.txt || fail "flush: $(cat flush.txt)"
    grep -qE ': (1[0-9]{3}|[1-9][0-9]{2}) sectors written' flush.txt || fail "$(cat flush.txt)"
    # The backing was changed without the cache: kept, or given up, and never by itself.
    for choice in keep drop; do
        rm -f b.img c.img; dirty_cache
        cairn create w --force --table "0 32768 linear b.img 0" 2> /dev/null || fail "create --force"
        qemu-io -f raw "$(uri w)" -c 'write -P 9 8M 64k' -c flush > /dev/null; cairn remove w; cairn engine stop
        refused 1 "changed without its cache" cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16 writeback"
        cairn engine stop
        refused 1 "changed without its cache" cairn cache repair --yes --backing b.img c.img
        refused 1 "cairn cache repair --keep-dirty" cairn cache flush --backing b.img c.img
        cairn cache repair --yes --$choice-dirty --backing b.img c.img > out.txt || fail "$choice: $(cat out.txt)"
        cairn cache check --backing b.img c.img > check.txt || fail "after $choice: $(cat check.txt)"
        cairn create v --table "0 32768 ssdcache b.img c.img blocksize 16 writeback" || fail "create after $choice"
        qemu-io -f raw "$(uri v)" -c 'read -P 9 8M 64k' | grep -q 'verification failed' && fail "the later write is gone"
        nbdcopy "$(uri v)" e.img; cairn remove v; cairn engine stop
        if [ $choice = keep ]; then cmp -n 1048576 e.img d.img || fail "kept data"; else cmp -n 1048576 e.img /dev/zero || fail "dropped data"; fi
    done
    # set-uuid --force of a dirty cache, killed wherever it is: nothing is lost.
    rm -f b.img c.img; dirty_cache
    refused 1 "was not closed" cairn cache set-uuid --backing b.img c.img
    for t in 0.005 0.01 0.02; do killed $t "$CAIRN" cache set-uuid --force --backing b.img c.img; done
    cairn cache repair --yes --backing b.img c.img > /dev/null || fail "finish set-uuid"
    cairn cache set-uuid --force --backing b.img c.img > /dev/null || fail "set-uuid --force"
    cairn cache flush --backing b.img c.img > /dev/null && cmp -n 1048576 b.img d.img || fail "data after set-uuid"
    # Both superblocks: nothing to go by, and nothing is written.
    harm 100 65636; out=$(sha256sum c.img)
    refused 1 "only damaged superblocks" cairn cache repair --yes c.img
    same "$(sha256sum c.img)" "$out"
}

# Caches that the real kernel module left: looked at, unchanged; drained, killed on the way, to the volume that was written.
test_writeboost_vectors() {
    command -v zstd > /dev/null || { echo "skipped: no zstd"; return; }
    local name want sum
    while read -r name want; do
        for part in cache backing; do zstd -dqf "$HERE/../Fixtures/writeboost/writeboost-$name.$part.img.zst" -o $part.img || fail zstd; done
        cp cache.img c.img; cp backing.img b.img; sum=$(sha256sum c.img b.img)
        cairn writeboost check --backing b.img c.img > out.txt || fail "$name: $(cat out.txt)"
        cairn writeboost dump c.img > dump.txt && cairn writeboost meta c.img > /dev/null || fail "$name: dump, meta"
        cairn writeboost dump -o json c.img | /usr/bin/python3 -c 'import json, sys
d = json.load(sys.stdin); assert d["format"] == "kernel" and len(d["segments"]) == 30, d["format"]' || fail "$name: dump as json"
        cairn writeboost drain --dry-run --backing b.img c.img > dry.txt || fail "$name: dry run"
        same "$(sha256sum c.img b.img)" "$sum"
        killed 0.03 "$CAIRN" writeboost drain --backing b.img c.img
        cairn writeboost drain --backing b.img c.img > out.txt || fail "$name: $(cat out.txt)"
        same "$(sha256sum < b.img)" "$want  -"
        cairn writeboost check --backing b.img c.img | grep -q ' 0 sectors in 0 blocks are dirty' || fail "$name is not clean"
        # What the dry run told is all that was written.
        /usr/bin/python3 - <<'EOF' || fail "$name: the dry run told otherwise"
told = bytearray(131072)
for line in open("dry.txt"):
    w = line.split()
    if w[0] == "backing":
        assert w[1] == "1" and not any(told[int(w[3]):int(w[3]) + int(w[5])])
        told[int(w[3]):int(w[3]) + int(w[5])] = b"\1" * int(w[5])
old, new = open("backing.img", "rb").read(), open("b.img", "rb").read()
assert all(told[s] or old[s * 512:s * 512 + 512] == new[s * 512:s * 512 + 512] for s in range(131072))
EOF
        rm -rf st/*; setfattr -x user.cairn b.img 2> /dev/null
    done <<'EOF'
clean 4266676e33ddd3dbf8c0b784fbf0845a5310cee387228c96db5d6744a06ebb86
killed 84d24ecf9f98a3987f06a6f513d7b39b2b57cf2cc95f21b6431e4c8fc9d213f9
readcache afdc77862d4d8d65054f8afa474f0e802654597758e1d0476de2509db7940777
sbrecord 40731f45f747f2e56b107e78b227eb67baacdb0934643cbff646324073732215
tail e8a42551a529e45183478e7c3897d3b25fa6985829e6cc31572fff4d1c71d454
EOF
    # On a device of another size every header would be erased; with a record far ahead of the log, too.
    far() { printf '\377\377\377\377' | dd bs=1 seek=$((2047 * 512)) conv=notrunc status=none of="$1"; }
    for change in "truncate -s 12M" "truncate -s 20M" far; do
        cp cache.img c.img; cp backing.img b.img
        $change c.img || fail "$change"
        sum=$(sha256sum c.img b.img)
        want="which is not its own on a device of this size"; [ "$change" = far ] && want="says that segment 4294967295 is written back"
        refused 1 "$want" cairn create v --table "0 131072 writeboost b.img c.img"
        cairn writeboost check c.img > out.txt && fail "$change: $(cat out.txt)"
        refused 1 "" cairn writeboost drain --backing b.img c.img
        same "$(sha256sum c.img b.img)" "$sum"
    done
    # In the words of the module's tool.
    cp cache.img c.img
    same "$(cairn writeboost meta c.img | tr '\n' ' ')" "[superblock header] magic = 1463972724 (formatted) [superblock record] last writeback id = 0 "
    cairn writeboost meta c.img 145 | head -2 | tail -1 | grep -q '^id       = 145$' || fail "meta 145: $(cairn writeboost meta c.img 145 | head -4)"
}

# Our format: dirty after a kill, drained, converted to the kernel's and back.
test_writeboost_tools() {
    truncate -s 16M b.img other.img; truncate -s 12M c.img; head -c 1M /dev/urandom > d.img
    cairn format-cache --target writeboost --backing b.img --yes c.img > /dev/null || fail format
    cairn create v --table "0 32768 writeboost b.img c.img 2 writeback_threshold 0" && nbdcopy --flush d.img "$(uri v)" || fail write
    refused 5 "locked by" cairn writeboost check c.img
    cairn writeboost meta c.img | grep -q '^state = in use$' || fail "meta needs no lock"
    kill -9 "$(pid v)"; sleep 0.2
    local sum; sum=$(sha256sum c.img b.img)
    cairn writeboost check --backing b.img c.img > out.txt || fail "check: $(cat out.txt)"
    grep -q '2048 sectors in 256 blocks are dirty' out.txt && grep -q '^note: the cache was not closed' out.txt || fail "$(cat out.txt)"
    cairn writeboost check -o json c.img | /usr/bin/python3 -c 'import json, sys
r = json.load(sys.stdin); assert r["clean"] and r["summary"]["dirty_sectors"] == 2048 and r["format"] == "cairn", r' || fail "check as json"
    same "$(cairn writeboost dump c.img | grep -c 'backing 1 block [0-9]* valid 0-7 dirty 0-7$')" 256
    cairn writeboost drain --dry-run --backing b.img c.img > out.txt || fail "dry run"
    same "$(cat out.txt | sed "s,$PWD/,,")" "backing 1 sector 0 count 2048
c.img: would write 2048 sectors in 1 ranges to backing 1."
    refused 1 "segment 999 is not on" cairn writeboost dump c.img 999
    refused 1 "is no backing of this cache" cairn writeboost drain --backing other.img c.img
    refused 1 "aborted" cairn writeboost convert --format kernel --backing b.img c.img < /dev/null
    same "$(sha256sum c.img b.img)" "$sum"
    killed 0.02 "$CAIRN" writeboost drain --backing b.img c.img
    cairn writeboost convert --format kernel --yes --backing b.img c.img > out.txt || fail "convert: $(cat out.txt)"
    cmp -n 1048576 b.img d.img || fail "the backing has other data"
    cairn create v --table "0 32768 writeboost b.img c.img" && cairn status v | grep -q 'format kernel' || fail "not converted: $(cairn status v)"
    qemu-io -f raw "$(uri v)" -c 'write -P 9 1M 64k' -c flush > /dev/null || fail "write in the kernel's format"
    kill -9 "$(pid v)"; sleep 0.2
    cairn writeboost convert --format cairn --yes --backing b.img c.img > out.txt || fail "back: $(cat out.txt)"
    cairn writeboost check --backing b.img c.img | grep -q 'No problems' || fail "after the way back"
    cmp -n 1048576 b.img d.img && qemu-io -r -f raw b.img -c 'read -P 9 1M 64k' | grep -q 'verification failed' && fail "data after the way back"
    # Rotten: told, and nothing is written.
    cairn create v --table "0 32768 writeboost b.img c.img 2 writeback_threshold 0" && nbdcopy --flush d.img "$(uri v)" || fail "write again"
    qemu-io -f raw "$(uri v)" -c 'write -P 9 2M 4k' -c flush > /dev/null; kill -9 "$(pid v)"; sleep 0.2
    harm $((1048576 + 9000)); sum=$(sha256sum c.img)
    cairn writeboost check c.img > out.txt && fail "check found nothing: $(cat out.txt)"
    grep -q '^problem: block 2 of segment 1 is damaged' out.txt || fail "$(cat out.txt)"
    same "$(sha256sum c.img)" "$sum"
    refused 1 "do not match their checksums" cairn writeboost drain --backing b.img c.img
}

# Several backings: the dry run first, one that is missing, a kill on the way, and all of them at last. One has far more than a batch.
test_writeboost_drain_several() {
    truncate -s 64M a.img b.img; truncate -s 16M n.img; truncate -s 80M c.img; head -c 48M /dev/urandom > d.img
    cairn format-cache --target writeboost --backing a.img --backing b.img --backing n.img --yes c.img > /dev/null || fail format
    cairn create va --table "0 131072 writeboost a.img c.img 2 writeback_threshold 0" || fail va
    cairn create vb --table "0 131072 writeboost b.img c.img 2 writeback_threshold 0" || fail vb
    qemu-io -f raw "$(uri va)" -c 'write -P 1 1M 64k' -c flush | grep -q wrote && nbdcopy --flush d.img "$(uri vb)" || fail write
    kill -9 "$(pid va)"; sleep 0.2
    local sum; sum=$(sha256sum a.img b.img n.img c.img)
    cairn writeboost drain --dry-run --backing a.img --backing b.img c.img > out.txt || fail "dry run: $(cat out.txt)"
    same "$(sed "s,$PWD/,," out.txt)" "backing 1 sector 2048 count 128
backing 2 sector 0 count 98304
c.img: would write 128 sectors in 1 ranges to backing 1.
c.img: would write 98304 sectors in 1 ranges to backing 2."
    # Without the second, which has dirty blocks, nothing is written at all; without the third, which has none, everything.
    for dry in --dry-run ""; do
        refused 1 "12288 dirty blocks belong to backing 2, which was not given" cairn writeboost drain $dry --backing a.img c.img
        refused 1 "dirty blocks belong to backing 1, which was not given" cairn writeboost drain $dry --backing b.img --backing n.img c.img
    done
    mv b.img gone.img
    refused 1 "No such file" cairn writeboost drain --backing a.img --backing b.img c.img
    mv gone.img b.img
    same "$(sha256sum a.img b.img n.img c.img)" "$sum"
    cairn writeboost drain --backing a.img --backing b.img c.img > out.txt || fail "drain: $(cat out.txt)"
    same "$(sed "s,$PWD/,," out.txt)" "c.img: 12304 blocks written to the backing; nothing is dirty."
    cmp -n $((48 << 20)) b.img d.img || fail "b is not written back at once"
    # Again, with a kill on the way.
    cairn create vb --table "0 131072 writeboost b.img c.img 2 writeback_threshold 0" || fail "vb again"
    head -c 48M /dev/urandom > d.img; nbdcopy --flush d.img "$(uri vb)" || fail "write again"
    kill -9 "$(pid vb)"; sleep 0.2
    killed 0.05 "$CAIRN" writeboost drain --backing a.img --backing b.img c.img
    cairn writeboost check --backing a.img --backing b.img --backing n.img c.img > out.txt || fail "after a kill: $(cat out.txt)"
    cairn writeboost drain --backing a.img --backing b.img c.img > out.txt || fail "drain: $(cat out.txt)"
    grep -q 'nothing is dirty' out.txt || fail "$(cat out.txt)"
    cmp -n $((48 << 20)) b.img d.img || fail "b is not written back"
    cmp -n 65536 -i $((1 << 20)):0 a.img <(head -c 64K /dev/zero | tr '\0' '\1') || fail "a is not written back"
    cairn writeboost check --backing a.img --backing b.img c.img | grep -q ' 0 sectors in 0 blocks are dirty' || fail "not clean"
    same "$(cairn writeboost drain --dry-run --backing a.img c.img | sed "s,$PWD/,,")" "c.img: nothing is dirty."
    refused 1 "has 3 backings" cairn writeboost convert --yes --format kernel --backing a.img c.img
    # Each is whole on its own now.
    cairn create low --table "0 131072 linear b.img 0" && cairn remove low || fail "b alone"
}

# A backing whose cache is formatted anew has that one: what its record and the file's attribute said of the old one is over.
test_writeboost_formatted_again() {
    truncate -s 16M b.img; truncate -s 12M c.img
    for format in cairn kernel cairn; do
        cairn format-cache --target writeboost --format $format --backing b.img --yes --force c.img > /dev/null 2>&1 || fail "format $format"
        cairn create v --table "0 32768 writeboost b.img c.img 2 writeback_threshold 0" || fail "$format is refused"
        qemu-io -f raw "$(uri v)" -c 'write -P 9 0 64k' -c flush > /dev/null
        cairn remove v
        refused 5 "its newest data may be in the cache" cairn format-cache --target writeboost --backing b.img --yes c.img
    done
}

# Opening a log in the kernel's format reads all of it: how far it is can be seen, and what a hole in it costs is said.
test_writeboost_opening_is_seen() {
    truncate -s 64M b.img k.img
    cairn format-cache --target writeboost --format kernel --backing b.img --yes k.img > /dev/null || fail format
    cairn create v --table "0 131072 writeboost b.img k.img,pace=20M" & local creating=$!
    for _ in $(seq 100); do cairn status v 2> /dev/null > out.txt && grep -q 'step kernel_slots step_done [1-9]' out.txt && break; sleep 0.05; done
    grep -q ' state opening step kernel_slots step_done [1-9][0-9]* step_of 126$' out.txt || fail "no progress: $(cat out.txt)"
    cairn stats -o json v | grep -q '"recovery_bytes":[1-9]' || fail "stats of an opening: $(cairn stats -o json v)"
    cairn status -o json v | grep -q '"state":"opening","step":"kernel_slots"' || fail "json: $(cairn status -o json v)"
    wait $creating || fail create
    cairn status v | grep -q ' state ok ' || fail "status: $(cairn status v)"
    # Three segments, each with a block and made durable; then the middle one rots.
    for at in 0 1M 2M; do qemu-io -f raw -c "write -P 7 $at 4k" -c flush "$(uri v)" > /dev/null || fail write; done
    kill -9 "$(pid v)"; sleep 0.2
    printf '\377' | dd of=k.img bs=1 seek=$((1024 * 1024 + 512 * 1024 + 4096)) conv=notrunc status=none
    refused 1 "the log ends before segment 2" cairn writeboost check --backing b.img k.img
    cairn create v --table "0 131072 writeboost b.img k.img" || fail again
    grep -q 'v: writeboost: the log ends before segment 2, .*; 1 newer segments' "$CAIRN_RUNTIME_DIR/default/engine.log" \
        || fail "not said: $(cat "$CAIRN_RUNTIME_DIR/default/engine.log")"
}

# Caches that are none, or not this one's, or not whole: a sentence, and not a byte is written.
test_writeboost_bad_input() {
    truncate -s 16M b.img other.img small.img; truncate -s 12M c.img k.img plain.img; truncate -s 1M tiny.img; truncate -s 1536K ktiny.img
    cairn format-cache --target writeboost --backing b.img --yes c.img > /dev/null || fail format
    cairn format-cache --target writeboost --format kernel --backing b.img --yes k.img > /dev/null || fail "format k"
    truncate -s 8M small.img; head -c 4096 k.img | dd of=ktiny.img conv=notrunc status=none
    for name in torn both future feature short foreign kfar; do cp c.img $name.img; done; cp k.img kfar.img
    printf y | dd of=torn.img bs=1 seek=100 conv=notrunc status=none
    for at in 100 65636; do printf y | dd of=both.img bs=1 seek=$at conv=notrunc status=none; done
    /usr/bin/python3 "$HERE/superblock.py" future.img version 2; /usr/bin/python3 "$HERE/superblock.py" feature.img incompatible 6
    truncate -s 6M short.img; head -c 12M /dev/urandom > foreign.img
    printf '\377\377\377\377\377\377\377\177' | dd of=kfar.img bs=1 seek=$((2047 * 512)) conv=notrunc status=none
    local sum; sum=$(sha256sum ./*.img)
    no() { refused "${3:-1}" "$1" cairn create v --table "$2"; }
    no "is no writeboost cache" "0 32768 writeboost b.img plain.img"
    no "is no writeboost cache" "0 32768 writeboost b.img foreign.img"
    no "both superblocks of the cache are damaged" "0 32768 writeboost b.img both.img"
    no "formatted by a newer cairn (format version 2)" "0 32768 writeboost b.img future.img"
    no "features this cairn does not know" "0 32768 writeboost b.img feature.img"
    no "the cache was formatted on 24576 sectors, the device has 12288" "0 32768 writeboost b.img short.img"
    no "the cache device is too small" "0 32768 writeboost b.img tiny.img"
    no "too small for a log in the kernel's format" "0 32768 writeboost b.img ktiny.img"
    no "record of what is written back is impossible" "0 32768 writeboost b.img kfar.img"
    no "belongs to another backing device" "0 32768 writeboost other.img c.img"
    no "" "0 32768 writeboost b.img b.img"
    no "a device has a number from 1 to 127" "0 32768 writeboost 128 b.img 3"
    no "a cache has a number from 0 to 127" "0 32768 writeboost 5 b.img 128"
    no "cache is not set for id(3)" "0 32768 writeboost 5 b.img 3"
    no "Invalid optional argc" "0 32768 writeboost b.img c.img 3 writeback_threshold 1"
    no "Invalid optional argc" "0 32768 writeboost b.img c.img 2 writeback_threshold"
    no "Invalid optional argc" "0 32768 writeboost b.img c.img x"
    no "Invalid optional key" "0 32768 writeboost b.img c.img 2 nonsense 1"
    no "Invalid writeback_threshold" "0 32768 writeboost b.img c.img 2 writeback_threshold 101"
    refused 1 "" cairn format-cache --target writeboost --backing b.img --yes tiny.img
    same "$(sha256sum ./*.img)" "$sum"
    same "$(cairn ls)" "No devices found"
    # One torn superblock is what there are two for.
    cairn create v --table "0 32768 writeboost b.img torn.img" && cairn remove v || fail "one torn superblock"
    # Used twice: by two volumes of one engine, by two engines, by two lines.
    cairn create v --table "0 32768 writeboost b.img k.img" || fail "k"
    sum=$(sha256sum other.img c.img)
    refused 1 "" cairn create w --table "0 32768 writeboost other.img k.img"
    refused 1 "claimed by volume v" cairn create w --table "0 32768 writeboost b.img c.img"
    mkdir -m 700 rt2
    CAIRN_RUNTIME_DIR=$PWD/rt2 refused 1 "locked by" cairn create w --table "0 32768 writeboost other.img k.img"
    CAIRN_RUNTIME_DIR=$PWD/rt2 cairn engine stop > /dev/null 2>&1
    cairn remove v
    same "$(sha256sum other.img c.img)" "$sum"
    # The first line opens the cache before the second is refused.
    refused 1 "in use by another line" cairn create v --table "0 16384 writeboost b.img c.img
16384 16384 writeboost b.img c.img"
    cairn writeboost check --backing b.img c.img | grep -q 'No problems' || fail "after two lines"
    # Wrong size: the backing has shrunk.
    truncate -s 8M b.img
    no "this one has 16384" "0 16384 writeboost b.img c.img"
}

# The cache device dies while all that the backing lacks is in memory: the volume goes on over the backing, and the cache, back again, is
# not believed. With dirty data in the log it fails writes. Its device is a volume, which can die by a new table.
test_writeboost_cache_lost() {
    truncate -s 16M b.img; truncate -s 12M c.img
    cairn format-cache --target writeboost --backing b.img --yes c.img > /dev/null || fail format
    table="0 32768 writeboost b.img low 2 writeback_threshold 0"
    io() { qemu-io -f raw "$(uri v)" "$@" 2>&1; }
    dies() { cairn load low --table "0 24576 error" && cairn resume low || fail die; }
    lives() { cairn load low --table "0 24576 linear c.img 0" && cairn resume low || fail live; }
    cairn create low --table "0 24576 linear c.img 0" && cairn create v --table "$table" || fail create
    io -c 'write -P 1 0 64k' -c flush > /dev/null; cairn message v 0 drop_caches
    for _ in $(seq 100); do cairn status v | grep -q 'drain_left 0' && break; sleep 0.1; done
    io -c 'write -P 2 0 4k' -c flush > /dev/null
    dies
    io -c 'write -P 3 4k 4k' -c 'write -f -P 4 8k 4k' -c flush | grep -q error && fail "a write failed"
    cairn status v | grep -q 'state cache_lost' || fail "status: $(cairn status v)"
    cat st/* | tr '\n' ' ' | grep -q 'alone 1 dirty 0' || fail "record: $(cat st/*)"
    qemu-io -r -f raw b.img -c 'read -P 2 0 4k' -c 'read -P 3 4k 4k' -c 'read -P 4 8k 4k' | grep -q 'verification failed' && fail "not on the backing"
    io -c 'write -P 5 0 4k' -c flush | grep -q wrote || fail "write alone"
    cairn suspend v && cairn resume v && cairn load v --table "$table" && cairn resume v || fail reload
    cairn remove v || fail remove
    cairn create alone --table "0 32768 linear b.img 0" && cairn remove alone || fail "the backing by itself"
    lives
    cairn writeboost check --backing b.img c.img > /dev/null 2>&1
    cairn create v --table "$table" || fail "open again"
    same "$(cairn status v | cut -d' ' -f10)" 0
    io -c 'read -P 5 0 4k' -c 'read -P 3 4k 4k' -c 'read -P 4 8k 4k' -c 'read -P 1 12k 4k' | grep -q 'verification failed' && fail "older data"
    # Dirty, and in the log alone: 300 blocks are more than a segment.
    io -c 'write -P 6 0 1200k' -c flush > /dev/null
    dies
    io -c 'write -f -P 7 0 4k' | grep -q 'error\|failed' || fail "a write was taken that nothing can keep"
    cairn status v | grep -q 'state log_failing' || fail "status: $(cairn status v)"
    lives
    for _ in $(seq 50); do cairn status v | grep -q 'state ok' && break; sleep 0.1; done
    io -c 'write -f -P 7 0 4k' | grep -q wrote || fail "the log is back"
    kill -9 "$(pid v)"; sleep 0.2
    cairn create low --table "0 24576 linear c.img 0"; cairn create v --table "$table" || fail "after a kill"
    io -c 'read -P 7 0 4k' -c 'read -P 6 4k 1196k' | grep -q 'verification failed' && fail "lost"
    cairn remove v; cairn remove low
}

# A volume shrinks, its backing grows, and it grows with it, live; what the log has behind the end stays.
test_writeboost_resize() {
    truncate -s 16M b.img; truncate -s 12M c.img
    cairn format-cache --target writeboost --backing b.img --yes c.img > /dev/null || fail format
    t() { echo "0 $1 writeboost b.img c.img 2 writeback_threshold 0"; }
    io() { qemu-io -f raw "$(uri v)" "$@" 2>&1; }
    cairn create v --table "$(t 32768)" || fail create
    io -c 'write -P 1 15M 1M' -c 'write -P 2 8M 1M' -c flush | grep -q wrote || fail write
    cairn load v --table "$(t 20001)" && cairn resume v || fail shrink
    same "$(cairn table v | cut -d' ' -f1,2)" "0 20001"
    io -c 'read 15M 4k' | grep -q 'error\|failed\|past' || fail "read behind the end"
    cairn message v 0 drop_caches
    for _ in $(seq 100); do cairn status v | grep -q 'drain_left 0' && break; sleep 0.1; done
    cairn load v --table "$(t 40000)" 2> /dev/null && fail "larger than its backing"
    truncate -s 32M b.img
    cairn load v --table "$(t 65536)" && cairn resume v || fail grow
    io -c 'write -P 3 30M 1M' -c flush | grep -q wrote || fail "write at the new end"
    kill -9 "$(pid v)"; sleep 0.2
    cairn create v --table "$(t 65536)" || fail "after a kill"
    io -c 'read -P 1 15M 1M' -c 'read -P 2 8M 1M' -c 'read -P 3 30M 1M' | grep -q 'verification failed' && fail "other data"
    cairn remove v || fail remove
    truncate -s 16M b.img
    refused 1 "the cache belongs to a backing of 65536 sectors, this one has 32768" cairn create v --table "$(t 32768)"
}

# What is refused, and in which words: errors.txt.
test_errors() { /usr/bin/python3 "$HERE/errors.py" "$CAIRN" "$HERE/errors.txt" || fail "see above"; }

# Verbs, options, words and messages are in the manual; mandoc has nothing against it.
test_manual() {
    command -v mandoc > /dev/null || { echo "skipped: no mandoc"; return; }
    /usr/bin/python3 "$HERE/documented.py" "$CAIRN" || fail "see above"
}

# make install puts the command, every page and the completions where they are looked for.
test_install() {
    local top=$HERE/../.. page shell
    make -s -C "$top" -o build BIN="$CAIRN" DESTDIR="$PWD/x" PREFIX=/usr install || fail "make install"
    cmp "$CAIRN" x/usr/sbin/cairn || fail "another command"
    for page in "$top"/man/*; do
        cmp "$page" "x/usr/share/man/man${page##*.}/$(basename "$page")" || fail "$page"
    done
    for shell in bash-completion/completions/cairn.bash zsh/site-functions/_cairn fish/vendor_completions.d/cairn.fish; do
        cmp "$top/completions/$(basename $shell)" "x/usr/share/${shell%.bash}" || fail "$shell"
    done
    same "$(find x -type f | wc -l)" $(($(ls "$top"/man | wc -l) + 4))
}

# The examples of each page, run as one script where a page's examples follow from one another. cairn-cache(8) has a test of
# its own, for each of its examples begins with a cache that a kill has left.
test_man_examples() {
    local page ran=0
    for page in "$HERE"/../../man/*.[0-9]; do
        local name; name=$(basename "$page")
        case $name in
        cairn-cache.8) continue ;;
        cairn-json.5) command -v jq > /dev/null || { echo "skipped: no jq"; continue; } ;;
        esac
        mkdir "$name" || fail mkdir
        (
            cd "$name" && mkdir -m 700 rt st && export CAIRN_RUNTIME_DIR=$PWD/rt CAIRN_STATE_DIR=$PWD/st || exit 1
            trap 'for engine in default lab; do cairn --engine $engine engine stop --force 2> /dev/null; done' EXIT
            /usr/bin/python3 "$HERE/examples.py" "$page" > script || fail "$name has no examples"
            example_scene "$name" || fail "the scene of $name: $(cat scene.log)"
            mkdir bin; ln -s "$CAIRN" bin/cairn
            export PATH=$PWD/bin:$PATH
            timeout 60 bash -x script > out.log 2>&1 < /dev/null || fail "$name: $(tail -5 out.log)"
        ) || fail "$name"
        ran=$((ran + 1))
    done
    [ $ran -ge 15 ] || fail "only $ran pages"
}
# What a page takes for granted: devices, volumes, files; and what a test cannot have: a terminal, root's directories.
example_scene() {
    truncate -s 64M a.img b.img disk.img slow.img; truncate -s 16M fast.img
    case $1 in
    cairn-report.8 | cairn-json.5 | cairn-metrics.5 | cairn-ssdcache.5)
        cairn format-cache --target ssdcache --backing slow.img --yes fast.img && cairn create fast --cache slow.img --cachedev fast.img --cachemode writeback ;;
    esac > scene.log 2>&1 || return 1
    case $1 in
    cairn-writeboost.8) cairn format-cache --target writeboost --backing slow.img --yes fast.img ;;
    cairn-ssdcache.5) cairn remove fast ;;
    cairn-report.8) sed -i -e '/^cairn top$/d' -e 's/-n 10 -d 5/-n 1 -d 0.2/' -e 's/--interval 1$/--interval 0.2 --count 1/' script ;;
    cairn-metrics.5) sed -i -e "s,/var/lib/prometheus,$PWD,g" -e '/^rate\|^histogram\|^ *rate\|^cairn_/d' script ;;
    cairn.7) sed -i '/^nbd-client/d' script ;;
    cairn-linear.7 | cairn-striped.7 | cairn-zero.7 | cairn-error.7 | cairn-delay.7 | cairn-flakey.7) echo 'cairn remove vol' >> script ;;
    esac >> scene.log 2>&1
}

# The examples of cairn-cache(8), as they stand there.
test_cache_man_examples() {
    truncate -s 16M disk.img; truncate -s 8M ssd.img
    local table="0 32768 ssdcache disk.img ssd.img writeback" line n=0
    while read -r line; do
        # Each example begins with a cache that a kill has left.
        cairn format-cache --target ssdcache --backing disk.img --yes --force ssd.img > /dev/null || fail format
        cairn create v --table "$table" && qemu-io -f raw "$(uri v)" -c 'write -P 3 1M 64k' -c flush > /dev/null || fail write
        case $line in *set-uuid*) cairn remove v; cairn engine stop; cairn cache flush --backing disk.img ssd.img > /dev/null || fail flush ;;
            *) kill -9 "$(pid v)"; sleep 0.2 ;;
        esac
        case $line in *wipe*) cairn cache flush --backing disk.img ssd.img > /dev/null || fail flush ;; esac
        eval "$line" > out.txt 2>&1 || fail "$line: $(cat out.txt)"
        n=$((n + 1))
    done < <(sed -n '/^.Bd -literal/,/^.Ed/p' "$HERE/../../man/cairn-cache.8" | grep '^cairn ')
    [ $n -ge 8 ] || fail "only $n examples"
}

test_kill_nine_rounds() {
    for mode in writethrough readcache writeback; do
        mkdir $mode; (cd $mode && mkdir -m 700 rt st && CAIRN_RUNTIME_DIR=$PWD/rt CAIRN_STATE_DIR=$PWD/st \
            /usr/bin/python3 "$HERE/kill9.py" "${SEED:-7}" 15 $mode "$CAIRN") || fail $mode
        pkill -9 -f "runtime-dir $PWD/$mode/rt" ; rm -rf $mode
    done
}

test_both_io_hosts() {
    truncate -s 16M a.img; head -c 8M /dev/urandom > d.img
    for io in ring threads; do
        cairn create v --io $io --table "0 32768 linear a.img 0" || fail "create with $io"
        nbdcopy d.img "$(uri v)" && nbdcopy "$(uri v)" e.img && cmp -n 8388608 d.img e.img || fail "copy with $io"
        qemu-io -f raw "$(uri v)" -c 'write -z 1M 64k' -c 'discard 2M 64k' -c 'read -P 0 1M 64k' | grep -q 'read 65536' || fail "zero with $io"
        cairn remove v; cairn engine stop || fail stop
    done
    cairn create v --simple-replies --table "0 32768 linear a.img 0" || fail "create with simple replies"
    nbdinfo "$(uri v)" | grep -q 'using simple packets' || fail "simple replies"
    nbdinfo --map "$(uri v)" > map 2>&1 && grep -q hole map && fail "block status without structured replies"
    nbdcopy "$(uri v)" e.img && cmp a.img e.img || fail "copy with simple replies"
    qemu-io -f raw "$(uri v)" -c 'read -P 0 1M 64k' | grep -q 'read 65536' || fail "qemu with simple replies"
    cairn remove v; cairn create z --table "0 2048 zero"
    qemu-io -f raw "$(uri z)" -c 'read -P 0 0 1M' | grep -q 'read 1048576' || fail "zero with simple replies"
    cairn remove z; cairn engine stop || fail stop
}

test_hostile_clients() {
    cairn create z --table "0 2048 zero" || fail create
    /usr/bin/python3 - "$CAIRN_RUNTIME_DIR/default" <<'PY' || fail "hostile"
import socket, sys, os, struct, time, nbd
d = sys.argv[1]
def connect(name):
    s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(d + "/" + name); return s
for junk in [b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 4096, struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 0xffffffff)]:
    s = connect("nbd.sock"); s.sendall(junk)
    try:
        while s.recv(65536): pass
    except OSError: pass
    s.close()
for line in [b"not json\n", b"{}\n", b'{"cairn":9,"verb":"list"}\n', b'{"cairn":1,"verb":"nosuch"}\n', b'{"cairn":1}\n', b"[" * 100 + b"\n"]:
    s = connect("engine.sock"); s.sendall(line); answer = s.recv(65536); assert b'"ok":false' in answer, answer; s.close()
s = connect("engine.sock")
try:
    s.sendall(b"x" * (2 << 20)); answer = s.recv(65536); assert b'"ok":false' in answer, answer
except (BrokenPipeError, ConnectionResetError): pass
h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri("nbd+unix:///z?socket=" + d + "/nbd.sock")
for call in [lambda: h.pread(512, 1 << 40), lambda: h.pread(3, 1), lambda: h.pwrite(b"x" * 512, 1048576)]:
    try: call(); assert False, "no error"
    except nbd.Error: pass
assert bytes(h.pread(512, 0)) == b"\0" * 512
h.shutdown()
PY
    cairn status z > /dev/null || fail "the engine is gone"
}

test_engine_stop_and_stale_files() {
    cairn create z --table "0 2048 zero" || fail create
    /usr/bin/python3 -c 'import nbd,sys,time; h = nbd.NBD(); h.connect_uri(sys.argv[1]); time.sleep(3)' "$(uri z)" & local client=$!
    sleep 1; refused 5 "volumes are open" cairn engine stop
    refused 1 "Device or resource busy" cairn remove z
    cairn remove --deferred z; cairn info z | grep -q 'DEFERRED REMOVE' || fail deferred
    wait $client; sleep 0.3; refused 1 "Device does not exist." cairn info z
    cairn create z --table "0 2048 zero"; local p; p=$(pid z); kill -9 "$p"; sleep 0.2   # leaves its sockets behind
    same "$(cairn ls)" "No devices found"
    cairn create z --table "0 2048 zero" || fail "create over stale files"
    [ "$(stat -c %a "$CAIRN_RUNTIME_DIR/default")" = 700 ] && [ "$(stat -c %a "$CAIRN_RUNTIME_DIR/default/engine.sock")" = 600 ] || fail modes
    p=$(pid z); kill -TERM "$p"; for _ in $(seq 50); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$p" 2>/dev/null && fail "SIGTERM did not end it"
    [ ! -e "$CAIRN_RUNTIME_DIR/default/engine.sock" ] || fail "a socket is left"
}

# More listeners: one that is there is known again, and a relative path is of the caller's directory, not of the engine's.
test_listeners() {
    mkdir "a b" c
    for name in v w; do (cd "a b" && cairn create $name --table "0 2048 zero" --nbd unix:./s.sock --nbd tcp::0) || fail "create $name"; done
    (cd c && cairn create x --table "0 2048 zero" --nbd unix:s.sock --nbd "unix:${PWD%/c}/a b/s.sock") || fail "create x"
    same "$(readlink "/proc/$(pid v)/cwd")" /
    same "$(cairn engine status | grep -c '^NBD: .*s.sock$')" 2
    for socket in "$PWD/a%20b/s.sock" "$PWD/c/s.sock"; do same "$(nbdinfo --size "nbd+unix:///w?socket=$socket")" 1048576; done
    # Each free port is another listener, and told.
    local first second; first=$(cairn export v --nbd tcp::0); second=$(cairn export w --nbd tcp:127.0.0.1:0)
    [ "${first%/v}" != "${second%/w}" ] && same "$(nbdinfo --size "$first")$(nbdinfo --size "$second")" 10485761048576
    local port=${first%/v}; cairn unexport --nbd "tcp::${port##*:}" || fail "unexport a port"
    nbdinfo --size "$first" 2> /dev/null && fail "$first still answers"
    (cd c && cairn unexport --nbd unix:s.sock) || fail unexport
    [ ! -e c/s.sock ] && [ -S "a b/s.sock" ] || fail "another socket went"
    same "$(nbdinfo --size "$second")" 1048576
}

test_concise_round_trip() {
    truncate -s 16M "od,d name.img"
    cairn create --concise "c1,UU1,,ro,0 8 zero,8 8 error;c2,,,,0 16 linear od\\\\\\,d\\\\ name.img 0" || fail create
    cairn table --concise --persistent > t.txt; before=$(cairn table)
    cairn remove c1 c2 && cairn create --concise < t.txt || fail "create again"
    same "$(cairn table)" "$before"
    cairn info c1 | grep -q 'ACTIVE (READ-ONLY)' || fail readonly
}

test_filesystems_over_nbdfuse() {
    [ "$(id -u)" = 0 ] || { echo "skipped: loop devices need root"; return; }
    [ -e /dev/fuse ] || { echo "skipped: no /dev/fuse"; return; }
    truncate -s 512M b.img; truncate -s 64M c.img; mkdir m f; touch f/nbd
    cairn format-cache --target ssdcache --backing b.img --yes c.img > /dev/null || fail format
    for fs in ext4 xfs; do
        for round in make again; do
            cairn create v --table "0 1048576 ssdcache b.img c.img options 1 evict_on_write" || fail create
            nbdfuse f/nbd "$(uri v)" & local fuse=$!
            for _ in $(seq 50); do [ "$(stat -c %s f/nbd)" = 536870912 ] && break; sleep 0.1; done
            local loop; loop=$(losetup -f --show f/nbd) || fail losetup
            if [ $round = make ]; then mkfs.$fs -q $([ $fs = xfs ] && echo -f || echo -F) "$loop" || fail "mkfs.$fs"; fi
            mount "$loop" m || fail mount
            if [ $round = make ]; then cp -a "$HERE/../../Sources" m/ && sync; else diff -r "$HERE/../../Sources" m/Sources || fail "other files"; fi
            umount m
            if [ $fs = xfs ]; then xfs_repair -n "$loop" > /dev/null 2>&1 || fail fsck; else e2fsck -fn "$loop" > /dev/null 2>&1 || fail fsck; fi
            losetup -d "$loop"; fusermount3 -u f/nbd 2>/dev/null || fusermount -u f/nbd; wait $fuse
            cairn remove v && cairn engine stop || fail stop
        done
    done
}

test_status_is_fast() {
    cairn create z --table "0 2048 zero" || fail create
    median() { for _ in $(seq 21); do local a b; a=$(date +%s%N); "$@" > /dev/null 2>&1; b=$(date +%s%N); echo $((b - a)); done | sort -n | sed -n 11p; }
    local ours theirs; ours=$(median "$CAIRN" status z); theirs=$(median dmsetup version)
    echo "cairn status ${ours} ns, dmsetup version ${theirs} ns"
    [ "$ours" -le $((theirs * 4)) ] || fail "slower than 4 times dmsetup version"
}

test_reports() {
    truncate -s 64M b.img a.img; truncate -s 16M c.img
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes --quiet c.img > f.txt || fail format
    [ ! -s f.txt ] || fail "--quiet is not: $(cat f.txt)"
    cairn create fast --table "0 131072 ssdcache b.img c.img blocksize 16 writeback" && cairn message fast 0 clean_idle 3600000 || fail create
    printf '0 2048 linear a.img 0\n2048 100 zero\n' | cairn create mix || fail mix
    qemu-io -f raw "$(uri fast)" -c 'write 0 1M' -c 'read 0 2M' -c 'read 0 1M' > /dev/null || fail io
    same "$(cairn ls --noheadings -o name,size,state,targets,dirty_sectors,dirty_share)" "$(printf 'fast:131072:active:ssdcache:2048:6.67\nmix:2148:active:linear,zero::')"
    same "$(cairn ls --noheadings -o name -S 'hit_rate>50 && misses>0')" fast
    same "$(cairn status --noheadings -o name,line,start,length,target --sort -length)" "$(printf 'fast:0:0:131072:ssdcache\nmix:0:0:2048:linear\nmix:1:2048:100:zero')"
    same "$(cairn info -c --noheadings --units m -o size fast)" 64.00m
    cairn status --reportformat json -o name,target,table,hits > r.json
    same "$(/usr/bin/python3 -c 'import json; r = json.load(open("r.json"))["target"]; print(len(r), r[0]["target"], r[2]["hits"] == "")')" "3 ssdcache True"
    # Each counter of each target has a column (Counters.swift), so that it has a description and a metric.
    cairn stats -o json > s.json; cairn info -c -o help > fields.txt 2>&1
    for counter in $(/usr/bin/python3 -c 'import json
for v in json.load(open("s.json"))["volumes"]:
    for t in v["targets"]: print(*t["counters"])'); do
        grep -q "^  $counter " fields.txt || fail "the counter $counter is not described in Sources/cairn/Counters.swift"
    done
    # Each field is in the manual.
    for field in $(sed -n 's/^  \([a-z0-9_]*\)  *- .*/\1/p' fields.txt | grep -vE '_all$|^selected$|^help$'); do
        grep -qx ".It Cm $field" "$HERE/../../man/cairn-report.8" || fail "cairn-report(8) has no $field"
    done
    command -v mandoc > /dev/null || { echo "skipped: no mandoc"; return; }
    for page in cairn-report.8 cairn-json.5 cairn-metrics.5; do
        mandoc -T lint -W warning "$HERE/../../man/$page" > lint.txt 2>&1 || fail "$page: $(cat lint.txt)"
    done
}

test_json() {
    truncate -s 16M b.img a.img; truncate -s 8M c.img
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create fast --table "0 32768 ssdcache b.img c.img blocksize 16 writeback" || fail create
    qemu-io -f raw "$(uri fast)" -c 'write 0 64k' -c 'read 0 64k' > /dev/null || fail io
    printf '0 2048 linear a.img 0\n2048 100 zero\n2148 128 striped 2 8 a.img 4096 a.img 8192\n2276 8 delay a.img 0 1\n2284 8 error\n2292 8 flakey a.img 0 5 0\n' |
        cairn create mix || fail mix
    for report in status table stats; do cairn $report -o json > $report.json || fail $report; done
    cairn stats -o json -v fast > buckets.json; cairn probe -o json c.img > probe.json || fail probe
    /usr/bin/python3 - "$PWD" <<'PY' || fail "other JSON"
import json, sys
def load(name):
    r = json.load(open(name + ".json")); assert r["version"] == 1 and r["report"] == name.replace("buckets", "stats"), r; return r
status, table, stats, buckets, probe = map(load, ["status", "table", "stats", "buckets", "probe"])
fast, mix = status["volumes"]
assert fast["targets"][0]["status"]["dirty"]["sectors"] == 128 and fast["targets"][0]["status"]["read"]["clean"] > 0, fast
# Every target of ours is known: null means that the command lags behind the engine.
assert [t["target"] for t in mix["targets"]] == ["linear", "zero", "striped", "delay", "error", "flakey"], mix
for r, key in ((status, "status"), (table, "parameters")):
    for v in r["volumes"]:
        for t in v["targets"]: assert t[key] is not None, t
fast, mix = table["volumes"]
assert fast["targets"][0]["parameters"] == {"backing": sys.argv[1] + "/b.img", "cache": sys.argv[1] + "/c.img", "blocksize": 16, "mode": "writeback", "assoc": 4, "options": []}, fast
assert mix["targets"][2]["parameters"]["stripes"][1] == {"device": sys.argv[1] + "/a.img", "offset": 8192}, mix
v = buckets["volumes"][0]
assert v["write"]["operations"] == sum(n for _, n in v["write"]["buckets"]) > 0 and v["write"]["bytes"] == 65536, v
assert stats["time"] < buckets["time"] and "buckets" not in stats["volumes"][0]["read"]
assert probe["signatures"][0]["blocksize"] == 16 and probe["signatures"][0]["type"] == "cairn_ssdcache", probe
PY
    refused 2 "Option not recognised" cairn stats -o name
}

test_metrics() {
    truncate -s 16M b.img 'od"d\n.img'; truncate -s 8M c.img
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create fast --table "0 32768 ssdcache b.img c.img blocksize 16 writeback" && cairn message fast 0 clean_idle 3600000 || fail create
    cairn create 'q"uo\te' --table '0 8 linear od"d\\n.img 0' || fail quote
    qemu-io -f raw "$(uri fast)" -c 'write 0 64k' -c 'read 0 128k' -c flush > /dev/null || fail io
    cairn stats --prometheus > m.txt || fail prometheus
    if command -v promtool > /dev/null; then promtool check metrics < m.txt > lint.txt 2>&1 && [ ! -s lint.txt ] || fail "promtool: $(cat lint.txt)"
    else echo "skipped: promtool is not here (Debian: prometheus)"; fi
    /usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || { echo "skipped: no parser (Debian: python3-prometheus-client)"; return; }
    /usr/bin/python3 - <<'PY' || fail "other metrics"
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open("m.txt").read()))
assert len({f.name for f in families}) == len(families)
samples = {}
for f in families:
    assert f.documentation and f.type != "unknown", f
    for s in f.samples: samples[(s.name, frozenset(s.labels.items()))] = s.value
def value(name, **labels): return samples[(name, frozenset(labels.items()))]
assert value("cairn_volume_bytes_total", volume="fast", operation="write") == 65536
assert value("cairn_volume_bytes_total", volume="fast", operation="read") == 131072
assert value("cairn_volume_size_bytes", volume="fast") == 16 << 20
assert value("cairn_ssdcache_dirty_bytes", volume="fast", start="0") == 65536
assert value("cairn_volume_info", volume='q"uo\\te', uuid="") == 1
assert any("od\"d" in dict(labels).get("device", "") for _, labels in samples)
n = value("cairn_volume_latency_seconds_count", volume="fast", operation="write")
assert n == value("cairn_volume_requests_total", volume="fast", operation="write") == value("cairn_volume_latency_seconds_bucket", volume="fast", operation="write", le="+Inf") > 0
assert 0 < value("cairn_volume_latency_seconds_sum", volume="fast", operation="write") < 60
PY
    # Every family is in the manual.
    for name in $(sed -n 's/^# TYPE \([^ ]*\) .*/\1/p' m.txt | grep -v '^cairn_ssdcache'); do
        grep -q "${name#cairn_}\|${name#cairn_volume_}\|${name#cairn_device_}" "$HERE/../../man/cairn-metrics.5" || fail "cairn-metrics(5) has no $name"
    done
}

test_top() {
    truncate -s 64M a.img
    refused 4 "No engine is running" cairn top -b -n 1
    refused 2 "needs a terminal" cairn top < /dev/null
    cairn create disk --table "0 131072 linear a.img 0" && cairn create still --table "0 2048 zero" || fail create
    fio --name=x --ioengine=nbd --uri="$(uri disk)" --rw=randrw --bs=4k --iodepth=8 --size=32M --time_based --runtime=20 > fio.log 2>&1 & local load=$!
    for _ in $(seq 50); do cairn ls --noheadings -o name,open | grep -q disk:1 && break; sleep 0.1; done; sleep 0.5
    cairn top -b -n 2 -d 0.5 > top.txt || fail top
    [ "$(grep -c '^cairn top' top.txt)" = 2 ] || fail "not two: $(cat top.txt)"
    # The busy volume stands first; it reads and has requests in flight, the other has not.
    grep -A1 '^NAME' top.txt | grep -qE '^disk +[0-9.]+k? ' || fail "order: $(cat top.txt)"
    grep -qE '^still +0 +0 ' top.txt || fail "idle: $(cat top.txt)"
    cairn top -b -n 1 -O name -d 0.2 | grep -A1 '^NAME' | grep -q '^disk' || fail "by name"
    cairn top -b -n 1 -O -name -d 0.2 | grep -A1 '^NAME' | grep -q '^still' || fail "by name, reversed"
    cairn stats --interval 0.3 --count 2 > stats.txt || fail stats
    [ "$(grep -cE '^disk +[0-9.]+k? +[0-9.]+k? ' stats.txt)" = 2 ] || fail "stats: $(cat stats.txt)"
    cairn stats --interval 0.1 --count 3 -o json disk | /usr/bin/python3 -c '
import json, sys
reports = [json.loads(line) for line in sys.stdin]
assert len(reports) == 3 and reports[0]["time"] < reports[1]["time"] < reports[2]["time"]' || fail "stats -o json"
    cairn create slow --table "0 8 delay a.img 131000 1500" || fail slow
    qemu-io -f raw "$(uri slow)" -c 'read 0 4k' > /dev/null & local slow=$!
    sleep 0.7; same "$(cairn ls --noheadings -o name,inflight -S name=slow)" slow:1; wait $slow
    same "$(cairn ls --noheadings -o name,inflight,reads -S name=slow)" slow:0:1
    /usr/bin/python3 "$HERE/top.py" "$CAIRN" || fail "on a terminal"
    kill $load; wait $load 2> /dev/null
    same "$(cairn info -c --noheadings -o name --count 2 --interval 0.1 | tr '\n' ' ')" "disk slow still disk slow still "
    refused 1 "repeat a report" cairn table --count 2
}

# reaches LOW HIGH WHAT COMMAND…: operations a second, never above; a machine that is held up by others gets two more chances to reach it.
reaches() {
    local low=$1 high=$2 what=$3 try iops; shift 3
    for try in 1 2 3; do
        "$@" -o json > out.json || fail "$what: $(cat out.json)"
        iops=$(jq '.bench | if .cpu_ns_per_operation > 2e6 then 0 else .iops | floor end' out.json)
        [ "$iops" -le "$high" ] || fail "$what: $iops a second"
        [ "$iops" -ge "$low" ] && return
    done
    fail "$what: $iops a second in the third try"
}

# A benchmark measures what it says, on a table and on a volume, and leaves alone what is not its own.
test_bench() {
    truncate -s 16M a.img; head -c 1M /dev/urandom > e.img
    local sum table="0 32768 linear new.img 0"
    cairn bench --table "$table" --create 16M --mix read=50,write=40,fua=4,flush=3,discard=3 --depth 16 --verify --operations 3000 -o json > out.json ||
        fail "on a table: $(cat out.json)"
    /usr/bin/python3 -c 'import json
b = json.load(open("out.json"))["bench"]
assert b["operations"] == 3000 == sum(b[k]["operations"] for k in ("read", "write", "flush", "discard")), b
assert b["errors"] == 0 and b["blocks_wrong"] == 0 and b["blocks_checked"] > 500, b
assert b["read"]["bytes"] == 4096 * b["read"]["operations"] and "allocations_per_operation" not in b, b
t = b["read"]["latency_ns"]
assert 0 < t["p50"] <= t["p90"] <= t["p99"] <= t["p99.9"] <= t["max"], b' || fail "the report"
    [ ! -e new.img ] || fail "what it made is still there"
    # The content counts: a device that loses a write is found out.
    cairn bench --table "0 32768 flakey a.img 0 0 60 1 drop_writes" --mix write --depth 4 --operations 100 --verify > out.txt 2>&1 && fail "nobody missed the writes"
    grep -q 'The content is wrong' out.txt || fail "$(cat out.txt)"
    # Who sleeps between two requests is served by the clock of now, not of before.
    cairn bench --table "0 32768 delay a.img 0 40" --rate 20 --operations 6 -o json > out.json || fail "at a rate: $(cat out.json)"
    /usr/bin/python3 -c 'import json
t = json.load(open("out.json"))["bench"]["read"]["latency_ns"]
assert t["p50"] >= 38000000, t' || fail "a delay that is none"
    # Both hosts, a cache, its cleaner behind it.
    for io in ring threads; do
        cairn bench --table "0 32768 linear a.img 0" --yes --io $io --mix read=50,write=50 --depth 32 --verify --operations 2000 > out.txt 2>&1 || fail "$io: $(cat out.txt)"
    done
    truncate -s 8M c.img; cairn format-cache --target ssdcache --backing a.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn bench --table "0 32768 ssdcache a.img c.img blocksize 16 writeback" --yes --mix read=50,write=50 --distribution zipf --depth 32 --verify --operations 5000 > out.txt 2>&1 ||
        fail "a cache: $(cat out.txt)"
    cairn cache info c.img | grep -q '^state: *clean' || fail "the cache is not closed: $(cairn cache info c.img)"
    # Without a yes nothing is written, and reading asks nobody.
    sum=$(sha256sum e.img)
    refused 1 "nothing was written" cairn bench --table "0 2048 linear e.img 0" --mix write --operations 10
    cairn bench --table "0 2048 linear e.img 0" --operations 100 > /dev/null || fail "a read"
    same "$(sha256sum e.img)" "$sum"
    # A volume, two connections; the engine has the time that it took.
    truncate -s 16M b.img; cairn create v --table "0 32768 linear b.img 0" || fail create
    cairn bench v --yes --jobs 2 --depth 8 --mix read=48,write=48,flush=2,discard=2 --verify --time 1 -o json > out.json || fail "a volume"
    /usr/bin/python3 -c 'import json
b = json.load(open("out.json"))["bench"]
assert b["cpu_of"] == "engine" and b["cpu_ns_per_operation"] > 0 and b["io"] == "NBD" and b["blocks_wrong"] == 0 < b["blocks_checked"], b' || fail "the report of a volume"
    cairn bench v --yes --block 1M --depth 4 --mix read=50,write=50 --verify --operations 100 > out.txt || fail "large requests: $(cat out.txt)"
    # Any NBD server, through a socket and TCP; what it has is asked about, like a volume's.
    truncate -s 16M k.img; qemu-nbd -k "$PWD/other.sock" -t -x 'a b' -f raw k.img & local other=$!
    for _ in $(seq 100); do [ -S other.sock ] && break; sleep 0.05; done
    cairn bench "nbd+unix:///a%20b?socket=$PWD/other.sock" --yes --mix read=50,write=50 --depth 8 --verify --operations 2000 -o json > out.json || fail "another server"
    /usr/bin/python3 -c 'import json
b = json.load(open("out.json"))["bench"]
assert b["cpu_of"] == "server" and b["cpu_ns_per_operation"] >= 0 and b["blocks_wrong"] == 0 < b["blocks_checked"], b' || fail "the report of another server"
    refused 1 "nothing was written" cairn bench "nbd+unix:///?socket=$PWD/other.sock" --mix write --operations 10
    refused 1 "nbds is not spoken here" cairn bench nbds://localhost/
    refused 1 "connecting to" cairn bench "nbd+unix:///?socket=$PWD/none.sock"
    refused 2 "goes with --table" cairn bench "nbd+unix:///?socket=$PWD/other.sock" --create 1M
    kill $other; wait $other 2> /dev/null
    # One that breaks the protocol is told so, and breaks nothing here.
    local how mix words
    while read -r how mix words; do
        /usr/bin/python3 "$HERE/rude_nbd.py" "$PWD/$how.sock" "$how" & other=$!
        for _ in $(seq 100); do [ -S "$how.sock" ] && break; sleep 0.05; done
        refused 1 "$words" timeout 30 "$CAIRN" bench "nbd+unix:///?socket=$PWD/$how.sock" --yes --mix "$mix" --depth 8 --verify --time 0.2
        kill $other; wait $other 2> /dev/null
    done <<- END
twice read=1,write=1 the server ended the connection
block0 read=1 its smallest block is 0
noflush write=1,flush=1 has no flush
silent read=1 the server has not answered for 10 s
END
    cairn bench "$(cairn export v --nbd tcp:127.0.0.1:0)" --yes --mix write=1 --depth 4 --operations 500 > out.txt 2>&1 || fail "over TCP: $(cat out.txt)"
    # Paced: about as many as asked for.
    reaches 480 510 "a rate of 500" cairn bench v --rate 500 --depth 8 --time 1
    # A slow disk is as slow as it was told to be, at any depth, on either host, and nobody spins for it.
    for io in ring threads; do for depth in 1 16; do
        reaches 115 150 "pace, $io, depth $depth" \
            cairn bench --table "0 32768 linear slow.img,pace=8M 0" --create 16M --io $io --depth $depth --block 64k --mix read=50,write=50 --time 1
    done; done
    truncate -s 16M slow.img; cairn create s --table "0 32768 linear slow.img,cache=buffered,pace=8M 0" || fail "a slow volume"
    same "$(cairn table s)" "0 32768 linear $PWD/slow.img,cache=buffered,pace=8M 0"
    reaches 115 150 "pace of a volume" cairn bench s --block 64k --depth 8 --time 1
    timeout --preserve-status -s INT 0.5 "$CAIRN" bench v --time 60 > out.txt || fail "interrupted: $(cat out.txt)"
}

test_completions() {
    truncate -s 16M b.img; truncate -s 8M c.img; echo "0 8 zero" > table.txt
    cairn format-cache --target ssdcache --backing b.img --blocksize 16 --yes c.img > /dev/null || fail format
    cairn create fast --table "0 32768 ssdcache b.img c.img blocksize 16" && cairn create "we ird" --table "0 8 zero" &&
        cairn create "co:lon" --table "0 8 zero" || fail create
    # The words that are offered as messages are messages.
    for word in $(cairn __complete message fast 0 "" | tail -n +2); do
        local known=0 more
        for more in "" 1 "1 1"; do cairn message fast 0 "$word" $more 2>&1 | grep -qE 'unknown message|no tunable' || known=1; done
        [ $known = 1 ] || fail "$word is no message"
    done
    same "$(cairn __complete message fast 0 policy l | tail -n +2 | tr '\n' ' ')" "lru lfu "
    # Also without an engine, for another engine, and for words that make no sense.
    same "$(cairn __complete --engine nope remove "")" "-"
    same "$(cairn __complete --engine nope target-version ssd | tail -n 1)" ssdcache
    for words in "" "--" "--x" "-" "-o" "no such" "--target= x" "message fast zz x" "-cox y"; do
        cairn __complete $words > /dev/null 2>&1 || fail "__complete $words"
    done
    local ran=0
    for shell in bash zsh fish; do
        command -v $shell > /dev/null || { echo "skipped: $shell is not here"; continue; }
        /usr/bin/python3 "$HERE/completions.py" $shell "$CAIRN" "$HERE/../../completions" "$PWD" || fail "$shell"
        ran=$((ran + 1))
    done
    [ $ran -gt 0 ] || fail "no shell at all"
}

# Two volumes on one writeboost cache: other data in each, a killed engine, both as they were.
test_writeboost_shared() {
    truncate -s 32M a.img b.img x.img; truncate -s 16M c.img
    refused 1 "named twice" cairn format-cache --target writeboost --backing a.img --backing a.img --yes c.img
    refused 2 "one backing" cairn format-cache --target writeboost --format kernel --backing a.img --backing b.img --yes c.img
    cairn format-cache --target writeboost --backing a.img --backing b.img --yes c.img | grep -q "for $PWD/a.img, $PWD/b.img" || fail format
    both() { cairn create va --table "0 65536 writeboost a.img c.img 2 writeback_threshold 0" && cairn create vb --table "0 65536 writeboost b.img c.img"; }
    both || fail create
    refused 1 "has 2 backings, and this device is none of them" cairn create vx --table "0 65536 writeboost x.img c.img"
    refused 1 "claimed by volume va" cairn create vx --table "0 65536 linear c.img 0"
    cairn message va 0 writeback_threshold 0
    io() { qemu-io -f raw "$(uri "$1")" -c "$2" 2>&1 | grep -qE 'wrote|read' || fail "$1 $2"; }
    holds() { qemu-io -f raw "$(uri "$1")" -c "read -P $2 $3" 2>&1 | grep -q 'verification failed' && fail "$1 $3"; true; }
    io va 'write -P 1 0 2M'; io vb 'write -P 2 0 3M'; io va 'write -P 3 8M 4k'; qemu-io -f raw "$(uri va)" -c flush; io vb 'write -f -P 4 8M 4k'
    io va 'write -f -P 5 8392704 4k'
    local engine; engine=$(pid va); kill -9 "$engine"
    for _ in $(seq 100); do [ -d "/proc/$engine" ] || break; sleep 0.1; done
    [ "$(head -c 4096 b.img | od -An -tx1 | tr -d ' \n' | head -c 2)" = 00 ] || fail "written back, though nothing asked for it"
    # One at a time: the other's blocks are kept meanwhile.
    cairn create vb --table "0 65536 writeboost b.img c.img 2 writeback_threshold 0" || fail again
    holds vb 2 '0 3M'; holds vb 4 '8M 4k'
    cairn status vb | grep -qE 'dirty_elsewhere [1-9]' || fail "elsewhere: $(cairn status vb)"
    refused 1 "newest data may be in the cache" cairn create low --table "0 65536 linear a.img 0"
    cairn create va --table "0 65536 writeboost a.img c.img" || fail va
    holds va 1 '0 2M'; holds va 3 '8M 4k'; holds va 5 '8392704 4k'
    # A volume rests, the other works and goes round the ring; a reload of one under the other's load.
    cairn suspend va || fail suspend
    for i in 1 2 3; do io vb "write -P 1$i 16M 12M"; done
    cairn resume va && holds va 1 '0 2M' && holds vb 13 '16M 12M' || fail resume
    cairn load va --table "0 65536 writeboost a.img c.img 2 writeback_threshold 100" && cairn resume va || fail reload
    cairn message va 0 drop_caches
    for _ in $(seq 100); do cairn status va | grep -q 'drain_left 0' && break; sleep 0.1; done
    cairn remove va && cairn remove vb || fail remove
    cmp -n $((2 << 20)) a.img <(head -c 2M /dev/zero | tr '\0' '\1') || fail "a is not written back"
    cmp -n $((3 << 20)) b.img <(head -c 3M /dev/zero | tr '\0' '\2') || fail "b is not written back"
    # One more backing.
    refused 5 "is backing 2 of this cache already" cairn format-cache --target writeboost --add --backing b.img c.img
    cairn format-cache --target writeboost --add --backing x.img c.img | grep -q 'is backing 3 of writeboost' || fail add
    both && cairn create vx --table "0 65536 writeboost x.img c.img" || fail three
    io vx 'write -P 9 0 64k'; holds va 1 '0 2M'
    refused 5 "is locked by process" cairn format-cache --target writeboost --add --backing a.img c.img
    cairn remove va && cairn remove vb && cairn remove vx || fail "remove three"
}

# The first version's manager, from the shell.
test_writeboost_manager() {
    truncate -s 32M a.img b.img n.img; truncate -s 16M c.img
    cairn create mgr --table "0 1 writeboost-mgr" || fail mgr
    m() { cairn message mgr 0 "$@"; }
    refused 1 "cache 0 is none" m resume_cache c.img
    m switch_to 3 || fail switch_to
    refused 1 "no writeboost cache" m resume_cache c.img
    m format_cache_device c.img && m resume_cache c.img || fail resume
    cairn create perflv --table "0 65536 writeboost 5 a.img 3" && cairn create other --table "0 65536 writeboost 6 b.img 3" || fail create
    same "$(cairn table perflv)" "0 65536 writeboost 5 $PWD/a.img 3"
    refused 1 "cache is not set for id(4)" cairn create no --table "0 65536 writeboost 7 n.img 4"
    m allow_migrate 0; same "$(m allow_migrate)" 0
    qemu-io -f raw "$(uri perflv)" -c 'write -P 7 0 1M' | grep -q wrote || fail write
    qemu-io -f raw "$(uri other)" -c 'write -P 8 0 1M' | grep -q wrote || fail write
    m flush_current_buffer 1 || fail flush
    cairn status mgr | grep -q '^nr_segments: ' || fail "status: $(cairn status mgr)"
    refused 1 "2 volumes use cache 3" m free_cache
    local engine; engine=$(pid mgr); kill -9 "$engine"
    for _ in $(seq 100); do [ -d "/proc/$engine" ] || break; sleep 0.1; done
    # Cache 0 is none, and the backing alone is old.
    refused 1 "its newest data may be in the cache" cairn create pass --table "0 65536 writeboost 5 a.img 0"
    cairn create mgr --table "0 1 writeboost-mgr" && m switch_to 3 && m resume_cache c.img || fail "resume again"
    cairn create perflv --table "0 65536 writeboost 5 a.img 3" && cairn create other --table "0 65536 writeboost 6 b.img 3" || fail again
    qemu-io -f raw "$(uri perflv)" -c 'read -P 7 0 1M' | grep -q 'verification failed' && fail "device 5"
    qemu-io -f raw "$(uri other)" -c 'read -P 8 0 1M' | grep -q 'verification failed' && fail "device 6"
    m clear_stat || fail clear_stat
    m force_migrate 1
    for _ in $(seq 100); do [ "$(cairn stats perflv | awk '$1 == "dirty_blocks_of_all" { print $2 }')" = 0 ] && break; sleep 0.1; done
    cairn status -o json mgr | grep -q '"status":{"current_cache_id_ptr":3,' || fail "json: $(cairn status -o json mgr)"
    cairn table -o json perflv | grep -q '"parameters":{"device_id":5,"backing":"' || fail "json: $(cairn table -o json perflv)"
    cairn remove perflv && cairn remove other && m free_cache || fail remove
    cairn create pass --table "0 65536 writeboost 5 b.img 0" || fail pass
    qemu-io -f raw "$(uri pass)" -c 'read -P 8 0 1M' | grep -q 'verification failed' && fail "passed by"
    cairn remove pass
    # It formats nothing that holds something: a filesystem, another cache, a backing.
    command -v mkfs.ext4 > /dev/null && mkfs.ext4 -q -F n.img
    cairn format-cache --target ssdcache --backing a.img --yes b.img > /dev/null 2>&1 || fail ssdcache
    local sum; sum=$(sha256sum n.img b.img)
    command -v mkfs.ext4 > /dev/null && refused 1 "the device is not empty" m format_cache_device n.img
    refused 1 "the device is not empty" m format_cache_device b.img
    cairn create s --table "0 65536 ssdcache a.img b.img writeback" && qemu-io -f raw "$(uri s)" -c 'write 0 4k' -c flush > /dev/null || fail s
    kill -9 "$(pid s)"; sleep 0.2; head -c 32M /dev/zero > zero.img; cp --sparse=never zero.img a.img
    cairn create mgr --table "0 1 writeboost-mgr" || fail mgr
    refused 1 "newest data of the device may be in the cache" m format_cache_device a.img
    same "$(sha256sum n.img)" "$(echo "$sum" | head -n 1)"
    cairn remove mgr || fail "remove mgr"
}

passed=0 failed=0
root=$(mktemp -d /tmp/cairn-e2e.XXXXXX); chmod 755 "$root"
for name in ${*:-$(declare -F | sed -n 's/declare -f test_//p')}; do
    mkdir "$root/$name"
    if (cd "$root/$name" && export CAIRN_RUNTIME_DIR=$PWD/rt CAIRN_STATE_DIR=$PWD/st && mkdir -m 700 rt st && "test_$name") > "$root/$name.log" 2>&1; then
        echo "ok $name$(grep '^skipped' "$root/$name.log" | sed 's/^/ # /')"; passed=$((passed + 1))
    else
        echo "not ok $name"; sed 's/^/    /' "$root/$name.log" | tail -20; failed=$((failed + 1))
    fi
    CAIRN_RUNTIME_DIR=$root/$name/rt "$CAIRN" engine stop --force > /dev/null 2>&1
    pkill -9 -f "$root/$name/" 2> /dev/null  # engines, and servers of a test that failed
    # What a failed test left behind.
    for at in $(awk -v d="$root/$name/" 'index($2, d) == 1 {print $2}' /proc/mounts); do umount "$at"; done
    for loop in $(losetup -a 2>/dev/null | grep -F "$root/$name/" | cut -d: -f1); do losetup -d "$loop"; done
    rm -rf "${root:?}/$name" 2> /dev/null || { sleep 1; rm -rf "${root:?}/$name"; }  # a shell may still write there
done
rm -rf "$root"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
