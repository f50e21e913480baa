# SPDX-License-Identifier: MIT
"""Figures with kinds of memory that a test cannot use on the host: locked, or zram."""

import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon, ready
from support.doctor import findings
from support.memory import used_pages
from support.program import Program
from support.waiting import eventually

from memnotify.cli.doctor.checks import OK, WARNING

MIB = 1 << 20
# Of what is locked; the rest of the guest moves less meanwhile.
TOLERANCE = 0.1
LOCK = """
import ctypes, mmap, os, signal, sys
path, size = sys.argv[1], int(sys.argv[2])
if path:
    held = mmap.mmap(os.open(path, os.O_RDWR), size)
else:
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(held))
if ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
    raise OSError(ctypes.get_errno(), "mlock")
print("locked", flush=True)
signal.pause()
"""


def meminfo_pages(*names: str) -> int:
    """Return the sum of fields of /proc/meminfo, in pages."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in names) * 1024 // mmap.PAGESIZE


def available_pages() -> int:
    """Return MemAvailable, and what it leaves out of the memory that ``used`` counts as free.

    That is the pages on the per-CPU free lists, and what the kernel holds back of page cache and slabs: the
    low watermarks of the zones, but at most half of each (mm/show_mem.c:si_mem_available). The rest of the
    difference, totalreserve_pages, is constant. Locking takes pages from the per-CPU lists first, where Linux
    6.12 kept 22 MiB: MemAvailable fell by 182 MiB for 200.
    """
    lines = [line.split() for line in Path("/proc/zoneinfo").read_text().splitlines()]
    low = sum(int(words[1]) for words in lines if words[0] == "low")
    on_cpu_lists = sum(int(words[1]) for words in lines if words[0] == "count:")
    cache = meminfo_pages("Active(file)", "Inactive(file)")
    slabs = meminfo_pages("KReclaimable")
    return meminfo_pages("MemAvailable") + on_cpu_lists + min(cache // 2, low) + min(slabs // 2, low)


@pytest.fixture
def device() -> Iterator[int]:
    with Daemon(*QUICK) as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        yield fd
        os.close(fd)


def figures(fd: int) -> tuple[int, int]:
    """Return total and used, as they are now."""
    used = used_pages(fd)
    return int(os.pread(fd, 4096, 0).split()[1]), used


def assert_counted_once(device: int, path: str, size: int) -> None:
    """Lock memory; ``used`` must grow by it, as MemAvailable falls, and stay below total."""
    total, before = figures(device)
    available_before = available_pages()
    with Program(sys.executable, "-c", LOCK, path, str(size)) as program:
        assert program.line() == "locked"
        assert meminfo_pages("Mlocked") >= size // mmap.PAGESIZE
        _, used = figures(device)
        available = available_pages()
        told = meminfo_pages("MemAvailable")
    grown = (used - before) * mmap.PAGESIZE
    assert abs(grown - size) < TOLERANCE * size, f"{grown / MIB:.0f} of {size / MIB:.0f} MiB"
    taken = (available_before - available) * mmap.PAGESIZE
    assert abs(grown - taken) < TOLERANCE * size, f"{grown / MIB:.0f}, available {taken / MIB:.0f} MiB"
    # MemAvailable leaves out the kernel's reserves too (mm/page_alloc.c:si_mem_available).
    assert told <= total - used <= total, f"total {total} used {used} available {told}"


def test_locked_anonymous_memory_counts_once(device: int) -> None:
    assert_counted_once(device, "", 500 * MIB)


def test_locked_tmpfs_counts_once(device: int) -> None:
    path = Path("/dev/shm/memnotify-locked")  # noqa: S108 - the tmpfs itself is meant
    with path.open("wb") as file:
        file.truncate(200 * MIB)
    try:
        assert_counted_once(device, str(path), 200 * MIB)
    finally:
        path.unlink()


def test_a_locked_file_counts(device: int, disk: Path) -> None:
    """The kernel cannot drop it, unlike the rest of the page cache."""
    path = disk / "file"
    with path.open("wb") as file:
        file.truncate(300 * MIB)
    assert_counted_once(device, str(path), 200 * MIB)


@pytest.fixture
def zram() -> Iterator[str]:
    """Return a zram device of no size, which the test may use as swap."""
    subprocess.run(["modprobe", "zram"], check=True)
    yield "/dev/zram0"
    subprocess.run(["swapoff", "/dev/zram0"], check=False, stderr=subprocess.DEVNULL)
    eventually(lambda: subprocess.run(["modprobe", "-r", "zram"], check=False).returncode == 0, "unloaded")


def use_as_swap(zram: str, size_kib: int) -> None:
    Path("/sys/block/zram0/disksize").write_text(f"{size_kib}K")
    subprocess.run(["mkswap", zram], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", zram], check=True)


def test_doctor_warns_where_swap_is_zram_as_large_as_memory(zram: str) -> None:
    for size_kib, state in ((meminfo_pages("MemTotal") * mmap.PAGESIZE // 1024, WARNING), (65536, OK)):
        use_as_swap(zram, size_kib)
        with Daemon(*QUICK):
            code, checks = findings("--timeout", "60")
        assert code == 0, checks
        assert checks["swap"]["state"] == state, checks["swap"]
        assert "zram" in checks["swap"]["found"]
        assert ("available" in checks["swap"].get("advice", "")) == (state == WARNING)
        subprocess.run(["swapoff", zram], check=True)
        Path("/sys/block/zram0/reset").write_text("1")


FILL = """
import mmap, os, signal
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
# Each page is of random data, which does not compress.
block, held = os.urandom(1 << 20), []
while True:
    held.append(mmap.mmap(-1, len(block), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    held[-1].write(block)
"""


def test_available_warns_where_swap_is_zram(
    zram: str, record_property: Callable[[str, object], None]
) -> None:
    """With data that does not compress, the OOM killer acts before ``used 80%`` is reached.

    With nothing locked, ``used`` came to 92 % (Linux 6.1): the last pages that were swapped freed no memory.
    """
    use_as_swap(zram, meminfo_pages("MemTotal") * mmap.PAGESIZE // 1024)
    wanted = (b"used 80%", b"available 5%", b"total 1")
    with Daemon(*QUICK, "--figures", "available") as daemon, ExitStack() as stack:
        fds = [os.open(daemon.path, os.O_RDWR) for _ in wanted]
        for fd, text in zip(fds, wanted, strict=True):
            stack.callback(os.close, fd)
            os.write(fd, text)
        stack.enter_context(Program(sys.executable, "-c", LOCK, "", str(450 * MIB))).hear("locked")
        program = stack.enter_context(Program(sys.executable, "-c", FILL))
        most = 0.0

        def killed() -> bool:
            nonlocal most
            words = os.read(fds[-1], 256).split()
            most = max(most, 100 * int(words[3]) / int(words[1]))
            return program.ended

        eventually(killed, "the OOM killer ends it")
        record_property("used_at_most_percent", most)
        assert program.end(0) == -signal.SIGKILL
        assert [bool(ready(fd, timeout_s=0) & select.POLLIN) for fd in fds[:2]] == [False, True], most
