# SPDX-License-Identifier: MIT
"""The commands and the library with the daemon's socket as their path, as in a container."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon
from support.doctor import findings
from support.fake_memory import FakeMemory
from support.program import Program
from support.waiting import DEADLINE_S, eventually

from memnotify.cli.doctor.checks import OK
from memnotify.client import (
    Crossed,
    DeviceLostError,
    DeviceMissingError,
    Lost,
    Memnotify,
    NotADeviceError,
    Restored,
    ThresholdError,
)

NAME = "memnotify-path"
Serve = Callable[[], Daemon]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of the socket."""
    return str(tmp_path / "socket")


@pytest.fixture
def serve(path: str, memory: FakeMemory) -> Serve:
    """Return what starts a daemon with the socket."""
    arguments = (*QUICK, *FakeMemory.ARGUMENTS, "--socket", path)
    return lambda: Daemon(*arguments, name=NAME, program=memory.program)


@pytest.fixture
def daemon(serve: Serve) -> Iterator[Daemon]:
    """Return a daemon with the socket."""
    with serve() as daemon:
        yield daemon


def command(*words: str) -> list[str]:
    """Return a command of memnotify."""
    return [sys.executable, "-m", "memnotify", *words]


@pytest.mark.usefixtures("daemon")
def test_read(path: str) -> None:
    for words, environment in (["--path", path], {}), ([], {"MEMNOTIFY_PATH": path}):
        done = subprocess.run(
            command("read", "--json", *words),
            capture_output=True,
            env=os.environ | environment,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        assert json.loads(done.stdout)["used"]["percent"] == 50


@pytest.mark.usefixtures("daemon")
def test_wait(path: str, memory: FakeMemory) -> None:
    with Program(*command("wait", "--path", path, "used 80%", "--count", "2")) as program:
        eventually(lambda: _subscribed(program.process.pid), "the command has subscribed")
        memory.use(90)
        assert program.line() == "total 2500000 used 2250000 active 250000"
        memory.use(50)
        assert program.line() == "total 2500000 used 1250000 active 250000"
        assert program.end(0) == 0


@pytest.mark.parametrize("arguments", [(), ("--user", "nobody")])
def test_doctor(path: str, arguments: Sequence[str]) -> None:
    """It finds the process that listens, and uses the socket as a client."""
    with Daemon(*QUICK, "--socket", path, *arguments, name=NAME) as daemon:
        code, checks = findings("--timeout", "60", "--path", path, name=NAME)
        assert code == 0, checks
        assert checks["node"] == {
            "name": "node", "state": OK, "found": f"{path} is a socket with a listener", "advice": "",
        }  # fmt: skip
        assert f"process {daemon.pid} serves it" in checks["daemon"]["found"]
        assert checks["permissions"]["state"] == OK
        assert checks["round trip"]["found"].startswith("read, write, a refused write, poll: used ")
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(path)
    code, checks = findings("--path", path, name=NAME)
    assert code == 1
    assert checks["node"]["found"] == f"{path} cannot be reached: Connection refused"
    assert "memnotify serve" in checks["node"]["advice"]


@pytest.mark.usefixtures("daemon")
def test_env(path: str) -> None:
    """The socket is what sd-event connects to."""
    done = subprocess.run(
        command("env", "--when", "used 80%"),
        env=os.environ | {"MEMNOTIFY_PATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert f"export MEMORY_PRESSURE_WATCH={path}\n" in done.stdout


@pytest.mark.representative
def test_run_survives_a_restart_in_a_container(
    path: str, serve: Serve, memory: FakeMemory, tmp_path: Path
) -> None:
    """Which has the socket's directory bind-mounted at another place."""
    inside = tmp_path / "inside"
    inside.mkdir()
    bound = f"{inside}/socket"
    contain = (
        "unshare",
        "--mount",
        "sh",
        "-ec",
        'mount --bind "$0" "$1"; shift; exec "$@"',
        tmp_path,
        inside,
    )
    say = ("sh", "-c", "echo $MEMNOTIFY_EVENT $MEMNOTIFY_USED")
    run_it = command("run", "--path", bound, "--when", "used 80%", "--count", "1", "--", *say)
    with serve() as old, Program(*map(str, contain), *run_it) as run:
        eventually(lambda: _subscribed(run.process.pid), "the command has subscribed")
        old.end(signal.SIGKILL)
        assert run.line() == f"memnotify run: {bound}: the device is no longer served"
        memory.use(90)
        with serve():
            assert sorted(run.line() for _ in range(2)) == [
                f"memnotify run: {bound}: the device is served again",
                "up 2250000",
            ]
            assert run.end(0) == 0


@pytest.mark.usefixtures("daemon")
def test_watch(path: str, memory: FakeMemory) -> None:
    with Program(
        *command("watch", "--plain", "--interval", "0.2", "--path", path, "--when", "used 80%")
    ) as watch:
        assert " used 4.8 GiB 50.0 %" in watch.line()
        memory.use(90)
        watch.hear("used reached 80.0 %")
        assert watch.end(signal.SIGINT) == 130


@pytest.mark.usefixtures("daemon")
def test_the_library(path: str, memory: FakeMemory) -> None:
    with Memnotify(path) as device:
        assert device.subscribe("used 80%\nactive 50%\n").used.percent == 50
        for _ in range(2):
            memory.use(90)
            event = device.wait(DEADLINE_S)
            assert isinstance(event, Crossed)
            assert [(change.name, change.up) for change in event.changes] == [("used", True)]
            assert event.after.used.percent == 90
            memory.use(50)
            event = device.wait(DEADLINE_S)
            assert isinstance(event, Crossed)
            assert [change.up for change in event.changes] == [False]
        with pytest.raises(ThresholdError, match="'usd' is not understood"):
            device.subscribe("usd 80%")
        memory.use(90)
        assert isinstance(device.wait(DEADLINE_S), Crossed)
        assert device.subscribe().used.percent == 90
        memory.use(50)
        eventually(lambda: device.read().used.percent == 50, "figures that are not older than update_period")
        assert device.wait(0) is None


def test_the_library_survives_a_restart(path: str, serve: Serve, memory: FakeMemory) -> None:
    async def follow(device: Memnotify, old: Daemon) -> None:
        lost = await anext(device)
        assert isinstance(lost, Lost)
        assert isinstance(lost.error, DeviceLostError)
        memory.use(90)
        with serve():
            restored = await anext(device)
            assert isinstance(restored, Restored)
            assert [change.up for change in restored.changes] == [True]
            memory.use(50)
            crossed = await anext(device)
            assert isinstance(crossed, Crossed)
            assert [change.up for change in crossed.changes] == [False]
        assert old.pid

    with serve() as old, Memnotify(path) as device:
        device.subscribe("used 80%")
        old.end(signal.SIGKILL)
        with pytest.raises(DeviceMissingError):  # the socket is still there, and no process listens
            Memnotify(path)
        asyncio.run(asyncio.wait_for(follow(device, old), DEADLINE_S))


def test_the_socket_of_another_service(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if child == 0:
            with listener.accept()[0] as client:
                client.recv(100)
                client.sendall(b"220 mail\n")
            os._exit(0)
        with pytest.raises(NotADeviceError), Memnotify(path, reopen=False) as device:
            device.read()
        os.waitpid(child, 0)


def _subscribed(pid: int) -> bool:
    """Return True if the process waits without a timeout, in poll(2) or epoll_wait(2) on x86-64.

    An answer of the daemon, as to the thresholds, is awaited in poll(2) as well, but with a timeout.
    """
    syscall, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
    timeout = {"7": 2, "232": 3}.get(syscall)
    return timeout is not None and int(arguments[timeout], 16) & 0xFFFFFFFF == 0xFFFFFFFF
