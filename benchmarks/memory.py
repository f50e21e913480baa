# SPDX-License-Identifier: MIT
"""Measure the memory of observers, and how much of it is given back when they have gone.

RSS is that of the daemon, with the file in memory that keeps the observers' state over a restart.
"""

import argparse
import os
import platform
import resource
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from common import BenchmarkError, Server, memnotify, positive, progress, run, table

_GIVEN_BACK_S = 60.0
# Of one process; few machines allow less.
_FILES_MAX = 16_000
_KINDS: dict[str, Callable[[int, int], str]] = {
    "one threshold": lambda _, total: f"used {total}",
    "three, in percent": lambda _, __: "used 80% active 90% total 110%",
    "three, the same for all": lambda _, total: f"used {total} active {total} total {total + 1}",
    "three, others for each": lambda n, total: f"used {total + n} active {total + n} total {total + 1 + n}",
}


def _measure(options: Namespace, directory: Path, kind: str) -> list[str]:
    """Return the row of one kind of thresholds."""
    with Server("memnotify", memnotify(options.python), directory) as server:
        before_kib = server.rss_kib()
        started_s = time.monotonic()
        with ExitStack() as clients:
            for first in range(0, options.observers, _FILES_MAX):
                numbers = range(first, min(first + _FILES_MAX, options.observers))
                clients.enter_context(_client(server.path, kind, numbers))
            each_us = (time.monotonic() - started_s) / options.observers * 1e6
            full_kib = server.rss_kib() - before_kib
        closed_s = time.monotonic()
        while (left_kib := server.rss_kib() - before_kib) > full_kib * 0.3:
            if time.monotonic() > closed_s + _GIVEN_BACK_S:
                break
            time.sleep(0.1)
        within_s = time.monotonic() - closed_s
    return [
        kind,
        f"{full_kib * 1024 / options.observers:.0f}",
        f"{each_us:.1f}",
        f"{100 * (1 - left_kib / full_kib):.0f} %",
        f"{within_s:.1f}",
    ]


@contextmanager
def _client(path: Path, kind: str, numbers: range) -> Iterator[None]:
    """Hold an open file with thresholds for each number, in a process of its own."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES_MAX + 64, _FILES_MAX + 64))
            # Not all: a read never returns 0 bytes.
            with path.open("rb", buffering=0) as device:
                total = int(device.read(256).split()[1])
            for number in numbers:
                os.write(os.open(path, os.O_RDWR), _KINDS[kind](number, total).encode())
            os.write(is_ready, b"1")
            signal.pause()
        except (OSError, ValueError) as error:
            progress(f"a client: {error}")
        finally:
            os._exit(1)
    os.close(is_ready)
    try:
        with open(ready, "rb") as file:
            if not file.read(1):
                raise BenchmarkError("a client has failed; its message is above")
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def measure(options: Namespace, directory: Path) -> None:
    """Measure each kind of thresholds with a daemon of its own, and print the table."""
    rows = [
        [f"{options.observers} observers", "bytes each", "us to open and write", "given back", "within, s"]
    ]
    for kind in _KINDS:
        rows.append(_measure(options, directory, kind))
        progress("  ".join(rows[-1]))
    print(f"Linux {platform.release()}, Python {platform.python_version()}\n{table(rows)}")


def parse_options() -> Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--observers", type=positive, default=80_000)
    parser.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run("memory", partial(measure, parse_options())))
