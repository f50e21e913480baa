# SPDX-License-Identifier: MIT
"""Real memory for tests: a process that takes and frees it, and the amount to take."""

import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from support.daemon import UPDATE_PERIOD_MS
from support.waiting import eventually

PAGE_SIZE = os.sysconf("SC_PAGESIZE")

_HOG = """
import mmap, sys
held = None
for line in sys.stdin:
    before, held = held, None
    if int(line):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        held = mmap.mmap(-1, int(line), flags=flags)
    if before is not None:
        before.close()
    print("done", flush=True)
"""


def used_pages(fd: int) -> int:
    """Return ``used`` as it is now, by a device with QUICK's update_period.

    What the device says at once may be of before: a threshold set by it would be as far from the present
    as what was freed just then.
    """
    fresh_s = time.monotonic() + UPDATE_PERIOD_MS / 1000
    eventually(lambda: time.monotonic() > fresh_s, "what was sampled before is too old to be told")
    words = os.pread(fd, 4096, 0).split()
    return int(words[words.index(b"used") + 1])


def step_pages() -> int:
    """Return how far from the present value a test sets its threshold.

    Far beyond what else runs on the machine moves meanwhile, and small enough for a guest of 1 GiB.
    """
    total_pages = os.sysconf("SC_PHYS_PAGES")
    return min(256 << 20, total_pages * PAGE_SIZE // 14) // PAGE_SIZE


class Hog:
    """A process that holds as much memory as it is told to."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _HOG]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hold(0)  # it is up, and its own start moves nothing any more

    def hold(self, pages: int) -> None:
        """Take ``pages``, then free those that were held before; return when that is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{pages * PAGE_SIZE}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free everything."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
