# SPDX-License-Identifier: MIT
"""Compile and run the program in memnotify(4) as mandoc shows it."""

import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.require import unavailable

PAGE = Path(__file__).parents[2] / "docs/man/memnotify.4"


@pytest.fixture
def daemon(serve: Callable[[str], Daemon]) -> Iterator[Daemon]:
    """Return a daemon of the fake memory, at the path that the program uses."""
    with serve("memnotify") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the program, compiled."""
    for needed, package in (("mandoc", "mandoc"), ("gcc", "gcc libc6-dev")):
        if shutil.which(needed) is None:
            unavailable(f"{needed} is not installed: apt install {package}")
    command = ["mandoc", "-T", "ascii", "-O", "width=100", str(PAGE)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = re.findall(r"(?ms)^EXAMPLES$(.*?)^[A-Z]+$", re.sub(".\b", "", shown))[0]
    source = tmp_path_factory.mktemp("manual") / "example.c"
    source.write_text(textwrap.dedent(section[section.index("     #include") :]))
    program = str(source.with_suffix(""))
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, str(source)], check=True)
    return program


def test_it_prints_each_crossing(
    serve: Callable[[str], Daemon], daemon: Daemon, memory: FakeMemory, example: str
) -> None:
    """The state at the start, each crossing, and the state when a new daemon serves."""
    above = "reached: total 2500000 used 2250000 active 250000"
    below = "below: total 2500000 used 1250000 active 250000"
    with Program(example) as program:
        assert program.line() == "watching used 80%"
        assert program.line() == below
        for _ in range(2):
            memory.use(90)
            assert program.line() == above
            memory.use(50)
            assert program.line() == below
        daemon.end(signal.SIGKILL)
        memory.use(90)
        with serve("memnotify"):
            assert program.line() == above
            memory.use(50)
            assert program.line() == below


def test_it_needs_a_daemon_at_the_start(example: str) -> None:
    with Program(example) as program:
        assert program.line() == "example: /dev/memnotify: No such file or directory"
        assert program.end(0) == 1


def test_it_says_what_is_refused(daemon: Daemon, example: str) -> None:
    with Program(example, "usd 80%") as program:
        assert program.line() == "example: usd 80%: Invalid argument"
        assert program.end(0) == 2


def test_it_refuses_a_plain_file(serve: Callable[[str], Daemon], example: str) -> None:
    """Without a daemon, nothing is written to a file at the device's path."""
    path = Path("/dev/memnotify")
    assert not path.exists()
    path.write_text("kept")
    try:
        with Program(example) as program:
            assert program.line() == "example: /dev/memnotify: Operation not permitted"
            assert program.end(0) == 1
        assert path.read_text() == "kept"
    finally:
        path.unlink()
