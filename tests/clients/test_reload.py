# SPDX-License-Identifier: MIT
"""SIGHUP: what changes, what stays; no client, event, descriptor or memory is lost."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import PROGRAM, QUICK, TRANSPORT, Daemon, ready, start, status
from support.fake_memory import FakeMemory
from support.waiting import DEADLINE_S, eventually

RELOADS = 1000
EVENTS = 40
# A leak of one page per reload would be 4 MB.
GROWTH_KIB = 1024


class Configured(Daemon):
    """A daemon of a fake memory, with a configuration file that the test changes."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.memory = FakeMemory(directory)
        self.file = directory / "memnotify.toml"
        self.file.touch()
        super().__init__("--config", str(self.file), *arguments, program=self.memory.program)

    def reload(self, text: str, said: str = "configuration reloaded") -> str:
        """Change the file, send SIGHUP and return the log up to ``said``."""
        before = len(self.log)
        # Atomically, as a concurrent reload may read it.
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: said in self.log[before:], f"it says {said!r}")
        return self.log[before:]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Configured]:
    """Return a daemon with half of its memory used."""
    with Configured(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def fd(daemon: Configured) -> Iterator[int]:
    """Return an open file with the threshold ``used 80%``."""
    fd = os.open(daemon.path, os.O_RDWR)
    os.write(fd, b"used 80%")
    yield fd
    os.close(fd)


def test_what_changes(daemon: Configured, fd: int) -> None:
    """A client keeps its open file and thresholds, and gets the new settings."""
    assert "changed: nothing" in daemon.reload("")
    log = daemon.reload("update_period = 20\nmax_update_period = 100\npoll_acknowledges = true\n")
    assert "changed: update_period, max_update_period, poll_acknowledges" in log
    daemon.memory.use(90)
    assert ready(fd) == select.POLLIN
    assert ready(fd, timeout_s=0) == 0
    log = daemon.reload("update_period = 20\nlog_level = 'debug'")
    assert "changed: max_update_period, poll_acknowledges, log_level" in log
    daemon.memory.use(50)
    assert ready(fd) == ready(fd, timeout_s=0) == select.POLLIN
    eventually(lambda: "next sample in" in daemon.log, "the log explains")


def test_what_stays(daemon: Configured, fd: int) -> None:
    log = daemon.reload("name = 'other'\nsocket_mode = '600'\nupdate_period = 20\n", "takes a restart")
    assert "changed: update_period" in log
    assert "WARNING: a change of socket_mode takes a restart" in log  # the name is given as an option
    daemon.memory.use(90)
    assert ready(fd) == select.POLLIN


def test_what_is_wrong(daemon: Configured, fd: int) -> None:
    """The log says where, no setting changes, and the next reload works."""
    log = daemon.reload("update_space = 64\nupdate_perod = 20\n", "stays as it was")
    assert f'ERROR: {daemon.file}:2: unknown key "update_perod": do you mean update_period?' in log
    daemon.file.unlink()
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: f"{daemon.file}: No such file or directory" in daemon.log, "it says so")
    assert "changed: update_space\n" in daemon.reload("update_space = 64\n")
    daemon.memory.use(90)
    assert ready(fd) == select.POLLIN


def test_options_hold_over_files(tmp_path: Path) -> None:
    with Configured(tmp_path, "--update-space", "64") as daemon:
        assert "changed: fill_rate\n" in daemon.reload("update_space = 128\nfill_rate = 1")


def test_a_thousand_reloads(tmp_path: Path) -> None:
    """While clients open, close, read, write and wait, each crossing is an event, and nothing leaks."""
    with Configured(tmp_path, *QUICK) as daemon:
        done, woken = threading.Event(), threading.Event()
        failures: list[str] = []
        threads = [
            threading.Thread(target=_open_and_close, args=(daemon, done, failures)),
            threading.Thread(target=_watch, args=(daemon, woken, failures)),
        ]
        for thread in threads:
            thread.start()
        try:
            _reload(daemon, 100)
            kept = _kept(daemon)
            _reload(daemon, RELOADS)
            eventually(lambda: woken.is_set() or failures, "all events have come")
        finally:
            done.set()
            for thread in threads:
                thread.join(DEADLINE_S)
        assert failures == []
        # Reloads more, as the last client's end is handled after it is told.
        _reload(daemon, 4)
        eventually(lambda: _kept(daemon)[:2] == kept[:2], f"descriptors and threads are {kept[:2]} again")
        assert _kept(daemon)[2] <= kept[2] + GROWTH_KIB


def _open_and_close(daemon: Configured, done: threading.Event, failures: list[str]) -> None:
    """Open, use and close one client after the other, with thresholds that are never crossed."""
    while not done.is_set():
        fd = os.open(daemon.path, os.O_RDWR)
        os.write(fd, b"used 99% active 95%")
        if not os.read(fd, 256).startswith(b"total ") or ready(fd, timeout_s=0):
            failures.append("an event that no crossing caused")
        os.close(fd)


def _watch(daemon: Configured, woken: threading.Event, failures: list[str]) -> None:
    """Cause crossings, and check one client's events."""
    fd = os.open(daemon.path, os.O_RDWR)
    os.write(fd, b"used 80%")
    for event in range(EVENTS):
        daemon.memory.use(50 if event % 2 else 90)
        if ready(fd) != select.POLLIN:
            failures.append("a crossing that was no event")
            return
        os.read(fd, 256)
        if ready(fd, timeout_s=0.05):
            failures.append("an event that no crossing caused")
    os.close(fd)
    woken.set()


def _reload(daemon: Configured, times: int) -> None:
    """Reload, each time with other settings."""
    for time in range(times):
        daemon.reload(
            f"max_update_period = {200 + time % 7}\nfill_rate = {6000 + time % 5}\n"
            f"poll_acknowledges = {'true' if time % 3 else 'false'}\n"
        )


def _kept(daemon: Configured) -> tuple[int, int, int]:
    """Return how many descriptors and threads it has without clients, and how much memory in KiB."""
    return (
        len(os.listdir(f"/proc/{daemon.pid}/fd")),
        daemon.status("Threads"),
        status(Path(f"/proc/{daemon.pid}/status"), "RssAnon"),
    )


def test_while_it_starts(tmp_path: Path) -> None:
    """A SIGHUP after the configuration was read causes a reload once the daemon serves."""
    stop = threading.Event()
    hung_up = threading.Event()

    def hang_up(process: Callable[[], int]) -> None:
        while not stop.is_set():
            with open(f"/proc/{process()}/status", encoding="ascii") as file:
                blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
            if blocked & 1 or hung_up.is_set():
                os.kill(process(), signal.SIGHUP)
                hung_up.set()

    (tmp_path / "memnotify.toml").write_text("update_space = 64")
    place = (
        "--transport",
        TRANSPORT,
        "--name",
        "memnotify-hup",
        "--config",
        str(tmp_path / "memnotify.toml"),
    )
    process = start(*place)
    assert process.stderr is not None
    thread = threading.Thread(target=hang_up, args=(lambda: process.pid,))
    thread.start()
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if sum("configuration reloaded" in line for line in log) > 3:
                break
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    fd = os.open("/dev/memnotify-hup", os.O_RDWR)
    assert os.read(fd, 256).startswith(b"total ")
    os.close(fd)
    process.terminate()
    _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "Traceback" not in "".join(log) + rest


def test_an_ignored_sighup_stays_ignored(tmp_path: Path) -> None:
    """A SIGHUP that was ignored at the start stays ignored."""
    program = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *PROGRAM)
    with Daemon(program=program) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        fd = os.open(daemon.path, os.O_RDWR)
        assert os.read(fd, 256).startswith(b"total ")
        os.close(fd)
        assert daemon.end() == 0
        assert "reloaded" not in daemon.log


def test_a_terminal_that_closes_ends_what_was_started_in_it(tmp_path: Path) -> None:
    """If its terminal closes the daemon ends; while the terminal exists SIGHUP causes a reload."""
    near, far = os.openpty()
    name = os.ttyname(far)
    take = (
        "import fcntl, os, sys, termios; fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), termios.TIOCSCTTY, 0)"
    )
    program = (sys.executable, "-c", f"{take}; os.execv(sys.argv[2], sys.argv[2:])", name, *PROGRAM)
    daemon = Daemon(program=("setsid", *program))
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: "configuration reloaded" in daemon.log, "it is reloaded")
    os.close(far)
    os.close(near)
    assert daemon.process.wait(DEADLINE_S) == 0
    eventually(lambda: "SIGHUP: ending" in daemon.log, "it says why")
    assert not os.path.lexists(daemon.path)
