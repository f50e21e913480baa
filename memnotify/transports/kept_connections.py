# SPDX-License-Identifier: MIT
"""What one daemon's socket server leaves to the next one: each connection's observer and unfinished writes.

It is written once, at a graceful end, as JSON into a file without a name.
"""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from memnotify.abi.thresholds import Level
from memnotify.engine.observer import NO_HANDLE
from memnotify.engine.saved_state import NO_PLACE, Armed, Record


class KeptConnectionsError(Exception):
    """The file does not hold connections; the text says why."""


class KeptConnection(NamedTuple):
    """A connection whose socket has the number ``inode``."""

    inode: int
    record: Record
    text: bytes
    overlong: bool
    refusal: bytes
    reads: int
    event: bool


def write(connections: Iterable[KeptConnection], names: Sequence[str]) -> int:
    """Return a file with the connections; ``names`` are those of the figures. Raises OSError."""
    kept = [
        [each.hex() if isinstance(each, bytes) else each for each in connection] for connection in connections
    ]
    fd = os.memfd_create("memnotify-connections", os.MFD_CLOEXEC)
    with open(fd, "w", encoding="utf-8", closefd=False) as file:
        json.dump([list(names), kept], file)
    return fd


def read(fd: int, names: Sequence[str]) -> list[KeptConnection]:
    """Return the connections in a file, with indexes for these ``names``.

    The thresholds of figures that are no more are left out. Raises KeptConnectionsError.
    """
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, encoding="utf-8", closefd=False) as file:
            before, kept = json.load(file)
        # The last one is the cgroup.
        places = {place: names.index(name) for place, name in enumerate(before) if name in names}
        places[len(before)] = len(names)
        return [_connection(each, places) for each in kept]
    except (OSError, TypeError, ValueError) as error:
        raise KeptConnectionsError(
            f"their state is not whole, or another version wrote it ({error})"
        ) from error


def _connection(kept: list[Any], places: dict[int, int]) -> KeptConnection:
    connection = KeptConnection(*kept)
    record = Record(*connection.record)
    thresholds = [
        Armed(places[figure], Level(*level), sign, value)
        for figure, level, sign, value in record.thresholds
        if figure in places
    ]
    return connection._replace(
        record=record._replace(place=NO_PLACE, kh=NO_HANDLE, thresholds=thresholds),
        text=bytes.fromhex(kept[2]),
        refusal=bytes.fromhex(kept[4]),
    )
