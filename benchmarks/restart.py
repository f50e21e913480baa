#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure a restart: how long no client is served, and whether each client is kept.

A simulated service manager keeps the descriptors, as systemd does. The gap is the time from SIGTERM until the
next process has answered a read of an open file. While no process serves, the simulated memory crosses each
threshold: each client must be told once. The clients are in a process of their own, since the manager would
copy their open files for the process that it starts.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from common import DEADLINE_S, BenchmarkError, positive, progress, run, spread, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.daemon import Daemon
from support.fake_manager import FakeManager
from support.fake_memory import FakeMemory

from memnotify.kernel.syscalls import raise_fd_limit

_NAME = "memnotify-restart"
_ARGUMENTS = ("--max-observers-per-user", "1000000", "--max-observers", "1000000")


class Clients:
    """Open files with a threshold at 60 % each, in one epoll."""

    def __init__(self, path: str, count: int) -> None:
        self._epoll = select.epoll()
        self.fds = [os.open(path, os.O_RDWR) for _ in range(count)]
        for fd in self.fds:
            os.write(fd, b"used 60%")
            self._epoll.register(fd, select.EPOLLIN)

    def told(self) -> int:
        """Read each event; return how many clients had exactly one. Raises BenchmarkError."""
        events = dict.fromkeys(self.fds, 0)
        end_s = time.monotonic() + DEADLINE_S
        waits_s = DEADLINE_S
        # Once all were told, a second event would be ready at once.
        while (found := self._epoll.poll(waits_s)) and time.monotonic() < end_s:
            for fd, what in found:
                if what != select.EPOLLIN:
                    raise BenchmarkError(f"a client was lost: its poll reports {what:#x}")
                os.read(fd, 256)
                events[fd] += 1
            waits_s = DEADLINE_S if 0 in events.values() else 0.1
        return list(events.values()).count(1)


def serve_clients(path: str, count: int) -> int:
    """Be the process of the clients: for each line on stdin, say how many were told."""
    raise_fd_limit()
    clients = Clients(path, count)
    print("open", flush=True)
    for _ in sys.stdin:
        print(clients.told(), flush=True)
    return 0


class Times(NamedTuple):
    """Those of one restart, in seconds."""

    gap_s: float
    end_s: float
    """Until the old process had ended."""


class Service:
    """The daemon under a manager that keeps its descriptors, with clients; ``close`` stops it for good."""

    def __init__(self, directory: Path, python: str, clients: int) -> None:
        self._memory = FakeMemory(directory)
        self._program = (python, *self._memory.program[1:])
        self._manager = FakeManager()
        self._manager.offer_store(directory)
        self._jobs = directory / "jobs"
        self._high = False
        self._pool = ThreadPoolExecutor(1)
        self.daemon = self._start()
        # The answer to its FUSE_FLUSH is ENOSYS: later no close(), of a child as well, waits for a daemon.
        os.close(os.open(self.daemon.path, os.O_RDWR))
        self._probe = os.open(self.daemon.path, os.O_RDWR)
        self._clients = subprocess.Popen(
            [sys.executable, __file__, "--clients-of", self.daemon.path, "--clients", str(clients)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._clients.stdin is None or self._clients.stdout is None:
            raise BenchmarkError("it has pipes")
        self._orders, self._answers = self._clients.stdin, self._clients.stdout
        self._answer()

    def restart(self) -> Times:
        """Restart it; return how long that took."""
        pid = os.pidfd_open(self.daemon.pid)
        begun_s = time.monotonic()
        signal.pidfd_send_signal(pid, signal.SIGTERM)
        select.select([pid], [], [], DEADLINE_S)
        ended_s = time.monotonic()
        os.close(pid)
        self.daemon.end()
        self._high = not self._high
        self._memory.use(70 if self._high else 50)
        answered_s: Future[float] = self._pool.submit(self._read)
        self.daemon = self._start()
        return Times(answered_s.result(DEADLINE_S) - begun_s, ended_s - begun_s)

    def told(self) -> int:
        """Return how many clients were told once of the crossing meanwhile."""
        print(file=self._orders, flush=True)
        return int(self._answer())

    def close(self) -> None:
        """Stop it."""
        self._clients.kill()
        self._clients.wait()
        os.close(self._probe)
        self._jobs.write_text("1 memnotify-test.service stop running\n")
        self.daemon.end()
        self._manager.close()
        self._pool.shutdown()

    def _answer(self) -> str:
        answer = self._answers.readline()
        if not answer:
            raise BenchmarkError("a client was lost")
        return answer

    def _read(self) -> float:
        os.pread(self._probe, 256, 0)
        return time.monotonic()

    def _start(self) -> Daemon:
        program, environment = self._manager.passing(self._program)
        arguments = (*_ARGUMENTS, *FakeMemory.ARGUMENTS)
        fds = [*self._manager.stored.values()]
        return Daemon(
            *arguments,
            transport="fuse",
            name=_NAME,
            program=program,
            environment=environment,
            fds=fds,
        )


def start(directory: Path, python: str) -> float:
    """Start a daemon without clients, and end it; return how many seconds it took to be ready."""
    memory = FakeMemory(directory)
    with FakeManager() as manager:
        begun_s = time.monotonic()
        daemon = Daemon(
            *FakeMemory.ARGUMENTS,
            transport="fuse",
            name=_NAME,
            program=(python, *memory.program[1:]),
            environment=manager.environment,
        )
        ready_s = time.monotonic() - begun_s
        daemon.end()
    return ready_s


def measure(options: argparse.Namespace, directory: Path) -> None:
    """Do the restarts of each version in turn, and print the table."""
    pythons = {"before": options.before} if options.before else {}
    pythons["now"] = sys.executable
    times: dict[str, list[Times]] = {version: [] for version in pythons}
    starts_s: dict[str, list[float]] = {version: [] for version in pythons}
    told = 0
    for number in range(options.rounds):
        # One version at a time: the tracepoints that one daemon counts cost the end of another one nothing.
        for version, python in pythons.items():
            with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as undo:
                service = Service(Path(place), python, options.clients)
                undo.callback(service.close)
                times[version].append(service.restart())
                told += service.told()
            starts_s[version].append(start(directory, python))
            gap_ms = 1000 * times[version][-1].gap_s
            progress(f"restart {number + 1} of {options.rounds}, {version}: {gap_ms:.0f} ms")
    rows = [["ms, median (min to max)", *pythons]]
    for name, values in (
        ("gap in service", {v: [each.gap_s for each in times[v]] for v in pythons}),
        ("of it, until the old process has ended", {v: [each.end_s for each in times[v]] for v in pythons}),
        ("start without clients, until it is ready", starts_s),
    ):
        rows.append([name, *(spread([1000 * value for value in values[v]], 0) for v in pythons)])
    print(f"\n{table([[*row, ''] for row in rows])}")
    expected = options.rounds * options.clients * len(pythons)
    print(f"{options.rounds} restarts with {options.clients} clients: {told} of", end=" ")
    print(f"{expected} told once of the crossing meanwhile")
    if told != expected:
        raise BenchmarkError("a crossing was lost, or told twice")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        epilog="Run as root, from an environment in which memnotify is installed (pip install -e .).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--clients", type=positive, default=10_000, help="open files with a threshold each")
    parser.add_argument("--rounds", type=positive, default=21, help="restarts")
    parser.add_argument(
        "--before", metavar="PYTHON", help="measure the version that this interpreter has, too, in turn"
    )
    parser.add_argument("--clients-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    if options.clients_of:
        return serve_clients(options.clients_of, options.clients)
    return run("restart", lambda directory: measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
