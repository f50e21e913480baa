# SPDX-License-Identifier: MIT
"""The program in memnotify(4), compiled and run."""

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
    """Return a daemon whose memory the test moves, at the path that the program uses."""
    with serve("memnotify") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of the compiled program."""
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


def test_it_prints_each_crossing(daemon: Daemon, memory: FakeMemory, example: str) -> None:
    with Program(example) as program:
        program.settle()
        for _ in range(2):
            memory.use(90)
            assert program.line() == "2250000 of 2500000 pages used"
            memory.use(50)
            assert program.line() == "1250000 of 2500000 pages used"
        daemon.end(signal.SIGKILL)
        assert program.line() == "example: the daemon has ended: open again"
        assert program.end(0) == 3


def test_it_says_what_is_refused(daemon: Daemon, example: str) -> None:
    with Program(example, "usd 80%") as program:
        assert program.line() == "example: usd 80%: Invalid argument"
        assert program.end(0) == 2
    with Program(example, "active 20%") as program:
        program.settle()
    assert not program.lines
