"""Writes a file that is a kernel as far as an import looks: schemathesis_kernel.py FILE."""

import struct
import sys

DRIVERS = ["virtio_console", "virtio_blk", "virtio_net", "ext4"]

text = "Linux version %s\0Linux version 6.1.0-small (builder@host)\0" + "".join(d + "\0" for d in DRIVERS)
header = bytearray(64)
header[:7] = b"\x7fELF\x02\x01\x01"
struct.pack_into("<HH", header, 16, 2, 62)
struct.pack_into("<Q", header, 32, 64)
struct.pack_into("<H", header, 56, 1)
segment = bytearray(56)
struct.pack_into("<Q", segment, 8, 120)
struct.pack_into("<Q", segment, 32, len(text))
with open(sys.argv[1], "wb") as file:
    file.write(header + segment + text.encode())
