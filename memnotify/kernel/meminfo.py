# SPDX-License-Identifier: MIT
"""The memory figures read from /proc/meminfo and /proc/zoneinfo."""

import errno
import os
import re
import struct
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Self

from memnotify.abi.figures import PAGE_SIZE, Figures, figures_with

_PAGE_KIB = PAGE_SIZE // 1024

# Each of them has existed since Linux 2.6.32 (Shmem came last).
_FIELDS = (
    b"MemTotal",
    b"MemFree",
    b"Buffers",
    b"Cached",
    b"SwapCached",
    b"Active",
    b"Active(file)",
    b"Inactive(file)",
    b"Mlocked",
    b"SwapTotal",
    b"SwapFree",
    b"Shmem",
    b"SReclaimable",
)
_TERM = re.compile(r"([+-]?) ?(\w+(?:\(\w+\))?)")
_LINE = re.compile(rb"^(.+):( *[0-9]+) kB\n", re.MULTILINE)
_COUNT = re.compile(rb"count: +([0-9]+)\n +high")
# The first CPU's lines in each zone; the other CPUs have the same limits (mm/page_alloc.c:pageset_update).
_FIRST_PAGESET = re.compile(rb"pagesets\n +cpu: .*\n((?: {5,}.*\n)*? {5,}high.*\n(?: {5,}.*\n)*)")
_HIGH = re.compile(rb"high\w*: +([0-9]+)")
# How far one CPU's lists of one zone can exceed their limit (510 pages seen under load). The kernel fills an
# empty list whatever the others hold (mm/page_alloc.c:nr_pcp_alloc): 12 lists of small pages with a batch of
# at most 63 each, and 2 lists with 2 huge pages each. It adds one more huge page before it frees the surplus
# (free_frozen_page_commit).
_BEYOND_LIMIT_PAGES = 12 * 63 + (2 * 2 + 1) * (PAGE_SIZE // 8)
# Each CPU moves pages between its lists and the rest in batches of 63, at times 32 of them. A difference of
# less than one batch needs no second reading.
_STILL_PAGES = 64 * (os.cpu_count() or 1)
# While two processes on two CPUs took and freed memory all the time, at least 95 % of exact readings needed
# one attempt and less than 1 % all four.
_ATTEMPTS = 4


# A larger text is not this kernel's: 4,096 CPUs on 16 nodes make 20 MB.
_ZONEINFO_MAX = 1 << 26
# KiB; a larger field is an underflow in the kernel, or in a program that emulates the file.
_POSSIBLE_KIB = 1 << 52


class MemInfoError(OSError):
    """The kernel's memory files cannot be read, or their values are impossible; errno is always EIO.

    A client that got the file's own errno could misunderstand it: ENOTCONN means that the daemon has ended.
    """

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)

    def __str__(self) -> str:
        """Return the text, with the contents of the files."""
        return str(self.strerror)


class _Columns:
    """The positions of fields in one text of /proc/meminfo; they stay until a value outgrows its column.

    Raises MemInfoError if a field is missing or there twice.
    """

    def __init__(self, text: bytes, fields: Sequence[bytes]) -> None:
        lines = [line for line in _LINE.finditer(text) if line[1] in fields]
        names = [line[1] for line in lines]
        wrong = [field for field in fields if names.count(field) != 1]
        if wrong:
            fault = f"/proc/meminfo must have {b', '.join(wrong).decode()} once"
            if not set(wrong) & {*_FIELDS, *names}:
                raise MemInfoError(f"{fault}, but lacks it: remove from --figures what is computed from it")
            raise MemInfoError(f"{fault}; it reads:\n{text.decode(errors='replace')}")
        layout, end = "", 0
        for line in lines:
            # A whole line, with " kB\n" at its end and the newline before it (unless that belongs to the line
            # before), because "SwapCached:" contains "Cached:".
            start = max(end, line.start() - 1)
            layout += f"{start - end}x{line.start(2) - start}s{len(line[2])}s4s"
            end = line.end()
        self._unpack = struct.Struct(layout).unpack_from
        words = self._unpack(text)
        self._labels, self._units = words[0::3], words[2::3]
        self._values = [3 * names.index(name) + 1 for name in fields]

    def values(self, text: bytes) -> list[int]:
        """Return the values of the fields in KiB.

        Raises ValueError or struct.error if one is in another column. No value is cut:
        a longer one would have moved its label or its unit.
        """
        words = self._unpack(text)
        if words[0::3] != self._labels or words[2::3] != self._units:
            raise ValueError
        return [int(words[i]) for i in self._values]


class MemInfoReader:
    """Reads the figures from two kept-open files; any thread may call it.

    By default pages on the per-CPU free lists are free too. The kernel's MemFree leaves them out, and since
    6.7 they may be an eighth of a zone for minutes (mm/page_alloc.c:nr_pcp_high). ``extra`` has the extra
    figures by name, with the fields that each is made of; each is 0 at least, and total at most. Raises
    OSError if a file cannot be opened.
    """

    pcp_limit_pages = 0
    """How many pages the per-CPU lists can hold; 0 before the first exact reading.

    Each exact reading measures it again, because it grows with CPUs, memory and a sysctl
    (vm.percpu_pagelist_high_fraction).
    """

    def __init__(
        self,
        *,
        pcp_is_free: bool = True,
        extra: Mapping[str, str] | None = None,
        meminfo: str = "/proc/meminfo",
        zoneinfo: str = "/proc/zoneinfo",
    ) -> None:
        self.pcp_is_free = pcp_is_free
        """Whether pages on the per-CPU free lists count as free; if not, plain figures are exact."""
        made_of = {} if extra is None else {name: _TERM.findall(text) for name, text in extra.items()}
        more = (field.encode() for terms in made_of.values() for _, field in terms)
        self._fields = tuple(dict.fromkeys((*_FIELDS, *more)))
        self._extra = [
            [(-1 if sign == "-" else 1, self._fields.index(field.encode())) for sign, field in terms]
            for terms in made_of.values()
        ]
        self._figures = figures_with(tuple(made_of))
        self.names = self._figures._fields
        """The names of the figures, in the order of the line."""
        no_kernels = b"".join(b"%s:0 kB\n" % field for field in self._fields)
        self._columns = _Columns(no_kernels, self._fields)
        self._exact = Lock()
        # Kept, because a large machine's text is half a MB, which must not be allocated when memory is short.
        self._zones = bytearray(1 << 16)
        self._used = 0
        self._paths = meminfo, zoneinfo
        self._failed = False
        self._meminfo = os.open(meminfo, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._zoneinfo = os.open(zoneinfo, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._meminfo)
            raise

    def read_plain(self) -> Figures:
        """Read the figures without the per-CPU lists: ``used`` is then an upper bound of the exact one.

        Costs one read of /proc/meminfo. After a failure both files are opened again. Raises MemInfoError if a
        file cannot be read, a field is missing, or a part is larger than its whole: lxcfs and balloons
        report such figures for moments.
        """
        try:
            if self._failed:
                self._reopen()
            # 16 KiB: the file has about 1.5 KB; one pread is one pass of meminfo_proc_show, so one moment.
            return self._figures_of(os.pread(self._meminfo, 16384, 0))
        except MemInfoError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise MemInfoError(f"/proc/meminfo cannot be read: {error.strerror}") from error

    def _figures_of(self, text: bytes) -> Figures:
        columns = self._columns
        try:
            values = columns.values(text)
        except (ValueError, struct.error):
            values = self._new_columns(text).values(text)
        needed = values[: len(_FIELDS)] if self._extra else values
        (
            ram, free, buffers, cached, swap_cached, active, active_file, inactive_file,
            mlocked, swap, swap_free, shmem, reclaimable,
        ) = needed  # fmt: skip
        if free > ram or swap_free > swap or max(values) > _POSSIBLE_KIB:
            raise MemInfoError(f"/proc/meminfo is impossible; it reads:\n{text.decode(errors='replace')}")
        total_kib = ram + swap
        # Mlocked counts anonymous memory and tmpfs too, which `used` has already. Pages of files that the
        # kernel cannot drop are on no list of files (mm/swap.c: they are on the unevictable one).
        locked_kib = min(mlocked, max(0, buffers + cached - shmem - active_file - inactive_file))
        # The contract's formula; Buffers + Cached + SwapCached is the kernel's NR_FILE_PAGES.
        used_kib = (
            total_kib - free - reclaimable - (buffers + cached + swap_cached) + shmem + locked_kib - swap_free
        )
        used_kib = max(0, min(used_kib, total_kib))
        three = Figures(total_kib // _PAGE_KIB, used_kib // _PAGE_KIB, min(active, total_kib) // _PAGE_KIB)
        return self._with_extra(three, values) if self._extra else three

    def _new_columns(self, text: bytes) -> _Columns:
        columns = _Columns(text, self._fields)
        try:
            columns.values(text)
        except ValueError:  # a number beyond sys.int_info.default_max_str_digits
            raise MemInfoError("/proc/meminfo has a number that is too long") from None
        self._columns = columns
        return columns

    def _reopen(self) -> None:
        """Open both files again, at the same descriptor numbers: another thread may be reading."""
        for path, fd in zip(self._paths, (self._meminfo, self._zoneinfo), strict=True):
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.dup2(opened, fd, inheritable=False)
            finally:
                os.close(opened)
        self._failed = False

    def read_exact(self, plain: Figures | None = None) -> tuple[Figures, int]:
        """Return the figures as the contract defines them, and the number of pages on the per-CPU lists.

        ``plain`` are figures read just before, if there are any. Costs one read of /proc/meminfo more than
        those, and one of /proc/zoneinfo, which grows with CPUs and zones. Pages
        that move between the lists and the rest in the meantime would count twice or not at all, so the
        reading is repeated until ``used`` is known within a batch. If that fails, return the possible
        ``used`` nearest to the last one: an uncertain movement must not cross a threshold. Raises
        MemInfoError.
        """
        if not self.pcp_is_free:
            return plain or self.read_plain(), 0
        # One thread at a time: the kernel remembers one position of the file between two preads. A pread
        # elsewhere generates the text again, in which numbers may have another length (fs/seq_file.c).
        with self._exact:
            after = plain or self.read_plain()
            for _ in range(_ATTEMPTS):
                before = after
                pcp_pages = self._pcp_pages()
                after = self.read_plain()
                if pcp_pages > after.total:
                    self._failed = True
                    raise MemInfoError(
                        f"/proc/zoneinfo is impossible: {pcp_pages} pages on the per-CPU lists"
                    )
                low, high = sorted((before.used - pcp_pages, after.used - pcp_pages))
                if high - low <= _STILL_PAGES:
                    break
            self._used = max(low, min(self._used, high))
            used = max(0, self._used)
            return after._replace(used=used), max(0, after.used - used)

    def close(self) -> None:
        """Close both files; the reader cannot be used afterwards."""
        os.close(self._meminfo)
        os.close(self._zoneinfo)

    def __enter__(self) -> Self:
        """Return the reader itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the reader."""
        self.close()

    def _with_extra(self, three: Figures, values: list[int]) -> Figures:
        # A method of its own: a generator in it would make read_plain slower without extra figures.
        extra = (sum(sign * values[field] for sign, field in terms) for terms in self._extra)
        return self._figures(*three, *(min(max(0, kib) // _PAGE_KIB, three.total) for kib in extra))

    def _pcp_pages(self) -> int:
        try:
            return self._read_zones()
        except MemInfoError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise MemInfoError(f"/proc/zoneinfo cannot be read: {error.strerror}") from error

    def _read_zones(self) -> int:
        text, size = self._zones, 0
        # A read ends where the kernel's buffer does, even within a number, and the next one continues there:
        # many CPUs or several nodes need more than one. The kernel locks a zone while it prints it.
        while got := os.preadv(self._zoneinfo, [memoryview(text)[size:]], size):
            size += got
            if size == _ZONEINFO_MAX:
                raise MemInfoError("/proc/zoneinfo does not end")
            if size == len(text):
                text.extend(bytes(size))
        try:
            counts = [int(count) for count in _COUNT.findall(text, 0, size)]
            pagesets = _FIRST_PAGESET.findall(text, 0, size)
            limits = [max(map(int, _HIGH.findall(pageset))) for pageset in pagesets]
        except ValueError:  # a number beyond sys.int_info.default_max_str_digits
            raise MemInfoError("/proc/zoneinfo has a number that is too long") from None
        if not limits:
            raise MemInfoError(
                f"/proc/zoneinfo has no pagesets; it reads:\n{text[:size].decode(errors='replace')}"
            )
        pcp_pages = sum(counts)
        limit_pages = len(counts) * sum(limits) // len(limits) + len(counts) * _BEYOND_LIMIT_PAGES
        # Never lowered: while memory is taken offline the limits are 0 (mm/page_alloc.c:zone_pcp_disable).
        self.pcp_limit_pages = max(self.pcp_limit_pages, limit_pages, pcp_pages)
        return pcp_pages
