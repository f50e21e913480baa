# SPDX-License-Identifier: MIT
"""What watch shows beside the device: processes, swap, memory pressure, and other observers' thresholds.

Swap and pressure are read as often as the figures; processes and thresholds, which cost more, rarely.
"""

import contextlib
import heapq
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from memnotify.cli.varlink import CallError, Connection
from memnotify.client import PAGE_SIZE

_SLOW_S = 5.0
"""The shortest interval at which processes are read and the status is requested."""
_SHARE = 0.005
"""Reading processes takes at most this share of the time: many processes are read more rarely."""
_STATUS_S = 0.3
"""How long the picture waits for the status."""
_STATUS_RETRY_S = 60.0
"""How long after a failure the status is requested again."""
HOLDERS = 50
"""How many processes or cgroups ``Machine.holders`` has at most."""


class Holder(NamedTuple):
    """A process, or the processes of a cgroup, and their resident memory."""

    name: str
    pid: int
    """The PID of a process; for a cgroup, the number of its processes."""
    size_bytes: int


class Tick(NamedTuple):
    """Another observer's threshold."""

    name: str
    pages: int


class Memory(NamedTuple):
    """Swap, compressed memory, and the share of time in which tasks stalled for memory, in percent."""

    swap_bytes: int = 0
    swap_used_bytes: int = 0
    zram: tuple[int, int] | None = None
    """The bytes stored in it, and the bytes of RAM that these take; None if it is empty."""
    pressure: tuple[float, float] | None = None
    """Of the last 10 seconds: some tasks, all tasks."""


class Machine:
    """Reads the machine's state from ``proc`` and ``sys``, and the status of the daemon of ``path``."""

    def __init__(
        self,
        path: str,
        status_socket: str,
        *,
        proc: str = "/proc",
        sys: str = "/sys",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._status_socket = path, status_socket
        self._proc, self._sys, self._clock = proc, sys, clock
        self.memory = Memory()
        self.holders: Sequence[Holder] = ()
        self.ticks: Sequence[Tick] = ()
        self._by_group = False
        self._holders_due_s = self._ticks_due_s = -1.0

    @property
    def by_group(self) -> bool:
        """True if the holders are cgroups, False if they are processes."""
        return self._by_group

    @by_group.setter
    def by_group(self, by_group: bool) -> None:
        if by_group != self._by_group:
            self._by_group = by_group
            self._holders_due_s = -1.0

    def refresh(self, *, holders: bool = True) -> None:
        """Read what is due; processes only if they are shown (``holders``)."""
        self.memory = Memory(*self._swap(), self._zram(), self._pressure())
        now_s = self._clock()
        if now_s >= self._ticks_due_s:
            self._ticks_due_s = now_s + self._ask()
        if holders and now_s >= self._holders_due_s:
            resident = self._resident()
            self.holders = self._groups(resident) if self._by_group else self._processes(resident)
            self._holders_due_s = now_s + max(_SLOW_S, (self._clock() - now_s) / _SHARE)

    def _read(self, path: str) -> str:
        """Return the first 4 KiB of a file; an empty string if it cannot be read."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return os.read(fd, 4096).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(fd)

    def _swap(self) -> tuple[int, int]:
        fields = dict(
            line.split(":") for line in self._read(f"{self._proc}/meminfo").splitlines() if ":" in line
        )
        total, free = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("SwapTotal", "SwapFree"))
        return total, max(0, total - free)

    def _zram(self) -> tuple[int, int] | None:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(f"{self._sys}/block") if name.startswith("zram")]
        found = [self._read(f"{self._sys}/block/{name}/mm_stat").split() for name in names]
        sizes = [(int(words[0]), int(words[2])) for words in found if len(words) > 2]
        held = sum(held for held, _ in sizes)
        return (held, sum(taken for _, taken in sizes)) if held else None

    def _pressure(self) -> tuple[float, float] | None:
        words = self._read(f"{self._proc}/pressure/memory").split()
        shares = [float(word.removeprefix("avg10=")) for word in words if word.startswith("avg10=")]
        return (shares[0], shares[1]) if len(shares) == 2 else None

    def _ask(self) -> float:
        """Request other observers' thresholds; return the time until the next request, in seconds."""
        try:
            with Connection(self._status_socket, _STATUS_S) as connection:
                status = connection.call("org.memnotify.Daemon.GetStatus")
        except CallError:
            self.ticks = ()
            return _STATUS_RETRY_S
        self.ticks = sorted(
            {
                Tick(threshold["name"], threshold["pages"])
                for observer in status["observers"]
                if status["path"] == self._path and observer["pid"] != os.getpid()
                for threshold in observer["thresholds"]
            }
        )
        return _SLOW_S

    def _resident(self) -> Iterator[tuple[int, str]]:
        """Yield the resident memory in bytes, and the PID, of each process that has any."""
        for name in os.listdir(self._proc):
            if name.isdigit():
                words = self._read(f"{self._proc}/{name}/statm").split()
                if len(words) > 1 and words[1] != "0":
                    yield int(words[1]) * PAGE_SIZE, name

    def _processes(self, resident: Iterator[tuple[int, str]]) -> list[Holder]:
        return [
            Holder(self._read(f"{self._proc}/{name}/comm").rstrip("\n") or "?", int(name), size_bytes)
            for size_bytes, name in heapq.nlargest(HOLDERS, resident)
        ]

    def _groups(self, resident: Iterator[tuple[int, str]]) -> list[Holder]:
        sizes: defaultdict[str, int] = defaultdict(int)
        counts: defaultdict[str, int] = defaultdict(int)
        for size_bytes, name in resident:
            group = (
                self._read(f"{self._proc}/{name}/cgroup").rstrip("\n").rpartition("\n")[2].rpartition("::")[2]
            )
            sizes[group or "/"] += size_bytes
            counts[group or "/"] += 1
        return [
            Holder(group, counts[group], size_bytes)
            for group, size_bytes in heapq.nlargest(HOLDERS, sizes.items(), key=lambda item: item[1])
        ]
