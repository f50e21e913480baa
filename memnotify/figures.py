# SPDX-License-Identifier: MIT
"""The memory figures: what they are, where they are read and how they are written."""

import os
import re
from typing import NamedTuple, Self

PAGE_SIZE = os.sysconf("SC_PAGESIZE")
"""Bytes in a page, the unit of every figure."""


class Figures(NamedTuple):
    """The system's memory at one moment, in pages, in the order of the device's line."""

    total: int
    used: int
    active: int

    @property
    def line(self) -> bytes:
        """The line that a client reads: ``total N used N active N`` and a newline."""
        return b"total %d used %d active %d\n" % self


NAMES = Figures._fields
"""The names a client may use in a write, in the order of the line."""
TOTAL = NAMES.index("total")
USED = NAMES.index("used")

# Every one of them exists since Linux 2.6.32 (Shmem came last).
_FIELDS = (
    "MemTotal",
    "MemFree",
    "Buffers",
    "Cached",
    "SwapCached",
    "Active",
    "Mlocked",
    "SwapTotal",
    "SwapFree",
    "Shmem",
    "SReclaimable",
)
# In the kernel's order (fs/proc/meminfo.c:meminfo_proc_show): one search from left to right finds them all.
_MEMINFO = re.compile(b"".join(b"(?ms:.*?^%s: +([0-9]+) kB$)" % name.encode() for name in _FIELDS))
_PCP_COUNT = re.compile(rb"^ +count: +([0-9]+)$", re.MULTILINE)


class MeterError(RuntimeError):
    """The kernel's memory files do not say what this program needs; the text holds what they said."""


class Meter:
    """Reads the figures from two kept-open files; no state besides them, so any thread may call it.

    ``pcp_is_free`` counts the pages on the per-CPU free lists as free. The kernel's MemFree leaves
    them out, and since 6.7 they may be an eighth of a zone for minutes (mm/page_alloc.c:nr_pcp_high).
    Raises OSError if a file cannot be opened.
    """

    def __init__(
        self, *, pcp_is_free: bool = True, meminfo: str = "/proc/meminfo", zoneinfo: str = "/proc/zoneinfo"
    ) -> None:
        self.pcp_is_free = pcp_is_free
        self._meminfo = os.open(meminfo, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._zoneinfo = os.open(zoneinfo, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._meminfo)
            raise

    def plain(self) -> Figures:
        """Read the figures without the per-CPU lists: ``used`` is then an upper bound of the exact one.

        Costs one read of /proc/meminfo. Raises MeterError if a field is missing.
        """
        return self._read(pcp_pages=0)

    def exact(self) -> Figures:
        """Read the figures as the contract defines them.

        With ``pcp_is_free`` this costs a read of /proc/zoneinfo as well, several times as dear and
        growing with the number of CPUs and zones. Raises MeterError.
        """
        return self._read(self._pcp_pages()) if self.pcp_is_free else self.plain()

    def close(self) -> None:
        """Close both files; the meter cannot be used afterwards."""
        os.close(self._meminfo)
        os.close(self._zoneinfo)

    def __enter__(self) -> Self:
        """Return the meter itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the meter."""
        self.close()

    def _read(self, pcp_pages: int) -> Figures:
        # 16 KiB: the file has about 1.5 KB; one pread is one pass of meminfo_proc_show, so one moment.
        text = os.pread(self._meminfo, 16384, 0)
        found = _MEMINFO.match(text)
        if found is None:
            msg = (
                f"/proc/meminfo lacks one of {', '.join(_FIELDS)}; it reads:\n{text.decode(errors='replace')}"
            )
            raise MeterError(msg)
        (ram, free, buffers, cached, swap_cached, active, mlocked, swap, swap_free, shmem, reclaimable) = map(
            int, found.groups()
        )
        total_kib = ram + swap
        # The contract's formula; Buffers + Cached + SwapCached is the kernel's NR_FILE_PAGES.
        used_kib = (
            total_kib - free - reclaimable - (buffers + cached + swap_cached) + shmem + mlocked - swap_free
        )
        kib = PAGE_SIZE // 1024
        return Figures(total_kib // kib, max(0, used_kib // kib - pcp_pages), active // kib)

    def _pcp_pages(self) -> int:
        chunks = []
        # One read ends where the kernel's buffer does, and a machine with many CPUs has more.
        offset = 0
        while chunk := os.pread(self._zoneinfo, 1 << 18, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return sum(map(int, _PCP_COUNT.findall(b"".join(chunks))))
