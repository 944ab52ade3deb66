"""fua.py URI DEPTH SECONDS MIB: random 4 KiB writes with FUA, which fio's nbd engine has not, by libnbd; prints how many were answered, in how
many seconds. Python costs some 10 us a request, less than any sync."""

import random
import sys
import time

import nbd

uri, depth, seconds, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) << 20
connection = nbd.NBD()
connection.connect_uri(uri)
data = nbd.Buffer.from_bytearray(bytearray(random.randbytes(4096)))
answered, start = 0, time.monotonic()
end = start + seconds


def write():
    connection.aio_pwrite(data, random.randrange(size // 4096) * 4096, completed, nbd.CMD_FLAG_FUA)


def completed(error):
    global answered
    value = error if isinstance(error, int) else error.value
    if value:
        sys.exit("a write failed: errno %d" % value)
    answered += 1
    return 1


going = 0
while True:
    done = answered
    while going - done < depth and time.monotonic() < end:
        write()
        going += 1
    if going == answered:
        break
    connection.poll(-1)
print(answered, time.monotonic() - start)
connection.shutdown()
