"""superblock.py FILE FIELD VALUE: changes a field of both superblocks of an ssdcache or a writeboost cache and mends their
checksums, as a newer cairn would have written them. Fields: version, compatible, incompatible."""

import struct
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


form, offset = {"version": ("<I", 8), "compatible": ("<Q", 16), "incompatible": ("<Q", 24)}[sys.argv[2]]
with open(sys.argv[1], "r+b") as device:
    for place in (0, 65536):
        device.seek(place)
        block = bytearray(device.read(8))
        block += device.read((36864 if block == b"cairnWBc" else 4096) - 8)
        struct.pack_into(form, block, offset, int(sys.argv[3]))
        struct.pack_into("<I", block, 12, 0)
        struct.pack_into("<I", block, 12, crc32c(block))
        device.seek(place)
        device.write(block)
