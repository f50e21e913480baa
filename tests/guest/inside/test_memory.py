# SPDX-License-Identifier: MIT
"""Figures with kinds of memory that a test cannot use on the host: locked, or zram."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon
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
    available_before = meminfo_pages("MemAvailable")
    with Program(sys.executable, "-c", LOCK, path, str(size)) as program:
        assert program.line() == "locked"
        assert meminfo_pages("Mlocked") >= size // mmap.PAGESIZE
        _, used = figures(device)
        available = meminfo_pages("MemAvailable")
    grown = (used - before) * mmap.PAGESIZE
    assert abs(grown - size) < TOLERANCE * size, f"{grown / MIB:.0f} of {size / MIB:.0f} MiB"
    taken = (available_before - available) * mmap.PAGESIZE
    assert abs(grown - taken) < TOLERANCE * size, f"{grown / MIB:.0f}, available {taken / MIB:.0f} MiB"
    # MemAvailable leaves out the kernel's reserves too (mm/page_alloc.c:si_mem_available).
    assert available <= total - used <= total, f"total {total} used {used} available {available}"


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


def test_doctor_warns_where_swap_is_zram_as_large_as_memory() -> None:
    subprocess.run(["modprobe", "zram"], check=True)
    zram = "/dev/zram0"
    try:
        for size_kib, state in ((meminfo_pages("MemTotal") * mmap.PAGESIZE // 1024, WARNING), (65536, OK)):
            Path("/sys/block/zram0/disksize").write_text(f"{size_kib}K")
            subprocess.run(["mkswap", zram], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["swapon", zram], check=True)
            with Daemon(*QUICK):
                code, checks = findings("--timeout", "60")
            assert code == 0, checks
            assert checks["swap"]["state"] == state, checks["swap"]
            assert "zram" in checks["swap"]["found"]
            assert ("available" in checks["swap"].get("advice", "")) == (state == WARNING)
            subprocess.run(["swapoff", zram], check=True)
            Path("/sys/block/zram0/reset").write_text("1")
    finally:
        subprocess.run(["swapoff", zram], check=False, stderr=subprocess.DEVNULL)
        eventually(
            lambda: subprocess.run(["modprobe", "-r", "zram"], check=False).returncode == 0, "unloaded"
        )
