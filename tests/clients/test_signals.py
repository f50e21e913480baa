# SPDX-License-Identifier: MIT
"""The effect of signals on commands: as a container's init process, and if ignored at the start."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.fake_memory import FakeMemory
from support.program import Program, settle
from support.waiting import eventually

NAME = "memnotify-signals"
MEMNOTIFY = (sys.executable, "-m", "memnotify")
COMMANDS = [
    ("wait", "used 99%"),
    ("run", "--when", "used 99%", "--", "true"),
    ("watch", "--plain", "--interval", "100"),
]


@pytest.fixture
def daemon(serve: Callable[[str], Daemon]) -> Iterator[Daemon]:
    """Return a daemon whose memory the test moves."""
    with serve(NAME) as daemon:
        yield daemon


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def await_command(pid: int) -> None:
    """Wait until a process has executed the command."""
    cmdline = Path(f"/proc/{pid}/cmdline")
    eventually(lambda: cmdline.read_bytes().startswith(os.fsencode(sys.executable)), "the command runs")
    settle(pid)


@contextmanager
def container(daemon: Daemon, name: str, *arguments: str) -> Iterator[tuple[Program, int]]:
    """Run a command as PID 1 of a pid namespace; give it and its pid outside."""
    command = [*MEMNOTIFY, name, "--path", daemon.path, *arguments]
    with Program("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command) as program:
        eventually(lambda: children(program.process.pid), "unshare has forked")
        (pid,) = children(program.process.pid)
        await_command(pid)
        yield program, pid


@pytest.mark.parametrize(("name", "arguments"), [(name, rest) for name, *rest in COMMANDS])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_init_process_ends(daemon: Daemon, name: str, arguments: list[str], number: int) -> None:
    """A signal ends a command that is PID 1 of a container, with the exit code that a shell reports."""
    with container(daemon, name, *arguments) as (program, pid):
        os.kill(pid, number)
        assert program.end(0) == 128 + number


def test_the_init_process_reaps(daemon: Daemon, memory: FakeMemory) -> None:
    """A process that outlives the command of ``run`` leaves no zombie; the command is waited for."""
    script = "true & sleep 0.05 & (sleep 0.05 &) ; echo ran"
    arguments = ("--when", "used 80%", "--when-below", "used 60%", "--", "sh", "-c", script)
    with container(daemon, "run", *arguments) as (program, pid):
        for used_percent in (90, 50, 90):
            memory.use(used_percent)
            assert program.line() == "ran"
        # The one that is left starts commands.
        eventually(lambda: len(children(pid)) == 1, "all others are reaped")
        settle(pid)
        os.kill(pid, signal.SIGTERM)
        assert program.end(0) == 128 + signal.SIGTERM


def test_the_init_process_counts_its_runs(daemon: Daemon, memory: FakeMemory) -> None:
    """``run --count`` ends with its command's result as in any other process."""
    arguments = ("--when", "used 80%", "--count", "1", "--", "sh", "-c", "(sleep 0.01 &); exit 3")
    with container(daemon, "run", *arguments) as (program, _):
        memory.use(90)
        assert program.line() == "memnotify run: sh: ended with 3"
        assert program.end(0) == 1


@pytest.mark.parametrize(("name", "arguments"), [(name, rest) for name, *rest in COMMANDS])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(
    daemon: Daemon, name: str, arguments: list[str], number: signal.Signals
) -> None:
    """A signal that was ignored at the start, as by nohup or ``sh -c 'COMMAND &'``, ends no command."""
    script = f"trap '' {number.name.removeprefix('SIG')}; exec \"$@\""
    command = [*MEMNOTIFY, name, "--path", daemon.path, *arguments]
    with Program("sh", "-c", script, "sh", *command) as program:
        eventually(
            lambda: (
                b"memnotify" in Path(f"/proc/{program.process.pid}/cmdline").read_bytes().split(b"\0")[2:4]
            ),
            "the command is there",
        )
        program.settle()
        program.process.send_signal(number)
        program.settle()
        assert not program.ended
        other = signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT
        assert program.end(other) == (-signal.SIGTERM if other == signal.SIGTERM else 130)
