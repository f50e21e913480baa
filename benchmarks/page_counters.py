# SPDX-License-Identifier: MIT
"""Measure what could wake the daemon instead of a timer: the cost for the machine, and the coverage.

The kernel counts each candidate as it would for the daemon, while loads that are heavy on pages run.
Each is then armed for half of the memory that is taken at once, in several ways.
"""

import argparse
import ctypes
import mmap
import os
import platform
import select
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from common import HERE, BenchmarkError, build, positive, progress, run, table

from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.page_counters import ALLOCATED, FREED, PageCounter
from memnotify.kernel.psi import open_trigger

DISTANCE_PAGES = (2 << 30) // mmap.PAGESIZE
BURST = 512 << 20
_SYSCALLS = {"x86_64": 298, "aarch64": 241}
# linux/perf_event.h: struct perf_event_attr up to wakeup_events, in its first published size.
_ATTRIBUTES = struct.Struct("IIQQQQQI12x")
_SOFTWARE, _PAGE_FAULTS = 1, 2
# A page fault may bring a huge page.
_LARGEST_FAULT_PAGES = 512
_COMPILES = 5
_NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


class Candidate(Protocol):
    """A descriptor that polls ready when pages may have moved."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def arm(self, pages: float, /) -> object:
        """Be ready at the latest when this many pages have passed."""

    def close(self) -> None:
        """End it."""


class Faults:
    """Page faults on each CPU (PERF_COUNT_SW_PAGE_FAULTS)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._counters: list[tuple[int, mmap.mmap]] = []

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._epoll.fileno()

    def arm(self, pages: float) -> None:
        """Count."""
        cpus = sorted(os.sched_getaffinity(0))
        period = max(1, int(pages) // len(cpus) // _LARGEST_FAULT_PAGES)
        wanted = _ATTRIBUTES.pack(_SOFTWARE, _ATTRIBUTES.size, _PAGE_FAULTS, period, 0, 0, 0, 1)
        libc = ctypes.CDLL(None, use_errno=True)
        for cpu in cpus:
            fd = libc.syscall(_SYSCALLS[platform.machine()], wanted, -1, cpu, -1, 8)
            if fd < 0:
                raise BenchmarkError(f"page faults cannot be counted: {os.strerror(ctypes.get_errno())}")
            self._counters.append((fd, mmap.mmap(fd, 2 * mmap.PAGESIZE, prot=mmap.PROT_READ)))
            self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        """End it."""
        for fd, ring in self._counters:
            ring.close()
            os.close(fd)
        self._epoll.close()


class Both:
    """The daemon's two page counters together; the one for allocated pages is polled."""

    def __init__(self) -> None:
        self._page_counters = PageCounter(ALLOCATED), PageCounter(FREED)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._page_counters[0].fileno()

    def arm(self, pages: float) -> None:
        """Count."""
        for counter in self._page_counters:
            counter.arm(pages)

    def close(self) -> None:
        """End it."""
        for counter in self._page_counters:
            counter.close()


class Pressure:
    """The PSI trigger: memory stalls."""

    def __init__(self) -> None:
        trigger = open_trigger()
        if trigger is None:
            raise BenchmarkError("there is no /proc/pressure/memory: boot with psi=1")
        self._fd = trigger.fd

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def arm(self, _: float) -> None:
        """Do nothing: it is armed for stalls."""

    def close(self) -> None:
        """End it."""
        os.close(self._fd)


CANDIDATES: dict[str, Callable[[], Candidate]] = {
    "page faults": Faults,
    "kmem:mm_page_alloc, each allocation": lambda: PageCounter(["kmem/mm_page_alloc"]),
    "allocated: leaves the buddy lists or the cache": lambda: PageCounter(ALLOCATED),
    "freed: kmem:mm_page_free": lambda: PageCounter(FREED),
    "allocated and freed": Both,
    "vmscan: kswapd woken, direct reclaim": lambda: PageCounter(
        ["vmscan/mm_vmscan_wakeup_kswapd", "vmscan/mm_vmscan_direct_reclaim_begin"]
    ),
    "PSI": Pressure,
}


def cost(rounds: int, core: int) -> None:
    """Print what each candidate adds to a load, armed for 2 GiB: medians of the ratios within the rounds."""
    here = ["taskset", "-c", str(core)]
    churn = [*here, str(build("churn"))]
    compile_it = [*here, "gcc", "-O2", "-c", str(HERE / "fill.c"), "-o", os.devnull]
    ratios: dict[str, list[list[float]]] = {name: [] for name in CANDIDATES}
    for number in range(rounds):
        names = ["", *CANDIDATES][:: 1 if number % 2 == 0 else -1]
        found = {}
        for name in names:
            with ExitStack() as stack:
                if name:
                    candidate = CANDIDATES[name]()
                    stack.callback(candidate.close)
                    candidate.arm(DISTANCE_PAGES)
                answer = subprocess.run(churn, check=True, capture_output=True, text=True).stdout
                began_s = time.perf_counter()
                for _ in range(_COMPILES):
                    subprocess.run(compile_it, check=True)
                compiled_s = (time.perf_counter() - began_s) / _COMPILES
            found[name] = [*(float(word) for word in answer.split()), compiled_s]
        for name, column in ratios.items():
            column.append([ours / none for ours, none in zip(found[name], found[""], strict=True)])
        progress(f"round {number + 1} of {rounds}; nothing counted: {found['']}")
    rows = [
        ["time, ratio to nothing counted", "touch and free", "populate and free", "fork and exec", "compile"]
    ]
    for name, column in ratios.items():
        rows.append([name, *(f"{statistics.median(values):.3f}" for values in zip(*column, strict=True))])
    print(f"\n{table(rows)}\n{rounds} rounds on one core, interleaved\n")


def _touch(size: int) -> object:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def _populate(size: int) -> object:
    map_populate = 0x8000
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_populate)


def _write(size: int) -> object:
    file = os.memfd_create("burst")
    os.posix_fallocate(file, 0, size)
    return file


def _reserve(size: int) -> object:
    before = int(_NR_HUGEPAGES.read_text())
    _NR_HUGEPAGES.write_text(str(before + (size >> 21)))
    return before


WAYS: dict[str, Callable[[int], object]] = {
    "touch": _touch,
    "populate": _populate,
    "tmpfs": _write,
    "huge pages": _reserve,
}


def coverage() -> None:
    """Print how soon each candidate, armed for 256 MiB, notices that 512 MiB are taken, if at all.

    The 512 MiB are beyond the pages on the per-CPU lists, which are taken first. "before": other programs'
    memory was enough.
    """
    rows = [["ms from the burst's beginning", *WAYS]]
    huge_pages = _NR_HUGEPAGES.read_text()
    try:
        for name, make in CANDIDATES.items():
            if name.startswith("freed"):
                continue
            rows.append([name, *(_noticed(make, way) for way in WAYS)])
    finally:
        _NR_HUGEPAGES.write_text(huge_pages)
    print(f"\n{table(rows)}\n")


def _noticed(make: Callable[[], Candidate], way: str) -> str:
    with ExitStack() as stack:
        candidate = make()
        stack.callback(candidate.close)
        reader, writer = os.pipe()
        with MemInfoReader() as meminfo:
            _, pcp_pages = meminfo.read_exact()
        size = BURST + pcp_pages * mmap.PAGESIZE
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                os.close(reader)
                os.write(writer, b"up")
                time.sleep(0.3)
                began = time.monotonic()
                held = WAYS[way](size)
                os.write(writer, repr(began).encode())
                time.sleep(0.2)
                del held
            os._exit(0)
        os.close(writer)
        stack.callback(os.close, reader)
        stack.callback(os.waitpid, child, 0)
        os.read(reader, 2)
        candidate.arm(BURST // 2 // mmap.PAGESIZE)
        ready = select.select([candidate], [], [], 1.5)[0]
        at = time.monotonic()
        began = float(os.read(reader, 64))
        if way == "huge pages":
            _NR_HUGEPAGES.write_text("0")
        if not ready:
            return "never"
        return f"{(at - began) * 1000:.1f}" if at >= began else "before"


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=15, help="rounds of the loads (default: 15)")
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--core", type=int, choices=cores, default=cores[-1], help="where the loads run")
    options = parser.parse_args()

    def work(_: Path) -> None:
        coverage()
        cost(options.rounds, options.core)

    return run("page_counters", work)


if __name__ == "__main__":
    sys.exit(main())
