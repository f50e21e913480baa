# SPDX-License-Identifier: MIT
"""What is mounted where, by the kernel's table: to ask the file itself may wait for whoever serves it."""

import os
import re

FUSE_FILE = "fuse.memnotify"
"""The type of a device that is served as a FUSE file."""


def mounts_at(path: str, table: str = "/proc/self/mountinfo") -> list[str]:
    """Return the types of what is mounted at ``path``, the topmost last."""
    found = []
    # Bytes: a path may have any but the blank, tab, newline and backslash, which stand in octal (proc(5)).
    with open(table, "rb") as mounts:
        for line in mounts:
            fields, _, rest = line.partition(b" - ")
            place = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields.split(b" ")[4])
            if place == os.fsencode(path):
                found.append(os.fsdecode(rest.split(b" ")[0]))
    return found
