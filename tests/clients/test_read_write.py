# SPDX-License-Identifier: MIT
"""open, read and write as system calls."""

import errno
import os
import re
import stat
import subprocess
from collections.abc import Callable

import pytest
from support.daemon import TRANSPORT, Daemon
from support.memory import PAGE_SIZE, used_pages

Open = Callable[..., int]
LINE = re.compile(rb"total ([0-9]+) used ([0-9]+) active ([0-9]+)\n")


def _meminfo_kib() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        return {words[0].rstrip(":"): int(words[1]) for words in map(str.split, file)}


def test_the_line_is_the_system_s_figures(opened: Open) -> None:
    line = LINE.fullmatch(os.read(opened(), 256))
    assert line is not None
    total, used, active = map(int, line.groups())
    now = _meminfo_kib()
    assert total == (now["MemTotal"] + now["SwapTotal"]) * 1024 // PAGE_SIZE
    # What the kernel calls available is counted otherwise; the two agree roughly on an idle machine.
    unavailable_pages = (now["MemTotal"] - now["MemFree"]) * 1024 // PAGE_SIZE
    assert 0 < used <= unavailable_pages + total // 20
    assert abs(active - now["Active"] * 1024 // PAGE_SIZE) < total // 20


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_NONBLOCK])
def test_read_never_ends_and_needs_no_seek(opened: Open, flags: int) -> None:
    fd = opened(flags)
    for _ in range(3):
        assert LINE.fullmatch(os.read(fd, 8192))
    assert os.lseek(fd, 0, os.SEEK_SET) == 0
    assert LINE.fullmatch(os.read(fd, 256))
    assert LINE.fullmatch(os.pread(fd, 256, 100))


def test_a_short_buffer_gets_the_line_s_first_bytes(opened: Open) -> None:
    fd = opened()
    for size in (1, 5, 11, 1):
        assert re.fullmatch(rb"t|total|total [0-9 u]{5}", os.read(fd, size)), size


def test_many_observers_at_once(opened: Open) -> None:
    fds = [opened() for _ in range(100)]
    assert all(LINE.fullmatch(os.read(fd, 256)) for fd in fds)


ACCEPTED = [
    b"used 5000",
    b"active 8000 used 16000",
    b"used 5000\n",
    b"used 5000\0",
    b"used=5000",
    b"used = 5000",
    b"used 0",
    b"used 0 active 0 total 0",
    b"\n",
    b"used 80%",
    b"used 1.5G",
    b"used 9223372036854775807",
    b"used 5 used 5",
    b"used 5" + b" " * 4090,
]
REFUSED = [
    b"used",
    b"used x",
    b"used -5",
    b"used 5000x",
    b"used 9223372036854775808",
    b"USED 5",
    b"foo 5",
    b"unused 7",
    b"used5000",
    b"used 5 active x",
    b"used 5 used 6",
    b"\xff\xfe",
    b"used 5" + b" " * 4091,
    b"used 5 " * 40_000,
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_write_that_is_understood_returns_its_whole_length(opened: Open, text: bytes) -> None:
    assert os.write(opened(), text) == len(text)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_a_write_that_is_not_is_refused(opened: Open, text: bytes) -> None:
    fd = opened()
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.write(fd, text)
    assert LINE.fullmatch(os.read(fd, 256))


def test_a_shell_can_write_thresholds_and_read_a_line(path: str) -> None:
    script = f"echo used 5000 > {path} && printf 'active 7' >> {path} && head -n 1 {path} && head -c 5 {path}"
    done = subprocess.run(["sh", "-ec", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LINE.pattern + rb"total", done.stdout)


def test_what_stat_says(path: str) -> None:
    status = os.stat(path)
    if TRANSPORT == "cuse":
        assert stat.S_ISCHR(status.st_mode)
    else:
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o666


def test_the_daemon_s_memory_is_not_rounded_up(daemon: Daemon) -> None:
    assert daemon.status("THP_enabled") == 0


def test_the_daemon_keeps_nothing_of_a_closed_client(daemon: Daemon) -> None:
    for round_ in range(8):
        fds = [os.open(daemon.path, os.O_RDWR) for _ in range(100)]
        for fd in fds:
            os.write(fd, b"used 99% active 99%")
            used_pages(fd)
        for fd in fds:
            os.close(fd)
        if round_ == 3:
            rss_kib, open_fds = daemon.status("VmRSS"), daemon.open_fds()
    assert daemon.open_fds() == open_fds
    assert daemon.status("VmRSS") <= rss_kib + 512
