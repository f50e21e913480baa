# SPDX-License-Identifier: MIT
"""A daemon for one test: started, watched, and checked after its end."""

import os
import pwd
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import DEADLINE_S, eventually

TRANSPORT = os.environ.get("MEMNOTIFY_TEST_TRANSPORT", "fuse")
"""What serves the tests in tests/clients: cuse in a guest, fuse on this kernel."""
PROGRAM = (sys.executable, "-m", "memnotify")
NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = (
    sys.executable,
    "-c",
    # Everything is imported before the rights are dropped: Python itself may lie where only root may read.
    f"""
import contextlib, difflib, io, os, sys, tomllib
import memnotify.daemon
from memnotify.transports import selection, unix_listener, unix_server
from memnotify.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["--version"])
os.setgroups([])
os.setgid({NOBODY.pw_gid})
os.setuid({NOBODY.pw_uid})
sys.exit(main(sys.argv[1:]))
""",
)
"""The program, started by an ordinary user."""
CLONE_NEWUSER_AND_NEWNS = 0x10000000 | 0x00020000
AS_NAMESPACE_ROOT = (
    *AS_NOBODY[:2],
    # As ``unshare -Urm`` by an ordinary user. PR_SET_DUMPABLE: the process may write its own uid_map.
    AS_NOBODY[2].replace(
        "sys.exit(",
        f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)
if libc.unshare({CLONE_NEWUSER_AND_NEWNS}):
    sys.exit(f"unshare: {{os.strerror(ctypes.get_errno())}}")
maps = {{"setgroups": "deny", "uid_map": "0 {NOBODY.pw_uid} 1", "gid_map": "0 {NOBODY.pw_gid} 1"}}
for name, text in maps.items():
    with open(f"/proc/self/{{name}}", "w") as file:
        file.write(text)
sys.exit(""",
    ),
)
"""The program, started by root of a user namespace in which the real root is not mapped."""
UPDATE_PERIOD_MS = 20
# So that a threshold answers to a few MiB at once: the default granularity is 1/128 of memory.
QUICK = ("--update-period", str(UPDATE_PERIOD_MS), "--max-update-period", "100", "--update-space", "64")


class Daemon:
    """``memnotify serve`` with the given arguments, ready when the constructor returns.

    Leaving the block ends it and checks that it ended as asked and logged no traceback.
    """

    def __init__(
        self,
        *arguments: str,
        transport: str = TRANSPORT,
        name: str = "memnotify-test",
        program: Sequence[str] = PROGRAM,
        environment: Mapping[str, str] | None = None,
        config: str = "/dev/null",
        fds: Sequence[int] = (),
    ) -> None:
        self.path = f"/dev/{name}"
        place = ("--name", name, "--transport", transport)
        self.process = start(
            *place, *arguments, program=program, environment=environment, config=config, fds=fds
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        eventually(lambda: "ready: " in self.log or self.process.poll() is not None, "ready")
        if "ready: " not in self.log:
            self._reader.join()
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log}")

    @property
    def log(self) -> str:
        """Its output on stderr so far."""
        return "".join(self._lines)

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self.process.pid

    def status(self, field: str) -> int:
        """Return a number from /proc/PID/status."""
        return status(Path(f"/proc/{self.pid}/status"), field)

    def wakes_within(self, window_s: float) -> dict[str, int]:
        """Return how often each of its threads woke within a window, by thread id; only those that did."""

        def sleeps() -> dict[str, int]:
            tasks = Path(f"/proc/{self.pid}/task").iterdir()
            return {task.name: status(task / "status", "voluntary_ctxt_switches") for task in tasks}

        before = sleeps()
        threading.Event().wait(window_s)
        return {task: count - before[task] for task, count in sleeps().items() if count != before[task]}

    def open_fds(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def __enter__(self) -> Self:
        """Return the daemon itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if the test has not; fail if its log or exit code shows a defect."""
        asked = self.process.poll() is None
        code = self.end() if asked else self.process.returncode
        if error is None:
            assert "Traceback" not in self.log, self.log
            assert not asked or code == 0, self.log
            assert not os.path.lexists(self.path) or not asked, f"{self.path} was left behind"

    def _follow(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self._lines.append(line)


def start(
    *arguments: str,
    program: Sequence[str] = PROGRAM,
    environment: Mapping[str, str] | None = None,
    config: str = "/dev/null",
    fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start ``memnotify serve`` with arguments of any kind; its stderr is a pipe.

    The machine's own configuration is left out.
    """
    return subprocess.Popen(
        [*program, "serve", "--config", config, *arguments],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=os.environ | (environment or {}),
        pass_fds=fds,
    )


def status(path: Path, field: str) -> int:
    """Return a number from a /proc status file."""
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def ready(fd: int, events: int = select.POLLIN, timeout_s: float = DEADLINE_S) -> int:
    """Poll one descriptor; return its revents, 0 after ``timeout_s`` seconds."""
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(timeout_s * 1000)
    return found[0][1] if found else 0
