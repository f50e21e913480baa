# SPDX-License-Identifier: MIT
"""A thousand starts and ends of each kind of client leave nothing behind, here or in the daemon."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import anyio
import pytest
import trio
from support.daemon import QUICK, TRANSPORT, Daemon
from support.fake_memory import FakeMemory
from support.waiting import eventually

from memnotify.client import Event, Lost, Memnotify, Observer, Signals, ThresholdError

# An emulated guest is ten times slower.
TIMES = 1000 if TRANSPORT == "fuse" else 50


class Served(Daemon):
    """A daemon with a socket, and a control file with two signals."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "socket")
        self.control_file = str(directory / "test.mn")
        memory = FakeMemory(directory)
        super().__init__(
            *(*QUICK, *memory.ARGUMENTS, "--socket", self.socket),
            name="memnotify-leaks",
            program=memory.program,
        )
        Path(self.control_file).write_text(f"[DEFAULT]\nsensor={self.path}\n[low]\nused=90%\n[high]\n")

    def held(self) -> tuple[int, int]:
        """Return the number of its descriptors and threads."""
        return self.open_fds(), len(os.listdir(f"/proc/{self.pid}/task"))


@pytest.fixture(scope="module")
def served(_can_serve: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a served daemon."""
    with Served(tmp_path_factory.mktemp("served")) as served:
        yield served


def _only_open(served: Served) -> None:
    with Memnotify(served.path) as device:
        device.read()


def _subscribe(served: Served) -> None:
    with Memnotify(served.path) as device:
        device.subscribe(used="99%")
        device.read()
        assert device.wait(0) is None


def _refused(served: Served) -> None:
    with Memnotify(served.path) as device, pytest.raises(ThresholdError):
        device.subscribe("usd 5")


def _signals(served: Served) -> None:
    with Signals(served.control_file, {}) as signals:
        signals.enable()
        assert signals.states == {"low": False, "high": False}


def _observer(served: Served) -> None:
    with Memnotify(served.path) as device:
        device.subscribe(used="99%")
        with Observer(device, print):
            pass


async def _next(device: Memnotify) -> Event:
    return await anext(device)


def _asyncio(served: Served) -> None:
    async def main() -> None:
        with Memnotify(served.path) as device:
            device.subscribe(used="99%")
            waiting = asyncio.ensure_future(_next(device))
            await asyncio.sleep(0)
            waiting.cancel()

    asyncio.run(main())


async def _wait_until_cancelled(served: Served, cancelled: AbstractContextManager[object]) -> None:
    with Memnotify(served.path) as device:
        device.subscribe(used="99%")
        with cancelled:
            await anext(device)


def _trio(served: Served) -> None:
    async def main() -> None:
        await _wait_until_cancelled(served, trio.move_on_after(0))

    trio.run(main)


def _anyio(served: Served, backend: str) -> None:
    async def main() -> None:
        await _wait_until_cancelled(served, anyio.move_on_after(0))

    anyio.run(main, backend=backend)


def _connection(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(served.socket)
        # A refusal is answered, so the write has been handled.
        connection.sendall(b"used 99%\nusd 5\n")
        assert connection.recv(4096).startswith(b"error ")


KINDS: dict[str, Callable[[Served], None]] = {
    "open": _only_open,
    "subscribe": _subscribe,
    "refused": _refused,
    "signals": _signals,
    "observer": _observer,
    "asyncio": _asyncio,
    "trio": _trio,
    "anyio": partial(_anyio, backend="asyncio"),
    "anyio on trio": partial(_anyio, backend="trio"),
    "socket": _connection,
}


def _held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_of_a_kind(served: Served, kind: str) -> None:
    """Neither a descriptor nor a thread is left."""
    use = KINDS[kind]
    idle = served.held()
    use(served)  # the first time imports modules
    before = _held()
    for _ in range(TIMES):
        use(served)
    assert _held() == before
    # The daemon handles the end of a connection later.
    eventually(lambda: served.held() == idle, "the daemon has closed what they had")


def test_a_thousand_losses_leave_nothing_behind() -> None:
    """Clients that are closed while no daemon serves leave no file or timer."""
    before = len(os.listdir("/proc/self/fd"))
    daemon = Daemon(*QUICK, name="memnotify-leak")
    devices = [Memnotify(daemon.path) for _ in range(TIMES)]
    for device in devices:
        device.subscribe(used="99%")
    daemon.end(signal.SIGKILL)
    for device in devices:
        assert isinstance(device.wait(0), Lost)
        assert device.wait(0) is None
        device.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with Daemon(*QUICK, name="memnotify-leak"):
        pass
