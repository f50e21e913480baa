#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure a restart: how long no client is served, and whether each client is kept.

A simulated service manager keeps the descriptors, as systemd does. The gap is the time from SIGTERM until the
next process has answered a read of an open file. While no process serves, the simulated memory crosses each
threshold: each client must be told once.
"""

import argparse
import os
import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from common import DEADLINE_S, BenchmarkError, positive, progress, run, spread, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.daemon import Daemon
from support.fake_manager import FakeManager
from support.fake_memory import FakeMemory

from memnotify.kernel.syscalls import raise_fd_limit

_ARGUMENTS = ("--max-observers-per-user", "1000000", "--max-observers", "1000000")


class Clients:
    """Open files with a threshold at 60 % each, in one epoll."""

    def __init__(self, path: str, count: int) -> None:
        # The answer to its FUSE_FLUSH is ENOSYS: later no close(), of a child as well, waits for a daemon.
        os.close(os.open(path, os.O_RDWR))
        self._epoll = select.epoll()
        self.probe = os.open(path, os.O_RDWR)
        """One more, without a threshold."""
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

    def close(self) -> None:
        """Close all."""
        self._epoll.close()
        for fd in (self.probe, *self.fds):
            os.close(fd)


class Service:
    """The daemon under a manager that keeps its descriptors; ``close`` stops it for good."""

    def __init__(self, directory: Path) -> None:
        self._memory = FakeMemory(directory)
        self._manager = FakeManager()
        self._manager.offer_store(directory)
        self._jobs = directory / "jobs"
        self._jobs_of_stop = "1 memnotify-test.service stop running\n"
        self._high = False
        self.daemon = self._start()

    def restart(self, clients: Clients) -> tuple[float, float]:
        """Return for how many seconds no read was answered, and how long the end of the old process took."""
        begun_s = time.monotonic()
        self.daemon.end()
        ended_s = time.monotonic()
        self._high = not self._high
        self._memory.use(70 if self._high else 50)
        self.daemon = self._start()
        os.pread(clients.probe, 256, 0)
        return time.monotonic() - begun_s, ended_s - begun_s

    def close(self) -> None:
        """Stop it."""
        self._jobs.write_text(self._jobs_of_stop)
        self.daemon.end()
        self._manager.close()

    def _start(self) -> Daemon:
        program, environment = self._manager.passing(self._memory.program)
        arguments = (*_ARGUMENTS, *FakeMemory.ARGUMENTS)
        fds = [*self._manager.stored.values()]
        return Daemon(
            *arguments,
            transport="fuse",
            name="memnotify-restart",
            program=program,
            environment=environment,
            fds=fds,
        )


def measure(options: argparse.Namespace, directory: Path) -> None:
    """Do the restarts, and print the table."""
    raise_fd_limit()
    gaps_s: list[float] = []
    ends_s: list[float] = []
    told = 0
    with ExitStack() as undo:
        service = Service(directory)
        undo.callback(service.close)
        clients = Clients(service.daemon.path, options.clients)
        undo.callback(clients.close)
        for number in range(options.rounds):
            gap_s, end_s = service.restart(clients)
            gaps_s.append(gap_s)
            ends_s.append(end_s)
            told += clients.told()
            progress(f"restart {number + 1} of {options.rounds}: {1000 * gap_s:.0f} ms")
    rows = [
        ["restart", "ms, median (min to max)"],
        ["gap in service", spread([1000 * gap_s for gap_s in gaps_s], 0)],
        ["of it, until the old process has ended", spread([1000 * end_s for end_s in ends_s], 0)],
    ]
    print(f"\n{table([[*row, ''] for row in rows])}")
    print(f"{options.rounds} restarts with {options.clients} clients: {told} of", end=" ")
    print(f"{options.rounds * options.clients} told once of the crossing meanwhile")
    if told != options.rounds * options.clients:
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
    return parser.parse_args()


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    return run("restart", lambda directory: measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
