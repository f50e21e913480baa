# SPDX-License-Identifier: MIT
"""``memnotify watch`` against a served device: its lines, and its picture in a pseudo-terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon, ready
from support.fake_memory import FakeMemory
from support.program import Program
from support.terminal import ALTERNATE, Terminal
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Memnotify

NAME = "memnotify-watch"
STAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"


@pytest.fixture
def daemon(serve: Callable[[str], Daemon]) -> Iterator[Daemon]:
    """Return a daemon whose memory the test moves."""
    with serve(NAME) as daemon:
        yield daemon


def _command(path: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "memnotify", "watch", "--path", path, "--interval", "0.2", *arguments]


# Lines


@pytest.mark.representative
def test_lines_where_there_is_no_terminal(daemon: Daemon, memory: FakeMemory) -> None:
    with Program(*_command(daemon.path, "--when", "used 80%", "--when", "used 6G active 80%")) as program:
        told = r" used 4\.8 GiB 50\.0 %  active 976\.6 MiB 10\.0 %  of 9\.5 GiB"
        assert re.fullmatch(STAMP + told, program.line())
        memory.use(90)
        events = [program.hear("reached") for _ in range(2)]
        assert [event.partition(" used ")[2] for event in sorted(events, key=lambda event: event[20:])] == [
            "reached 62.9 % (6.0 GiB): now 90.0 % (8.6 GiB)",
            "reached 80.0 % (7.6 GiB): now 90.0 % (8.6 GiB)",
        ]
        program.hear(" used 8.6 GiB 90.0 % ")
        memory.use(70)
        assert program.hear("fell").endswith(" used fell below 80.0 % (7.6 GiB): now 70.0 % (6.7 GiB)")
        assert program.end(signal.SIGINT) == 130


@pytest.mark.representative
def test_lines_find_a_new_daemon(serve: Callable[[str], Daemon], memory: FakeMemory) -> None:
    old = serve(NAME)
    with Program(*_command(old.path, "--plain", "--when", "used 80%")) as program:
        program.line()
        old.end(signal.SIGKILL)
        program.hear("the device is no longer served")
        memory.use(90)
        with serve(NAME):
            events = [program.hear("served again")[20:], program.hear(": now")[20:]]
            assert events == [
                "the device is served again",
                "used reached 80.0 % (7.6 GiB): now 90.0 % (8.6 GiB)",
            ]
            program.end(signal.SIGINT)


def test_it_does_not_keep_the_daemon_busy(daemon: Daemon) -> None:
    with Program(*_command(daemon.path, "--when", "used 80%")) as program:
        program.line()
        told = len(program.lines)
        wakes = daemon.wakes_within(1.0)
        # The main thread's wake-ups are requests.
        assert wakes.get(str(daemon.pid), 0) <= 5 * (len(program.lines) - told + 1)


# The picture


def _terminal(path: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Terminal:
    return Terminal(*_command(path, *arguments), environment=environment)


@pytest.mark.parametrize(
    "environment", [pytest.param({}, marks=pytest.mark.representative), {"NO_COLOR": "1"}]
)
def test_the_picture_lives(daemon: Daemon, memory: FakeMemory, environment: dict[str, str]) -> None:
    with _terminal(daemon.path, "--when", "used 80%", environment=environment) as terminal:
        terminal.shows("50.0 %    4.8 GiB")
        terminal.shows("none yet")
        assert [len(line) for line in terminal.frame] == [80] * 24
        memory.use(90)
        terminal.shows("▲ used reached 80.0 % (7.6 GiB): now 90.0 % (8.6 GiB)")
        terminal.shows("90.0 %    8.6 GiB")
        assert bool(re.search(r"\x1b\[[0-9;]*31m", terminal.sent)) == (not environment)
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.is_restored


def test_it_follows_the_size(daemon: Daemon) -> None:
    with _terminal(daemon.path, environment={"COLUMNS": "33", "LINES": "7"}) as terminal:
        for columns, rows in ((80, 24), (120, 40), (40, 12), (20, 5), (100, 30)):
            terminal.resize(columns, rows)
            size = [columns] * rows
            eventually(lambda: [len(line) for line in terminal.frame] == size, str(size))  # noqa: B023 - at once
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_restores_the_terminal(daemon: Daemon, number: signal.Signals) -> None:
    with _terminal(daemon.path) as terminal:
        terminal.shows("q quits")
        os.kill(terminal.process.pid, number)
        assert terminal.end() == 0
        assert terminal.is_restored


def test_the_terminal_is_restored_while_stopped(daemon: Daemon) -> None:
    with _terminal(daemon.path) as terminal:
        terminal.shows("q quits")
        pid = terminal.process.pid
        os.kill(pid, signal.SIGTSTP)
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", "it is stopped")
        eventually(lambda: terminal.is_restored, "the terminal is given back")
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: terminal.sent.count(ALTERNATE) == 2, "it goes on")
        eventually(lambda: terminal.sent.rpartition(ALTERNATE)[2].count("q quits") > 1, "it draws")
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.is_restored


def test_the_picture_finds_a_new_daemon(serve: Callable[[str], Daemon]) -> None:
    old = serve(NAME)
    with _terminal(old.path) as terminal:
        terminal.shows("50.0 %")
        old.end(signal.SIGKILL)
        terminal.shows("not served")
        with serve(NAME):
            terminal.shows("the device is served again")
            assert "not served" not in terminal.frame[0]
            terminal.press(b"q")
            assert terminal.end() == 0


def test_it_ends_with_the_terminal(daemon: Daemon, tmp_path: Path) -> None:
    near, far = pty.openpty()
    with open(tmp_path / "errors", "w") as errors:
        process = subprocess.Popen(
            ["setsid", "--ctty", *_command(daemon.path)],
            stdin=far,
            stdout=far,
            stderr=errors,
            env=os.environ | {"TERM": "xterm", "LANG": "C.UTF-8"},
        )
    os.close(far)
    try:
        # A terminal without a size, like a serial line.
        sent = b""
        while b"q quits" not in sent:
            assert ready(near), "silent"
            sent += os.read(near, 65536)
            assert len(sent) < 1_000_000, "no picture"
        os.close(near)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "errors").read_text() == ""


def test_a_question_mark_shows_the_keys(daemon: Daemon) -> None:
    with _terminal(daemon.path) as terminal:
        terminal.shows("50.0 %")
        terminal.press(b"?")
        terminal.shows("keys and signs")
        terminal.press(b"?")
        terminal.shows("50.0 %")
        terminal.press(b"q")
        assert terminal.end() == 0


def test_other_observers_processes_and_zoom(memory: FakeMemory, tmp_path: Path) -> None:
    arguments = (*QUICK, *memory.ARGUMENTS, "--status-socket", f"{tmp_path}/status")
    with (
        Daemon(*arguments, name=NAME, program=memory.program) as daemon,
        Memnotify(daemon.path) as other,
    ):
        other.subscribe(used="70%")
        command = ("--when", "used 80%", "--status-socket", f"{tmp_path}/status")
        with _terminal(daemon.path, *command) as terminal:
            terminal.shows("50.0 %    4.8 GiB")
            assert [(line.count("╎"), line.count("┃")) for line in terminal.frame[1:3]] == [(1, 1), (0, 0)]
            terminal.shows("resident memory of processes")
            assert any(re.search(r"[0-9.]+ [KMGT]iB \S+ [0-9]+ ", line) for line in terminal.frame)
            terminal.press(b"g")
            terminal.shows("resident memory of cgroups")
            terminal.press(b"--")
            terminal.shows("the highest of each 1 s")
            terminal.press(b"q")
            assert terminal.end() == 0


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_without_the_characters_gets_ascii(daemon: Daemon, environment: dict[str, str]) -> None:
    with _terminal(daemon.path, environment=environment) as terminal:
        terminal.shows("50.0 %    4.8 GiB")
        assert terminal.sent.isascii()
        assert terminal.frame[0].startswith("+- memnotify ")
        terminal.press(b"q")
        assert terminal.end() == 0


def test_a_terminal_that_cannot_draw_gets_lines(daemon: Daemon) -> None:
    with _terminal(daemon.path, environment={"TERM": "dumb"}) as terminal:
        eventually(lambda: re.match(STAMP + " used ", terminal.sent), "a line")
        assert "\x1b" not in terminal.sent
