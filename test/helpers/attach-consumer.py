"""A program that attaches, step by step: it prints each step as JSON and goes on when a line comes.

Steps: connected, sent, granted, mapped, read (with a SHA-256 of every tensor); then `read` and `close` on demand.
"""

import array
import hashlib
import json
import mmap
import os
import socket
import struct
import sys


def say(**what):
    print(json.dumps(what), flush=True)
    return sys.stdin.readline().strip()


def main():
    path, request = sys.argv[1], json.loads(sys.argv[2])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    say(step="connected")
    message = json.dumps({"v": 1, "expect": None, **request}).encode()
    connection.sendall(struct.pack("<I", len(message)) + message)
    say(step="sent")
    received, descriptors = b"", array.array("i")
    while len(received) < 4 or len(received) < 4 + struct.unpack("<I", received[:4])[0]:
        data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 8))
        for _, _, rights in ancillary:
            descriptors.frombytes(rights)
        if not data:
            say(step="gone")
            return
        received += data
    reply = json.loads(received[4:])
    command = say(step="granted", ok=reply["ok"], descriptors=len(descriptors), problem=reply.get("problem"))
    memory = mmap.mmap(descriptors[0], os.fstat(descriptors[0]).st_size, access=mmap.ACCESS_READ)
    os.close(descriptors[0])
    command = say(step="mapped", exportId=reply["exportId"])
    while command != "exit":
        if command == "close":
            connection.close()
        tensors = {
            tensor["name"]: hashlib.sha256(memory[tensor["offset"] : tensor["offset"] + tensor["byteLength"]]).hexdigest()
            for tensor in reply["tensors"]
        }
        command = say(step="read", tensors=tensors)


main()
