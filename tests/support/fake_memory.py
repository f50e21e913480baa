# SPDX-License-Identifier: MIT
"""Fake memory files for a real daemon, which only the test changes."""

import os
import sys
from pathlib import Path

# The daemon itself, with its own arguments, except for the one file.
_SERVE = """
import os, sys
meminfo, opened = sys.argv[1], os.open
os.open = lambda path, *args, **more: opened(meminfo if path == "/proc/meminfo" else path, *args, **more)
from memnotify.cli import main
sys.exit(main(sys.argv[2:]))
"""
_MEMINFO = b"""\
MemTotal:       10000000 kB
MemFree:         %d000000 kB
MemAvailable:    %d000000 kB
Buffers:               0 kB
Cached:                0 kB
SwapCached:            0 kB
Active:          %d000000 kB
Inactive:              0 kB
Active(file):          0 kB
Inactive(file):        0 kB
Mlocked:               0 kB
SwapTotal:      00000000 kB
SwapFree:       00000000 kB
Shmem:                 0 kB
SReclaimable:          0 kB
"""


class FakeMemory:
    """10 GB, of which ``used_percent`` are used: 10 to 100, in tens. 10 % are active, 90 % available.

    ``program`` is what a daemon.Daemon is started with, and ``ARGUMENTS`` what it needs.
    """

    ARGUMENTS = ("--no-pcp-is-free",)

    def __init__(self, directory: Path, used_percent: int = 50) -> None:
        self._path = directory / "meminfo"
        self._path.write_bytes(_MEMINFO % (10 - used_percent // 10, 9, 1))
        self.program = (sys.executable, "-c", _SERVE, str(self._path))

    def use(self, used_percent: int) -> None:
        """Set the percentage that is used."""
        self._write("MemFree", 10 - used_percent // 10)

    def activate(self, active_percent: int) -> None:
        """Set the percentage that is active, up to 90."""
        self._write("Active", active_percent // 10)

    def make_available(self, available_percent: int) -> None:
        """Set the percentage that is available, up to 90."""
        self._write("MemAvailable", available_percent // 10)

    def add_swap(self) -> None:
        """Add 20 GB of swap, all free: total becomes 30 GB, and the percentages a third."""
        # Figures with more free than there is are not believed, so no reading is of the time in between.
        self._write("SwapFree", 2)
        self._write("SwapTotal", 2)

    def remove_swap(self) -> None:
        """Take the swap away again."""
        self._write("SwapTotal", 0)
        self._write("SwapFree", 0)

    def break_off(self) -> None:
        """Let each reading be one that cannot be, until ``remove_swap``."""
        self._write("SwapFree", 2)

    def move(self, name: str, place: int, digit: int) -> None:
        """Set a digit of a field: ``place`` 0 is that of tens of percent, 1 that of single percents."""
        self._write(name, digit, place)

    def damage(self, *, damaged: bool) -> None:
        """Let no reading succeed, or let them succeed again."""
        self._put(0, b"!" if damaged else b"M")

    def _write(self, name: str, digit: int, place: int = 0) -> None:
        line = next(
            line for line in (_MEMINFO % (0, 0, 0)).splitlines() if line.startswith(name.encode() + b":")
        )
        self._put((_MEMINFO % (0, 0, 0)).index(line) + line.index(b"0000000") + place, b"%d" % digit)

    def _put(self, place: int, byte: bytes) -> None:
        fd = os.open(self._path, os.O_WRONLY)
        # One byte, so a concurrent read gets either the old number or the new one.
        os.pwrite(fd, byte, place)
        os.close(fd)
