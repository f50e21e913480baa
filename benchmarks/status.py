#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure what the status costs: how long a reply takes, and how much later clients are woken meanwhile.

The daemon reads a memory that is made up, every 2 ms, and has many observers. One client is woken again and
again, in turn: while nothing asks, while a process asks in a loop, and while one asks nothing but computes as
much: what the scheduler takes for any process beside. The time is from the change of memory until epoll_wait
returns in the client.
"""

import argparse
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import BenchmarkError, positive, progress, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.daemon import Daemon
from support.fake_memory import FakeMemory

from memnotify.kernel.syscalls import raise_fd_limit

_ARGUMENTS = ("--update-period", "2", "--max-update-period", "2", "--min-update-period", "2")
_DEADLINE_S = 30.0
_ASK = """
import sys, time
from memnotify.cli.varlink import call
from memnotify.cli.status import METHOD
while True:
    begun_s, busy_s = time.monotonic(), time.process_time()
    status = call(sys.argv[1], METHOD)
    print(time.monotonic() - begun_s, time.process_time() - busy_s, len(status["observers"]), flush=True)
"""

# In each cycle it computes for so many seconds, as the program above does when it reads a reply.
_COMPUTE = """
import sys, time
cycle_s, busy_s = map(float, sys.argv[1:])
print(flush=True)
while True:
    time.sleep(cycle_s - busy_s)
    end_s = time.process_time() + busy_s
    while time.process_time() < end_s:
        pass
"""


class Client:
    """A client that is woken by each change of memory."""

    def __init__(self, path: str, memory: FakeMemory) -> None:
        self._memory = memory
        self._fd = os.open(path, os.O_RDWR)
        os.write(self._fd, b"used 80%")
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLIN)
        self._high = False

    def wake(self) -> float:
        """Return how long one wake took, in seconds."""
        self._high = not self._high
        begun_s = time.monotonic()
        self._memory.use(90 if self._high else 50)
        if not self._epoll.poll(_DEADLINE_S):
            raise BenchmarkError(f"no wake within {_DEADLINE_S:.0f} s")
        took_s = time.monotonic() - begun_s
        os.pread(self._fd, 256, 0)
        return took_s

    def close(self) -> None:
        """Close the files."""
        self._epoll.close()
        os.close(self._fd)


@contextmanager
def beside(program: str, *arguments: str) -> Iterator[list[str]]:
    """Run a program in another process from its first line on; the list has the other lines at the end."""
    lines: list[str] = []
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy
        process.stdout.readline()
        try:
            yield lines
        finally:
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)


@contextmanager
def asking(socket: str, took_s: list[tuple[float, float]], observers: int) -> Iterator[None]:
    """Ask for the status in a loop; add each reply's seconds, and those of CPU in the process that asks."""
    with beside(_ASK, socket) as lines:
        yield
    for line in lines:
        if line.endswith("\n"):
            seconds, busy, count = line.split()
            if int(count) < observers:
                raise BenchmarkError(f"a reply had {count} observers only")
            took_s.append((float(seconds), float(busy)))


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(options: argparse.Namespace, directory: Path) -> None:
    """Run the rounds, and print the table."""
    raise_fd_limit()
    memory, socket = FakeMemory(directory), str(directory / "status")
    alone_s: list[float] = []
    asked_s: list[float] = []
    beside_s: list[float] = []
    replies_s: list[tuple[float, float]] = []
    arguments = (*_ARGUMENTS, *memory.ARGUMENTS, "--status-socket", socket)
    with (
        Daemon(*arguments, transport="fuse", program=memory.program) as daemon,
        ExitStack() as opened,
    ):
        first = os.open(daemon.path, os.O_RDWR)
        opened.callback(os.close, first)
        total_pages = int(os.read(first, 256).split()[1])
        level_pages = total_pages * 95 // 100
        for number in range(options.observers):
            fd = os.open(daemon.path, os.O_RDWR)
            opened.callback(os.close, fd)
            # Beyond what the client watches; each at a level of its own.
            os.write(fd, b"used %d" % (level_pages + number))
        client = Client(daemon.path, memory)
        opened.callback(client.close)
        for number in range(options.rounds):
            alone_s += [client.wake() for _ in range(options.wakes)]
            with asking(socket, replies_s, options.observers):
                asked_s += [client.wake() for _ in range(options.wakes)]
            if not replies_s:
                raise BenchmarkError("no reply came: more --wakes")
            reply_s, busy_s = map(statistics.median, zip(*replies_s, strict=True))
            with beside(_COMPUTE, str(reply_s), str(busy_s)):
                beside_s += [client.wake() for _ in range(options.wakes)]
            progress(f"round {number + 1} of {options.rounds}")
        rss_kib = daemon.status("VmRSS")
    print(f"{options.observers} observers; the daemon has {rss_kib} KiB")
    print(f"status: median {1000 * reply_s:.1f} ms of {len(replies_s)} replies")
    rows = {
        "nothing asks": alone_s,
        f"a process computes {busy_s / reply_s:.0%} of the time": beside_s,
        "status asked in a loop": asked_s,
    }
    for name, values in rows.items():
        print(
            f"wake, {name}: median {1000 * statistics.median(values):.2f} ms,"
            f" p99 {1000 * percentile(values, 0.99):.2f} ms of {len(values)}"
        )
    for name, values in list(rows.items())[:2]:
        print(f"ratio of p99 to that of '{name}': {percentile(asked_s, 0.99) / percentile(values, 0.99):.2f}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        epilog="Run as root, from an environment in which memnotify is installed (pip install -e .).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--observers", type=positive, default=10_000, help="open files with a threshold each")
    parser.add_argument("--wakes", type=positive, default=500, help="wakes of each kind in a round")
    parser.add_argument("--rounds", type=positive, default=4, help="rounds; each takes a few seconds")
    return parser.parse_args()


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    return run("status", lambda directory: measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
