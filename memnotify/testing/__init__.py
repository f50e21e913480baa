# SPDX-License-Identifier: MIT
"""For tests of programs that use memnotify: a device whose memory the test moves.

    with SimulatedDevice(used="40%") as device:
        ...                     # start what is tested; it finds the device by MEMNOTIFY_PATH
        device.set(used="95%")  # when this returns, every client whose threshold was crossed is notified

It needs the compiled module, as ``memnotify serve`` does.

With pytest: ``pytest_plugins = ["memnotify.testing.pytest_plugin"]`` in conftest.py, and the fixture
``memnotify_device``.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Literal, Protocol, Self

from memnotify.simulation.amounts import Amounts, SimulatedFigures

__all__ = ["SimulatedDevice", "SimulationError"]

_READY = b"ready"
Kind = Literal["auto", "fuse", "socket", "in-process", "cuse"]


class SimulationError(Exception):
    """No device can be made, or it has ended; the text says why."""


class _Served(Protocol):
    kind: str
    path: str

    def move(self, figures: SimulatedFigures) -> None: ...

    def close(self) -> None: ...


class SimulatedDevice:
    """A device whose figures are what ``set`` says, by the daemon's own engine.

    ``kind`` is "fuse", a FUSE file that any program can open; "socket", the daemon's socket, which the
    library and the commands can; "in-process", which only ``memnotify.client`` in this process can; or
    "auto", the first of these that works. For root, it may be "cuse".
    ``path`` is where the device is, by default in a temporary directory; CUSE needs /dev/NAME. While
    the block runs, MEMNOTIFY_PATH is that path, so commands and the library open it by default.

    Amounts are in pages, or strings as in thresholds: "95%", "1.5G". Raises ValueError for others,
    SimulationError if no device can be made. Threads: one at a time.
    """

    def __init__(
        self,
        *,
        total: int | str = "16G",
        used: int | str = "50%",
        active: int | str = "10%",
        kind: Kind = "auto",
        path: str | None = None,
    ) -> None:
        self._amounts = Amounts(total, used, active)
        self._amounts.figures()
        self._wanted, self._path = kind, path
        self._served: _Served | None = None
        self._cleanup = ExitStack()

    @property
    def kind(self) -> str:
        """What is served: "fuse", "cuse", "socket" or "in-process"."""
        return self._open().kind

    @property
    def path(self) -> str:
        """Where clients open the device."""
        return self._open().path

    def set(
        self,
        *,
        total: int | str | None = None,
        used: int | str | None = None,
        active: int | str | None = None,
        cgroup: int | str | None = None,
        cgroup_limit: int | str | None = None,
    ) -> None:
        """Change figures; those left out stay as they were given. Return once each client is notified.

        A client is notified if a threshold of its own was crossed: a poll for its descriptor reports that.
        Every client is in the one cgroup, which begins with half of its limit used. That limit is total.
        """
        given = {
            "total": total,
            "used": used,
            "active": active,
            "cgroup": cgroup,
            "cgroup_limit": cgroup_limit,
        }
        amounts = self._amounts._replace(**{name: each for name, each in given.items() if each is not None})
        self._open().move(amounts.figures())
        self._amounts = amounts

    def __enter__(self) -> Self:
        """Serve the device. Raises SimulationError."""
        with ExitStack() as cleanup:
            self._served = self._serve()
            cleanup.callback(self._served.close)
            cleanup.callback(_restore, "MEMNOTIFY_PATH", os.environ.get("MEMNOTIFY_PATH"))
            os.environ["MEMNOTIFY_PATH"] = self._served.path
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it. Clients see the end of the daemon."""
        self._served = None
        self._cleanup.close()

    def _open(self) -> _Served:
        if self._served is None:
            raise ValueError("the device is not served: use it within a with block")
        return self._served

    def _serve(self) -> _Served:
        if importlib.util.find_spec("memnotify._shim") is None:
            raise SimulationError(
                "the compiled module of memnotify is not installed: install the Debian package memnotify,"
                " or the wheel for this platform"
            )
        figures = self._amounts.figures()
        if self._wanted == "auto" and self._path is None:
            for kind in ("fuse", "socket"):
                with suppress(SimulationError):
                    return _Process(kind, figures, None)
        elif self._wanted != "in-process":
            return _Process("fuse" if self._wanted == "auto" else self._wanted, figures, self._path)
        # Imported here, as it takes the library's files over.
        from memnotify.testing._in_process import InProcess  # noqa: PLC0415

        return InProcess(figures)


class _Process:
    """A process of its own that serves the device: a test may fork, and stop in a debugger."""

    def __init__(self, kind: str, figures: SimulatedFigures, path: str | None) -> None:
        self.kind = kind
        self._directory = tempfile.mkdtemp(prefix="memnotify-") if path is None else None
        self.path = path or f"{self._directory}/memnotify"
        if self._directory:
            # Programs of other users may be tested.
            os.chmod(self._directory, 0o755)  # noqa: S103 - they read only
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - this package
                [
                    *(sys.executable, "-m", "memnotify.simulation.server"),
                    *(str(far.fileno()), kind, self.path, *map(str, figures)),
                ],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # Ctrl-C at the terminal is for the test.
                start_new_session=True,
            )
        self._await_ready()

    def move(self, figures: SimulatedFigures) -> None:
        self._control.send(json.dumps(figures).encode())
        self._await_ready()

    def close(self) -> None:
        self._control.close()
        self._process.wait()
        self._log.close()
        if self._directory:
            shutil.rmtree(self._directory)

    def _await_ready(self) -> None:
        message = self._control.recv(4096)
        if message != _READY:
            self._process.wait()
            self._log.seek(0)
            log = self._log.read().decode(errors="replace")
            self.close()
            why = message.decode() or "its process has ended"
            raise SimulationError(f"{self.path}: {why}\n{log}".rstrip())


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
