# SPDX-License-Identifier: MIT
"""The programs that memnotify is measured against, run so that they can do no harm.

earlyoom and nohang kill processes when memory runs short, as it does here. Options tell them not to. In
addition, the kernel refuses it: each runs as a user that has no other process, without the right to send
signals to other users' processes. That is checked before memory is taken.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common import BenchmarkError, Driven, await_that, status

# Not a user of an account or a service; the user nobody has processes on a shared machine.
USER = 1_999_999_999
# For dbus-daemon, which needs an account; low-memory-monitor sends no signals.
NOBODY = 65534
# linux/capability.h
_CAP_KILL, _CAP_IPC_LOCK, _CAP_SYS_RESOURCE = 5, 14, 24
# Each program is up, and has read memory once, long before.
_START_S = 20.0

_LOW_MEMORY_MONITOR = "/usr/libexec/low-memory-monitor"
_NOHANG_DEFAULTS = "/usr/share/nohang/nohang.conf"


@dataclass(frozen=True)
class Start:
    """How a program is started, the line by which it says that it is up, and that by which it notices."""

    command: Sequence[str]
    up: str
    notices: str = r"(?!)"
    environment: tuple[tuple[str, str], ...] = ()
    user: int = USER


def missing(name: str) -> str | None:
    """Return why a program cannot be run here, or None if it can."""
    program = _LOW_MEMORY_MONITOR if name == "low-memory-monitor" else name
    # nohang lies in /usr/sbin.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
    if shutil.which(program, path=path) is None:
        return f"not installed: apt install {name} (benchmarks/README.md says what to mind)"
    if name != "low-memory-monitor":
        return None
    if shutil.which("dbus-daemon") is None:
        return "it needs dbus-daemon: apt install dbus"
    if not _have(_CAP_SYS_RESOURCE):
        return "its PSI triggers of 1 s take CAP_SYS_RESOURCE, which root does not have here"
    return None


class Program:
    """A program of a Debian package, from when it is up until the block is left."""

    def __init__(self, name: str, start: Start, stamp: Path) -> None:
        """Start it; only entering the block waits for it."""
        self.name = name
        self._start = start
        self.said: list[str] = []
        with ExitStack() as undo:
            reader, writer = os.pipe()
            undo.callback(os.close, reader)
            undo.callback(os.close, writer)
            self._lines = Driven([str(stamp), "stamp", "-", "1"], stdin=reader)
            self._process = subprocess.Popen(
                [*_harmless(start.user), *start.command],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                # Where it would put its files, if it had any: nowhere.
                env=os.environ | {"HOME": "/nonexistent", "XDG_CONFIG_HOME": ""} | dict(start.environment),
            )

    def __enter__(self) -> Self:
        """Wait until it is up. Raises BenchmarkError if it is not, or could do harm."""
        try:
            if self._await(self._start.up, _START_S) is None:
                raise BenchmarkError(f"{self.name} is not up after {_START_S:.0f} s; {self._tail()}")
            check_harmless(self.pid, self._start.user)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    def noticed_ns(self, timeout_s: float) -> int | None:
        """Return when it said that memory is low, by the monotonic clock; None if not in ``timeout_s``."""
        return self._await(self._start.notices, timeout_s)

    def stop(self) -> None:
        """End it; it has nothing to clean up."""
        self._process.kill()
        self._process.wait()
        self._lines.__exit__()

    def _await(self, pattern: str, timeout_s: float) -> int | None:
        deadline = time.monotonic() + timeout_s
        while (line := self._next(max(0.0, deadline - time.monotonic()))) is not None:
            came_ns, _, text = line.partition(" ")
            self.said.append(text)
            if re.search(pattern, text):
                return int(came_ns)
        return None

    def _next(self, timeout_s: float) -> str | None:
        try:
            return self._lines.line(timeout_s)
        except BenchmarkError:
            raise BenchmarkError(f"{self.name} has ended; {self._tail()}") from None

    def _tail(self) -> str:
        return "it said:\n" + "\n".join(self.said[-20:] or ["(nothing)"])


class Bus:
    """A D-Bus of our own for low-memory-monitor, which wants the system's."""

    def __init__(self, directory: Path) -> None:
        """Start it; only entering the block waits for it."""
        os.chmod(directory, 0o777)  # noqa: S103 - the other user's socket comes there
        self._socket = directory / "bus"
        self.address = f"unix:path={self._socket}"
        command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--address", self.address]
        self._process = subprocess.Popen([*_harmless(NOBODY), *command], stdin=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        """Wait until it listens. Raises BenchmarkError."""
        try:
            await_that(self._listens, "waiting for dbus-daemon")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise BenchmarkError("dbus-daemon has ended; what it says stands above")
        return self._socket.exists()


def earlyoom(available_kib: int | None = None) -> Start:
    """Return how to start earlyoom: by its own defaults, or to notice at ``available_kib``."""
    limit: list[str] = []
    if available_kib is not None:
        # Swap is never above 100 %: memory alone decides.
        limit = ["-M", f"{available_kib},1", "-s", "100"]
    return Start(
        # -r 0: no reports in between.
        command=["earlyoom", "--dryrun", "-r", "0", *limit],
        up="SIGKILL when mem",
        notices="^low memory!",
    )


def nohang(directory: Path, available_kib: int | None = None) -> Start:
    """Return how to start nohang: by its own defaults, or to notice at ``available_kib``.

    It then sleeps as long as for any soft threshold, but finds no victim that is bad enough. Its
    refusal of thresholds above half of memory is lifted, in a copy, and nothing else.
    """
    settings = {"min_badness": "1000000000"}
    text = Path(_nohang()).read_text(encoding="utf-8")
    if available_kib is not None:
        settings |= {
            "soft_threshold_min_mem": f"{available_kib / 1024:.3f} M",
            "soft_threshold_min_swap": "100 %",
            "hard_threshold_min_mem": "0 M",
        }
        text, count = re.subn(r"mem_min_kb > mem_total \* 0\.5\b", "mem_min_kb > mem_total", text)
        if count != 1:
            raise BenchmarkError("this nohang's bound of half of memory is not where it was in 0.2.0")
    program, config = directory / "nohang.py", directory / "nohang.conf"
    program.write_text(text, encoding="utf-8")
    defaults = Path(_NOHANG_DEFAULTS).read_text(encoding="utf-8")
    config.write_text(with_settings(defaults, settings), encoding="utf-8")
    os.chmod(directory, 0o755)  # noqa: S103 - the other user reads both files
    return Start(
        # -u: what it says is heard when it says it.
        command=["/usr/bin/python3", "-u", str(program), "--config", str(config), "--monitor"],
        up="^Monitoring has started!",
        notices="STARTING implement_corrective_action",
    )


def psi_notify() -> Start:
    """Return how to start psi-notify, by its own defaults."""
    return Start(command=["stdbuf", "-oL", "psi-notify"], up="Pressure monitoring started")


def low_memory_monitor(bus: Bus) -> Start:
    """Return how to start low-memory-monitor, by its own defaults, on a bus of our own."""
    # It says this as it starts. If it is configured to trigger the kernel's OOM killer, it is not waited for.
    return Start(
        command=[_LOW_MEMORY_MONITOR],
        up="using TriggerKernelOom configuration 'false'",
        environment=(("DBUS_SYSTEM_BUS_ADDRESS", bus.address), ("G_MESSAGES_DEBUG", "all")),
        user=NOBODY,
    )


def check_harmless(pid: int, user: int) -> None:
    """Raise BenchmarkError unless a process runs as ``user`` and may signal no other user's processes."""
    users = status(pid, "Uid").split()
    rights = int(status(pid, "CapEff"), 16) | int(status(pid, "CapPrm"), 16)
    if users != [str(user)] * 4 or rights >> _CAP_KILL & 1:
        raise BenchmarkError(f"process {pid} could kill others: users {users}, capabilities {rights:#x}")


def _harmless(user: int) -> list[str]:
    # They lock their memory, as they would as root, and set PSI triggers; and end with this program.
    rights = [
        name
        for name, number in (("ipc_lock", _CAP_IPC_LOCK), ("sys_resource", _CAP_SYS_RESOURCE))
        if _have(number)
    ]
    granted = ",".join(["-all", *(f"+{name}" for name in rights)])
    identity = ["--reuid", str(user), "--regid", str(user), "--clear-groups", "--no-new-privs"]
    capabilities = ["--inh-caps", granted, "--ambient-caps", granted, "--bounding-set", granted]
    return ["setpriv", *identity, *capabilities, "--pdeathsig", "KILL", "--"]


def _have(capability: int) -> bool:
    return bool(int(status(os.getpid(), "CapEff"), 16) >> capability & 1)


def _nohang() -> str:
    return shutil.which("nohang", path="/usr/sbin:/usr/bin") or "/usr/sbin/nohang"


def with_settings(text: str, settings: dict[str, str]) -> str:
    """Return nohang's configuration with some settings changed. Raises BenchmarkError if one is unknown."""
    for key, value in settings.items():
        text, count = re.subn(rf"^{key} *=.*$", f"{key} = {value}", text, flags=re.MULTILINE)
        if count != 1:
            raise BenchmarkError(f"{_NOHANG_DEFAULTS} has {count} lines of {key}, where 0.2.0 has one")
    return text
