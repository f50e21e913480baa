# SPDX-License-Identifier: MIT
"""The cost of many idle watchers: all sleeping in poll() of one device, or each reading memory itself."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import (
    BenchmarkError,
    Driven,
    Server,
    build,
    check_running,
    children,
    cpu_ns,
    memnotify,
    progress,
    spread,
    table,
)

FAR, EVENLY = "memnotify and its clients, far", "the same, evenly over memory"
C, PYTHON = "C, /proc/meminfo at 4 Hz", "Python, the same, naively"
# Fewer of the most expensive, scaled up, so that they do not fill the machine.
_PYTHON_PART = 20
_START_S = 3.0


def seconds(options: Namespace) -> float:
    """Return about how long it takes."""
    return float(4 * options.rounds * (options.idle + options.window + _START_S))


def measure(options: Namespace, directory: Path) -> None:
    """Run the rounds and print the table."""
    client = build("client")
    counts = dict.fromkeys((FAR, EVENLY, C), options.watchers)
    counts[PYTHON] = max(1, options.watchers // _PYTHON_PART)
    results: dict[str, list[float]] = {kind: [] for kind in counts}
    failed = dict.fromkeys(counts, 0)
    for number in range(options.rounds):
        for kind in list(counts)[:: 1 if number % 2 == 0 else -1]:
            label = f"round {number + 1} of {options.rounds}, {kind}"
            try:
                spent_ms_s = _window(options, kind, counts[kind], client, directory)
            except BenchmarkError as error:
                failed[kind] += 1
                progress(f"{label}: failed: {error}")
                continue
            results[kind].append(sum(spent_ms_s) * options.watchers / counts[kind])
            progress(f"{label}: {results[kind][-1]:.3f} ms/s")
    if not all(results.values()):
        raise BenchmarkError("all rounds of one kind failed; why stands above")
    rows = [[f"{options.watchers} watchers, idle", "measured", "windows", "failed", "CPU, ms/s"]]
    for kind, column in results.items():
        tally = [str(counts[kind]), str(len(column)), str(failed[kind])]
        rows.append([kind, *tally, spread(column, 3)])
    remark = f"windows of {options.window:g} s, {options.idle:g} s idle before; median (min to max)"
    print(f"\n{table(rows)}\nwhere fewer were measured the time is scaled up; {remark}\n")


def _window(options: Namespace, kind: str, count: int, client: Path, directory: Path) -> list[float]:
    """Start all watchers afresh; return the ms of CPU time a second that each process then took."""
    with _started(kind, count, options, client, directory) as pids:
        time.sleep(options.idle)
        before = [cpu_ns(pid) for pid in pids]
        time.sleep(options.window)
        after = [cpu_ns(pid) for pid in pids]
        for pid in pids:
            check_running(pid, kind)
    return [(late - early) / 1e6 / options.window for early, late in zip(before, after, strict=True)]


@contextmanager
def _started(
    kind: str, count: int, options: Namespace, client: Path, directory: Path
) -> Iterator[Sequence[int]]:
    """Start all watchers; the value is their processes' numbers, the daemon's first."""
    if kind in (FAR, EVENLY):
        how = "far" if kind == FAR else "sleep"
        with (
            Server("memnotify", memnotify(options.python), directory) as server,
            Driven([str(client), how, str(server.path), str(count)]) as holder,
        ):
            yield [server.pid, *_ready(holder, count)]
        return
    command = [str(client), "meminfo", "-", str(count)]
    if kind == PYTHON:
        command = [sys.executable, str(Path(__file__).with_name("naive.py")), str(count)]
    with Driven(command) as holder:
        yield _ready(holder, count)


def _ready(holder: Driven, count: int) -> list[int]:
    for _ in range(count):
        holder.answer()
    pids = children(holder.pid)
    if len(pids) != count:
        raise BenchmarkError(
            f"{count - len(pids)} of {count} watchers have ended; what they say stands above"
        )
    return pids
