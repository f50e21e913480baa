# SPDX-License-Identifier: MIT
"""The kernel's table of mounts. A stat of the mounted file could wait for the daemon that serves it."""

import os
import re
from typing import NamedTuple

FUSE_FILE = "fuse.memnotify"
"""The type of a device that is served as a FUSE file."""


class Mount(NamedTuple):
    """One line of mountinfo."""

    number: int
    """Its mnt_id, as /proc/PID/fdinfo has it too."""
    device: str
    """The number of the file system's device, the same in each mount namespace."""
    type: str
    options: dict[str, str]
    """The file system's own options, such as user_id and allow_other for FUSE; the value may be empty."""


def canonical_path(path: str) -> str:
    """Return the absolute path with its directories resolved, as mountinfo has it.

    The last component stays: a link there must not lead elsewhere. Raises OSError if the path is relative and
    the working directory was removed.
    """
    try:
        path = os.path.abspath(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, "the working directory was removed: give an absolute path", path
        ) from None
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def read_mounts(path: str | None, table: str = "/proc/self/mountinfo") -> list[Mount]:
    """Return what is mounted at ``path``, or anywhere if that is None, the topmost last. Raises OSError."""
    found = []
    with open(table, "rb") as mounts:
        for line in mounts:
            fields, _, rest = line.partition(b" - ")
            words_before = fields.split(b" ")
            place = _unescape(words_before[4])
            if path is None or place == os.fsencode(path):
                words = os.fsdecode(rest).split()
                pairs = (option.partition("=") for option in words[-1].split(","))
                options = {name: value for name, _, value in pairs}
                found.append(Mount(int(words_before[0]), os.fsdecode(words_before[2]), words[0], options))
    return found


def mount_points(type_: str, table: str = "/proc/self/mountinfo") -> list[str]:
    """Return where file systems of this type are mounted with their own root. Raises OSError."""
    found = []
    with open(table, "rb") as mounts:
        for line in mounts:
            fields, _, rest = line.partition(b" - ")
            root, place = fields.split(b" ")[3:5]
            if root == b"/" and rest.split(b" ")[0] == type_.encode():
                found.append(os.fsdecode(_unescape(place)))
    return found


def _unescape(place: bytes) -> bytes:
    # proc(5) escapes only blank, tab, newline and backslash in a path, in octal.
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), place)


def mount_number(fd: int) -> int:
    """Return the mount of a descriptor; st_dev does not tell it, since overlayfs files have their own."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        (line,) = (line for line in info if line.startswith(b"mnt_id:"))
    return int(line.split()[1])
