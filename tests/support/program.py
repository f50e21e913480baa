# SPDX-License-Identifier: MIT
"""A program under test, whose output is read line by line."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from support.require import MN_TEST_C
from support.waiting import DEADLINE_S, eventually

POSTED = Path(os.environ.get(MN_TEST_C, Path(__file__).parents[3] / "shared/mn_test.c"))
"""The posted mn_test; it is GPL and stays out of this tree."""
_OWN = Path(__file__).parents[1] / "clients/client.c"
_WAITS = {"7", "232", "271", "281"}
"""poll, epoll_wait, ppoll and epoll_pwait, as /proc/PID/syscall says on x86-64."""
_CHECKS = 20
"""So many checks in a row, 2 ms apart, must find the process waiting."""


def build_client(path: Path) -> None:
    """Build the posted program, or the project's own with the same output, for any Linux."""
    source = POSTED if POSTED.exists() else _OWN
    # Static: it runs with another C library. -w: the posted source prints a ssize_t with %d.
    subprocess.run(["gcc", "-w", "-O2", "-static", "-o", str(path), str(source)], check=True)


def waits_for_descriptor(task: Path) -> bool:
    """Return True if a thread, by its directory in /proc, sleeps in poll or epoll_wait.

    In these calls it may also wait for the answer of a daemon that the kernel asks for the state of its file
    (fs/fuse/dev.c:request_wait_answer): then it has been woken already.
    """
    if (task / "syscall").read_text().split()[0] not in _WAITS:
        return False
    return (task / "wchan").read_text() != "request_wait_answer"


def settle(pid: int) -> None:
    """Wait until a process only waits for a descriptor. A process that was just woken counts as running."""
    checks = 0

    def settled() -> bool:
        nonlocal checks
        checks = checks + 1 if waits_for_descriptor(Path(f"/proc/{pid}")) else 0
        return checks >= _CHECKS

    eventually(settled, "it waits")


def count_sleeps(pid: int) -> int:
    """Return how often a process has gone to sleep: the count grows once it has handled a wake-up."""
    found = re.search(
        r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    assert found is not None
    return int(found[1])


class Program:
    """A process. Its stdout and stderr are read as they come, and checked for failures at the end.

    Leaving the block ends it with SIGKILL, if the test has not ended it.
    """

    def __init__(
        self, *command: str, environment: Mapping[str, str] | None = None, user: str | None = None
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            user=user,
            text=True,
        )
        self.lines: list[str] = []
        self._heard = 0
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        """True if the process has ended."""
        return self.process.poll() is not None

    def line(self) -> str:
        """Return the next line of output. Fail if there is none in time, or if the process ends."""
        eventually(
            lambda: len(self.lines) > self._heard or not self._reader.is_alive(), "the program prints a line"
        )
        assert len(self.lines) > self._heard, f"it ended: {self.lines}"
        self._heard += 1
        return self.lines[self._heard - 1]

    def hear(self, text: str) -> str:
        """Return the next line that contains ``text``."""
        while text not in (line := self.line()):
            pass
        return line

    def settle(self) -> None:
        """Wait until the process only waits for a descriptor."""
        settle(self.process.pid)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, unless it is 0, and return the exit code."""
        if number:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def __enter__(self) -> Self:
        """Return the program."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the process, and check that its output has no traceback or warning."""
        self.process.kill()
        self.end(0)
        if error is None:
            assert not [line for line in self.lines if "Traceback" in line or "Warning:" in line], self.lines

    def _follow(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
