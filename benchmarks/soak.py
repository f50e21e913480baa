#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Let clients of all kinds use a daemon for hours, and compare every event with a model of the contract.

The daemon reads a memory that is made up and moves by one step at a time. A reading that shows the step has
been counted. So from then on the model says which clients must have an event: an event that does not come in
time is lost, any other is invented, and either ends the run with exit code 1. Between two steps clients read,
write, poll, come, go, and are killed inside requests. The daemon is reloaded, stopped, given figures that
cannot be read, ended and killed.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import BenchmarkError, progress, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.daemon import Daemon
from support.fake_memory import FakeMemory
from support.model import ModelObserver, understood

from memnotify.abi.figures import PAGE_SIZE, Figures

DEADLINE_S = 30.0
"""An event that has not come by then is lost."""
TOTAL_KIB = 10_000_000
# Half of this is the granularity: 5 % of total, so that of steps of single percents some are damped.
_UPDATE_SPACE_KIB = TOTAL_KIB // 10
_GRANULARITY_PAGES = _UPDATE_SPACE_KIB // 2 * 1024 // PAGE_SIZE
_UPDATE_PERIODS_MS = (2, 5, 20)
_REPORT_S = 10.0
_CHURN = """
import os, random, sys
path = sys.argv[1]
while True:
    fd = os.open(path, os.O_RDWR)
    for _ in range(random.randrange(5)):
        random.choice([lambda: os.write(fd, b"used 50%"), lambda: os.pread(fd, 256, 0)])()
    os.close(fd)
"""
"""A client that is killed wherever it is."""


class Client:
    """An open file, in an epoll in edge mode, and what the model says of it."""

    acknowledges = "read"

    def __init__(self, soak: "Soak") -> None:
        self.soak = soak
        self.model = ModelObserver()
        self.fd = self.connect()
        self.registered = False
        self.write()
        soak.epoll.register(self.fd, self.asks | select.EPOLLET)
        self.registered = True

    asks = select.EPOLLIN

    def connect(self) -> int:
        """Return a descriptor of the device."""
        return os.open(self.soak.path, os.O_RDWR | os.O_CLOEXEC)

    def write(self) -> None:
        """Replace the thresholds."""
        text = self.soak.thresholds()
        os.write(self.fd, text)
        self.model.write(understood(text) or {}, self.soak.figures)

    def read(self) -> None:
        """Acknowledge by a read, whose line must be that of now."""
        line = os.pread(self.fd, 256, 0)
        if line != self.soak.figures.line:
            raise BenchmarkError(f"a client read {line!r} where {self.soak.figures.line!r} holds")
        self.model.read(self.soak.figures, _GRANULARITY_PAGES)

    def act(self) -> None:
        """Do what this kind of client does between two steps."""
        if self.model.pending and self.soak.random.random() < 0.8:  # some are late
            self.read()
        elif self.soak.random.random() < 0.05:
            self.soak.random.choice((self.write, self.read))()

    def poll(self) -> bool:
        """Whether an event is pending, by the system call."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(poller.poll(0))

    def close(self) -> None:
        """End the client."""
        self.soak.epoll.unregister(self.fd)
        os.close(self.fd)


class PriorityClient(Client):
    """It asks for POLLPRI alone and never reads: its poll acknowledges, and epoll polls before it returns."""

    asks = select.EPOLLPRI

    def poll(self) -> bool:
        """Whether an event is pending: what told it has consumed it."""
        return self.model.pending

    def act(self) -> None:
        """Change the thresholds now and then."""
        self.model.pending = False
        if self.soak.random.random() < 0.02:
            self.write()


class SocketClient(Client):
    """A connection of the socket: an event is a line, and reading it acknowledges."""

    def connect(self) -> int:
        """Return a connected socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self.soak.socket)
            return connection.detach()

    def write(self) -> None:
        """Set thresholds that nothing has crossed yet, so that no line is under way."""
        text = self.soak.thresholds()
        refused = b"none 1\n"
        os.write(self.fd, text + b"\n" + refused)
        # It has been understood when the refusal of the next write comes.
        answer = self._line()
        if not answer.startswith(b"error"):
            raise BenchmarkError(f"the socket answered {answer!r} to a write that it must refuse")
        if self.registered:
            # The answer was read without a poll, so the epoll would look at the socket once more. A line that
            # comes just then is reported twice: 16 of 100,000 (Linux 6.18).
            self.soak.epoll.unregister(self.fd)
            self.soak.epoll.register(self.fd, self.asks | select.EPOLLET)
        self.model.write(understood(text) or {}, self.soak.figures)

    def read(self) -> None:
        """Read the line of an event."""
        line = self._line()
        if line != self.soak.figures.line:
            raise BenchmarkError(f"a client of the socket got {line!r}, not {self.soak.figures.line!r}")
        self.model.read(self.soak.figures, _GRANULARITY_PAGES)

    def act(self) -> None:
        """Read the event, always: a second event of an unread line would be no line."""
        if self.model.pending:
            self.read()
        elif self.soak.random.random() < 0.02:
            self.write()

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.fd], [], [], DEADLINE_S)[0]:
                raise BenchmarkError("a client of the socket waits for an answer for ever")
            more = os.read(self.fd, 1)
            if not more:
                raise BenchmarkError("the socket's connection ended")
            line += more
        return line


class Soak:
    """A daemon under a made-up memory, its clients, and the counts of what was expected and seen."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.random = random.Random(options.seed)  # noqa: S311 - a seed repeats a run
        self.options = options
        self.memory = FakeMemory(directory)
        self.digits = {"MemFree": [5, 0], "Active": [1, 0]}
        self.config = directory / "soak.toml"
        self.path = f"/dev/{options.name}"
        self.socket = str(directory / "socket")
        self.epoll = select.epoll()
        self.counts = dict.fromkeys(("steps", "events", "lost", "invented", "reloads", "ends", "kills"), 0)
        self.clients: list[Client] = []
        self.course: list[tuple[float, int, int]] = []
        """Seconds since the start, RSS in KiB and open descriptors of the daemon."""

    @property
    def figures(self) -> Figures:
        """The figures that hold now."""
        free, active = (int("".join(map(str, digits))) for digits in self.digits.values())
        pages = TOTAL_KIB * 1024 // PAGE_SIZE
        return Figures(pages, pages * (100 - free) // 100, pages * active // 100)

    def thresholds(self) -> bytes:
        """Return what a client may write."""
        unit, factor = self.random.choice([("%", 1.0), ("K", TOTAL_KIB / 100), ("M", TOTAL_KIB / 102400)])
        names = self.random.choice([("used",), ("active",), ("used", "active")])
        return " ".join(
            f"{name} {self.random.randrange(1, 1000) / 10 * factor:.3f}{unit}" for name in names
        ).encode()

    def run(self) -> None:
        """Run until the time is over. Raises BenchmarkError for what must not be."""
        begun_s = reported_s = time.monotonic()
        end_s = begun_s + 60 * self.options.minutes
        while time.monotonic() < end_s:
            life_s = min(end_s, time.monotonic() + self.options.life)
            with self._daemon() as daemon, self._churn() as churn:
                for _ in range(self.options.clients):
                    self.clients.append(self._client())
                while time.monotonic() < life_s:
                    self._step()
                    self._disturb(daemon, churn)
                    if time.monotonic() > reported_s + _REPORT_S:
                        reported_s = time.monotonic()
                        self._report(daemon, reported_s - begun_s)
                self._report(daemon, time.monotonic() - begun_s)
                self._end(daemon)

    def _client(self) -> Client:
        return self.random.choice((Client, Client, PriorityClient, SocketClient))(self)

    def _daemon(self) -> Daemon:
        self._configure()
        return Daemon(
            *("--socket", self.socket, *FakeMemory.ARGUMENTS, "--no-count-pages"),
            name=self.options.name,
            transport=self.options.transport,
            program=self.memory.program,
            config=str(self.config),
        )

    def _configure(self) -> None:
        self.config.write_text(
            f"update_period = {self.random.choice(_UPDATE_PERIODS_MS)}\nmin_update_period = 2\n"
            f"max_update_period = 1000\nupdate_space = {_UPDATE_SPACE_KIB}\n"
        )

    @contextlib.contextmanager
    def _churn(self) -> Iterator[list["subprocess.Popen[bytes]"]]:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _step(self) -> None:
        """Move the memory; once that counts, compare the clients that were woken with those that must be."""
        name = self.random.choice(("MemFree", "MemFree", "Active"))
        place = self.random.randrange(2)
        self.digits[name][place] = self.random.randrange(10)
        self.memory.move(name, place, self.digits[name][place])
        self._await_reading()
        self.counts["steps"] += 1
        woken = {}
        for client in self.clients:
            before = client.model.pending
            client.model.see(self.figures, _GRANULARITY_PAGES)
            if client.model.pending and not before:
                woken[client.fd] = client
        self.counts["events"] += len(woken)
        self._compare(set(woken))
        for client in self.clients:
            client.act()

    def _await_reading(self) -> None:
        """Read until the figures are those of now: from then on they count for every client."""
        end_s = time.monotonic() + DEADLINE_S
        with open(self.path, "rb", buffering=0) as device:
            while device.read(256) != self.figures.line:
                if time.monotonic() > end_s:
                    raise BenchmarkError(f"no reading shows {self.figures.line!r}")

    def _compare(self, expected: set[int]) -> None:
        seen: list[int] = []
        end_s = time.monotonic() + DEADLINE_S
        while not expected <= set(seen) and time.monotonic() < end_s:
            seen += [fd for fd, _ in self.epoll.poll(1)]
        seen += [fd for fd, _ in self.epoll.poll(0)]
        lost, invented = compare(expected, seen)
        pending = {client.fd for client in self.clients if client.model.pending}
        ready = {client.fd for client in self.clients if client.poll()}
        lost += len((pending - ready) & set(seen))
        invented += len(ready - pending - set(seen))
        self.counts["lost"] += lost
        self.counts["invented"] += invented
        if lost or invented:
            clients = [
                f"{type(client).__name__} {client.model}: expected {client.fd in expected},"
                f" seen {seen.count(client.fd)}, pending {client.fd in pending}, ready {client.fd in ready}"
                for client in self.clients
                if seen.count(client.fd) != (client.fd in expected)
                or (client.fd in pending) != (client.fd in ready)
            ]
            raise BenchmarkError(
                "\n".join([f"{lost} events lost, {invented} invented at {self.figures.line!r}", *clients])
            )

    def _disturb(self, daemon: Daemon, churn: list["subprocess.Popen[bytes]"]) -> None:
        """Do what happens to a daemon, each of it now and then."""
        chance = self.random.random()
        if chance < 0.01:
            self._configure()
            daemon.process.send_signal(signal.SIGHUP)
            self.counts["reloads"] += 1
        elif chance < 0.02:
            daemon.process.send_signal(signal.SIGSTOP)
            daemon.process.send_signal(signal.SIGCONT)
        elif chance < 0.03:
            self._damage()
        elif chance < 0.06:
            place = self.random.randrange(len(self.clients))
            self.clients[place].close()
            self.clients[place] = self._client()
        elif chance < 0.10:
            if len(churn) >= 3:
                process = churn.pop(0)
                process.kill()
                process.wait()
                self.counts["kills"] += 1
            churn.append(
                subprocess.Popen([sys.executable, "-c", _CHURN, self.path], stderr=subprocess.DEVNULL)
            )

    def _damage(self) -> None:
        """Let the figures be unreadable for a moment: clients are told the last good ones."""
        self.memory.damage(damaged=True)
        try:
            for client in self.random.sample(self.clients, 3):
                if not isinstance(client, SocketClient | PriorityClient):
                    client.read()
        finally:
            self.memory.damage(damaged=False)

    def _end(self, daemon: Daemon) -> None:
        """End the daemon, as asked or by force; every client must be told."""
        number = self.random.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL))
        daemon.end(number)
        self.counts["ends"] += 1
        ended = select.poll()
        for client in self.clients:
            ended.register(client.fd, 0)
        told = {fd for fd, _ in ended.poll(1000)}
        silent = [client for client in self.clients if client.fd not in told]
        if silent:
            raise BenchmarkError(f"{len(silent)} clients were not told that the daemon has ended")
        for client in self.clients:
            client.close()
        self.clients = []
        if number == signal.SIGKILL:
            subprocess.run(["umount", "-l", self.path], check=False, stderr=subprocess.DEVNULL)

    def _report(self, daemon: Daemon, at_s: float) -> None:
        self.course.append((at_s, daemon.status("VmRSS"), daemon.open_fds()))
        counted = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        progress(f"{at_s:6.0f} s: {counted}; RSS {self.course[-1][1]} KiB, {self.course[-1][2]} descriptors")


def compare(expected: set[int], seen: Sequence[int]) -> tuple[int, int]:
    """Return how many events were lost and invented; a second wake-up for one event is invented."""
    return len(expected - set(seen)), len(seen) - len(expected & set(seen))


def plot(course: Sequence[tuple[float, int, int]], file: Path) -> None:
    """Draw RSS and descriptors over the time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only a picture needs it

    figure = Figure(figsize=(8, 4), layout="constrained")
    memory = figure.subplots()
    minutes = [at_s / 60 for at_s, _, _ in course]
    memory.plot(minutes, [rss / 1024 for _, rss, _ in course], color="tab:blue")
    memory.set(xlabel="minutes", ylabel="RSS, MiB")
    descriptors = memory.twinx()
    descriptors.plot(minutes, [count for _, _, count in course], color="tab:orange")
    descriptors.set_ylabel("descriptors")
    figure.savefig(file)


def main() -> int:
    """Run, and say what was lost and invented; the exit code is 1 if anything was."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    parser.add_argument("--clients", type=int, default=40, help="clients at once (default: 40)")
    parser.add_argument("--life", type=float, default=60, metavar="S", help="of one daemon (default: 60 s)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of a run")
    parser.add_argument("--transport", choices=("fuse", "cuse"), default="fuse")
    parser.add_argument(
        "--name", default="memnotify-soak", help="of the device in /dev (default: memnotify-soak)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw RSS and descriptors (matplotlib)")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    progress(f"seed {options.seed}")
    done: list[Soak] = []

    def work(directory: Path) -> None:
        done.append(Soak(directory, options))
        done[0].run()

    code = run("soak.py", work)
    if not done:
        return code
    soak = done[0]
    print(", ".join(f"{name} {count}" for name, count in soak.counts.items()))
    if options.plot and soak.course:
        plot(soak.course, options.plot)
    return code or int(bool(soak.counts["lost"] or soak.counts["invented"]))


if __name__ == "__main__":
    sys.exit(main())
