# SPDX-License-Identifier: MIT
"""Unmodified programs against /dev/memnotify: mn_test, and its equivalent in Python."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import PROGRAM, QUICK, Daemon
from support.kept import Service
from support.memory import Hog, step_pages
from support.waiting import eventually

LINE = r"total ([0-9]+) used ([0-9]+) active ([0-9]+)"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(PROGRAM, tmp_path_factory.mktemp("manager"), *QUICK, name="memnotify")
    yield service
    service.close()


def _says(program: list[str], *, thresholds: str | None = None) -> str:
    """Return a pattern for the whole output of a successful run."""
    lines = [
        f"{re.escape(program[-1])} -- test for system-wide memory notification/meter /dev/memnotify",
        r"device /dev/memnotify opened successfuly with fd = 3",
        rf"read from /dev/memnotify [0-9]+ bytes: '{LINE}'",
    ]
    if thresholds is not None:
        lines += [
            rf"establishing threshold '{thresholds}' and waiting",
            rf"polling for threshold '{thresholds}' to be changed to up/down",
            r"poll\(3\) returned 1",
            rf"--> memory figures reached '{LINE}'",
        ]
    return "\n".join(lines) + "\n"


def test_without_an_argument_it_prints_the_figures(served: Service, program: list[str]) -> None:
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert re.fullmatch(_says(program), done.stdout), done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"read from /dev/memnotify ([0-9]+) bytes: '(.*)'", done.stdout)
    assert found is not None
    assert int(found[1]) == len(found[2]) + 1


@pytest.mark.parametrize("direction", ["up", "down"])
def test_with_a_threshold_it_waits_for_the_crossing(
    served: Service, program: list[str], hog: Hog, direction: str
) -> None:
    before, after = (0, 2 * step_pages()) if direction == "up" else (2 * step_pages(), 0)
    hog.hold(before)
    threshold = _used(served.daemon) + step_pages() * (1 if direction == "up" else -1)
    process = subprocess.Popen([*program, f"used {threshold}"], stdout=subprocess.PIPE, text=True)
    eventually(lambda: _sleeps_in_poll(process.pid), "the program waits")
    hog.hold(after)
    output, _ = process.communicate(timeout=60)
    found = re.fullmatch(_says(program, thresholds=f"used {threshold}"), output)
    assert found, output
    assert process.returncode == 0
    first, last = int(found[2]), int(found[5])
    assert (first < threshold <= last) if direction == "up" else (first >= threshold > last)


def test_it_does_not_notice_a_restart(served: Service, program: list[str], hog: Hog) -> None:
    """Nor a killed daemon: it waits on, and is told of what is crossed afterwards."""
    threshold = _used(served.daemon) + step_pages()
    process = subprocess.Popen([*program, f"used {threshold}"], stdout=subprocess.PIPE, text=True)
    eventually(lambda: _sleeps_in_poll(process.pid), "the program waits")
    for number in (signal.SIGTERM, signal.SIGKILL):
        served.restart(number)
        assert "took over 1 clients" in served.daemon.log, served.daemon.log
        assert _sleeps_in_poll(process.pid)
    hog.hold(2 * step_pages())
    output, _ = process.communicate(timeout=60)
    assert re.fullmatch(_says(program, thresholds=f"used {threshold}"), output), output
    assert process.returncode == 0


def _used(daemon: Daemon) -> int:
    fd = os.open(daemon.path, os.O_RDONLY)
    try:
        return int(os.read(fd, 256).split()[3])
    finally:
        os.close(fd)


def _sleeps_in_poll(pid: int) -> bool:
    """Return True if a process is in poll(2) or ppoll(2): 7 and 271 on x86-64, 73 on arm64."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in {"7", "271", "73"}
