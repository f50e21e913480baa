# SPDX-License-Identifier: MIT
"""systemd's memory-pressure protocol: a program on the real sd-event, over the socket and the device."""

import base64
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon
from support.fake_memory import FakeMemory
from support.libsystemd import LibsystemdUnavailable, libsystemd
from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

ENV = [sys.executable, "-m", "memnotify", "env"]
WINDOW_S = 1.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of a service on sd-event."""
    if shutil.which("gcc") is None:
        unavailable("gcc is not installed: apt install gcc libc6-dev")
    try:
        library = libsystemd()
    except LibsystemdUnavailable as error:
        unavailable(str(error))
    source = Path(__file__).with_name("sd_client.c")
    return library.compile(source, tmp_path_factory.mktemp("sd_client") / "sd_client")


class Service:
    """The program with its environment, and its output."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def ask(self) -> tuple[str, int, int]:
        """Return the state of its source, the number of callbacks, and its CPU time in us."""
        before = len(self.said)
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        answers = ("on ", "off ")
        eventually(lambda: any(line.startswith(answers) for line in self.said[before:]), "an answer")
        (answer,) = (line for line in self.said[before:] if line.startswith(answers))
        state, callbacks, cpu_us = answer.split()
        return state, int(callbacks), int(cpu_us)

    def rests(self) -> tuple[str, int]:
        """Return state and callbacks. Fail if the program used CPU time meanwhile."""
        state, callbacks, cpu_us = self.ask()
        threading.Event().wait(WINDOW_S)
        after = self.ask()
        assert after[:2] == (state, callbacks)
        assert after[2] - cpu_us < WINDOW_S * 1e6 / 10
        return state, callbacks

    def __enter__(self) -> Self:
        """Return the program."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self._reader.join(DEADLINE_S)
        if error is None:
            assert code == 0, self.said[-3:]

    def _follow(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.said.append(line.strip())


class Served(Daemon):
    """A daemon with a socket, whose memory the test moves."""

    def __init__(self, directory: Path) -> None:
        self.memory = FakeMemory(directory)
        self.socket = directory / "socket"
        options = ("--socket", str(self.socket), "--log-level", "debug", *FakeMemory.ARGUMENTS)
        super().__init__(*QUICK, *options, program=self.memory.program, name="memnotify-systemd")

    @property
    def samples(self) -> bool:
        """Return True if a client has subscribed."""
        return "next sample in " in self.log


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a daemon with a socket."""
    with Served(tmp_path) as daemon:
        yield daemon


def variables(*arguments: str) -> dict[str, str]:
    """Return the variables that `memnotify env` exports."""
    script = 'eval "$("$@")" && env -0'
    done = subprocess.run(["sh", "-c", script, "sh", *ENV, *arguments], capture_output=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)


def one_callback_for_each_crossing(served: Served, service: Service) -> None:
    """Cross the threshold ten times."""
    eventually(lambda: served.samples, "it has subscribed")
    assert service.said == ["ready"]
    for crossing, used_percent in enumerate((90, 50) * 5, start=1):
        served.memory.use(used_percent)
        eventually(lambda: service.said[-1] != service.said[crossing - 1], "a callback")  # noqa: B023 - at once
        assert service.said[1:] == [f"pressure {number}" for number in range(1, crossing + 1)]
    served.memory.use(60)
    assert service.rests() == ("on", 10)


def test_over_the_socket(served: Served, service: list[str]) -> None:
    environment = variables("--when", "used 75%", "--socket", str(served.socket))
    with Service(service, environment) as program:
        one_callback_for_each_crossing(served, program)


def test_bytes_without_an_end(served: Served, service: list[str]) -> None:
    """Thresholds without a newline, as a user may encode them by hand, are accepted."""
    environment = {
        "MEMORY_PRESSURE_WATCH": str(served.socket),
        "MEMORY_PRESSURE_WRITE": base64.b64encode(b"used 75%").decode(),
    }
    with Service(service, environment) as program:
        one_callback_for_each_crossing(served, program)


def test_by_the_device(served: Served, service: list[str]) -> None:
    """sd-event accepts the CUSE device, and refuses the FUSE file, which is a regular file."""
    environment = variables("--when", "used 75%", "--path", served.path)
    if TRANSPORT == "cuse":
        with Service(service, environment) as program:
            one_callback_for_each_crossing(served, program)
        return
    done = subprocess.run(
        service, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused: Inappropriate ioctl for device\n"
    assert done.returncode == 1


def test_thresholds_that_the_daemon_refuses(served: Served, service: list[str]) -> None:
    """The refusal causes one callback, and no busy loop."""
    environment = {
        "MEMORY_PRESSURE_WATCH": str(served.socket),
        "MEMORY_PRESSURE_WRITE": base64.b64encode(b"usd 75%").decode(),
    }
    with Service(service, environment) as program:
        eventually(lambda: program.said == ["ready", "pressure 1"], "the reason")
        assert program.rests() == ("on", 1)


def test_the_end_of_the_daemon(tmp_path: Path, service: list[str]) -> None:
    """sd-event gives the device up. At a socket's end it spins, as docs/systemd.md warns."""
    with Served(tmp_path) as served:
        by_socket = variables("--when", "used 75%", "--socket", str(served.socket))
        by_device = variables("--when", "used 75%", "--path", served.path)
        program = Service(service, by_device if TRANSPORT == "cuse" else by_socket)
        eventually(lambda: served.samples, "it has subscribed")
    if TRANSPORT == "cuse":
        with program:
            eventually(lambda: program.ask()[0] == "off", "the source is disabled")
            assert program.rests() == ("off", 0)
        return
    eventually(lambda: len(program.said) > 1000, "callbacks without end")
    program.process.kill()
    program.process.wait()
    assert program.process.stdin is not None
    program.process.stdin.close()


# The commands in docs/systemd.md


def documented(kind: str) -> list[str]:
    """Return the blocks of a kind in docs/systemd.md."""
    text = (Path(__file__).parents[2] / "docs/systemd.md").read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", documented("console"))
def test_documented_commands(block: str) -> None:
    """The commands print what the page shows."""
    prompt, _, output = block.partition("\n")
    command = prompt.removeprefix("$ memnotify ")
    assert command != prompt
    done = subprocess.run(
        [sys.executable, "-m", "memnotify", *shlex.split(command)], capture_output=True, text=True, check=True
    )
    assert done.stdout == output


def test_the_documented_program(served: Served) -> None:
    """The program prints a line for each event."""
    (program,) = documented("python")
    assert "/run/memnotify/socket" in program
    command = [sys.executable, "-c", program.replace("/run/memnotify/socket", str(served.socket))]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    eventually(lambda: served.samples, "it has subscribed")
    for used_percent in (90, 50):
        served.memory.use(used_percent)
        assert client.stdout.readline() == f"total 2500000 used {25000 * used_percent} active 250000\n"
    client.kill()
    client.communicate()
