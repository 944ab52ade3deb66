"""rude_nbd.py SOCKET twice|block0|noflush|silent: an NBD server that does what none may do, for one client after the other."""

import socket
import struct
import sys


def exactly(client, count):
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(client, how):
    client.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
    exactly(client, 4)
    magic, option, length = struct.unpack(">QII", exactly(client, 16))
    exactly(client, length)
    reply = lambda kind, body: client.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body)
    reply(3, struct.pack(">HQH", 0, 16 << 20, 1 if how == "noflush" else 1 | 4 | 8 | 32))
    reply(3, struct.pack(">HIII", 3, 0 if how == "block0" else 1, 4096, 1 << 20))
    reply(1, b"")
    while True:
        _, _, kind, cookie, _, length = struct.unpack(">IHHQQI", exactly(client, 28))
        if kind == 2:
            return
        if kind == 1:
            exactly(client, length)
        for _ in range({"twice": 2, "silent": 0}.get(how, 1)):
            client.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + (b"\0" * length if kind == 0 else b""))


server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(8)
while True:
    connection = server.accept()[0]
    try:
        serve(connection, sys.argv[2])
    except (EOFError, OSError):
        pass
    connection.close()
