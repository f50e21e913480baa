# SPDX-License-Identifier: MIT
"""Extra figures in a real daemon: in the line, in thresholds, and refused at the start."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon, ready, start
from support.fake_memory import FakeMemory
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Change, Crossed, Memnotify

PAGES_OF_A_PERCENT = 10_000_000 * 1024 // os.sysconf("SC_PAGESIZE") // 100


@pytest.fixture
def memory(_memory: FakeMemory, path: str) -> FakeMemory:
    """Return the memory of the daemon, 90 % of it available, once the daemon has sampled it."""
    _memory.make_available(90)
    with Memnotify(path) as device:
        eventually(lambda: device.read()["available"] == 90 * PAGES_OF_A_PERCENT, "it is noticed")
    return _memory


@pytest.fixture(scope="module")
def daemon(_can_serve: None, _memory: FakeMemory) -> Iterator[Daemon]:
    """Return a daemon with two extra figures."""
    options = ("--figures", "available,swap_taken", *QUICK, *FakeMemory.ARGUMENTS)
    with Daemon(*options, program=_memory.program) as daemon:
        yield daemon


def _command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "memnotify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.representative
def test_the_line(memory: FakeMemory, opened: Callable[..., int]) -> None:
    """Extra figures come last in the line. A write may name them, but no others."""
    del memory
    fd = opened()
    line = os.read(fd, 256)
    assert re.fullmatch(
        rb"total [0-9]+ used [0-9]+ active [0-9]+ available %d swap_taken 0\n" % (90 * PAGES_OF_A_PERCENT),
        line,
    )
    assert os.write(fd, b"swap_taken 5 available=80%") == 26
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, b"free 5")


def test_a_threshold(memory: FakeMemory, opened: Callable[..., int]) -> None:
    """Reaching the threshold and falling below it are events; being above it at the start is not."""
    fd = opened()
    os.write(fd, b"available %d" % (80 * PAGES_OF_A_PERCENT))
    assert not ready(fd, timeout_s=0.2)
    for percent in (70, 80, 10):
        memory.make_available(percent)
        assert ready(fd)
        assert b" available %d " % (percent * PAGES_OF_A_PERCENT) in os.read(fd, 256)
        assert not ready(fd, timeout_s=0)


def test_the_library(memory: FakeMemory, path: str) -> None:
    with Memnotify(path, reopen=False) as device:
        assert device.subscribe(available="80%")["available"].percent == 90.0
        memory.make_available(40)
        event = device.wait(DEADLINE_S)
        assert isinstance(event, Crossed)
        (change,) = event.changes
        assert change == Change("available", change.threshold, up=False)
        assert event.after["available"] == 40 * PAGES_OF_A_PERCENT


def test_the_commands(memory: FakeMemory, path: str) -> None:
    del memory
    table = _command("read", "--path", path).stdout
    assert re.search(
        r"^available   +[0-9]+ pages +[0-9.]+ GiB +90\.0 %\nswap_taken +0 pages ", table, re.MULTILINE
    )
    figures = json.loads(_command("read", "--json", "--path", path).stdout)
    assert figures["available"]["pages"] == 90 * PAGES_OF_A_PERCENT
    assert _command("wait", "available 95%", "--timeout", "0.1", "--path", path).returncode == 3
    done = _command("wait", "free 5%", "--path", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the names are total, used, active, available, swap_taken, cgroup (others by" in done.stderr


@pytest.mark.parametrize(
    ("figures", "code", "message"),
    [
        ("available,foo", 2, "'foo' is not known: there are available, "),
        ("slap", 2, "did you mean 'slab'"),
        ("Inactive", 2, "contains 'active'"),
        ("HugePages_Total", 2, "contains 'total'"),
        ("available,free,cached,dirty,slab,swap_size,swap_taken,SwapFree,SwapCached", 2, "choose fewer"),
        ("available,Hugetlb", 1, "/proc/meminfo must have Hugetlb once, but lacks it"),
    ],
)
def test_refused_at_the_start(tmp_path: Path, figures: str, code: int, message: str) -> None:
    """No device is served, and the log says why."""
    name = "memnotify-refused"
    with start("--name", name, "--figures", figures, program=FakeMemory(tmp_path).program) as daemon:
        _, log = daemon.communicate(timeout=DEADLINE_S)
    assert (daemon.returncode, message in log, "Traceback" in log) == (code, True, False), log
    assert not os.path.lexists(f"/dev/{name}")
