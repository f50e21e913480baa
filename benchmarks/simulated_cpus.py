#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure the page counters and an exact sample of machines that are too large to boot.

The kernel's part is simulated: a counter takes as long to open, arm and close as one does here, and
/proc/zoneinfo has the zones and CPUs of such a machine.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from support.bench import sampling  # noqa: E402 - the tests' directory is not on the path
from support.levels import levels  # noqa: E402 - the same
from support.simulation import STEP_S, Curve, Simulation  # noqa: E402 - the same
from support.zoneinfo import zoneinfo  # noqa: E402 - the same

from memnotify.abi.figures import PAGE_SIZE, USED  # noqa: E402
from memnotify.kernel import page_counters  # noqa: E402
from memnotify.kernel.meminfo import MemInfoReader  # noqa: E402
from memnotify.kernel.page_counters import ALLOCATED, EVERY_ALLOCATION, FREED, PageCounter  # noqa: E402
from memnotify.kernel.syscalls import TracepointCounter, tracepoint  # noqa: E402

# The nodes of a machine, by its CPUs.
_MACHINES = {2: 1, 16: 1, 64: 2, 256: 8}
_COUNTERS = 200
_SAMPLES = 20
# An idle machine, for the wake-ups: the pages of each node, those on the per-CPU lists of each CPU, and those
# that come and go in a second, all on one CPU.
_NODE_PAGES = 1 << 26
_LISTS_PAGES = 12_800
_CHURN_PAGES_S = 1000
# Where `used` is between two thresholds, in parts of the way.
_PLACES = 10
_MINUTE_S = 60


class Costs(NamedTuple):
    """What the kernel takes for one counter, in seconds."""

    open_s: float
    arm_s: float
    disarm_s: float
    close_s: float


def measure_costs(counters: int) -> Costs:
    """Return the medians over real counters of this machine's first CPU. Raises OSError."""
    number = tracepoint(FREED[0]).number
    # The last counter of a tracepoint takes 36 ms to close; the page counters never close it while they run.
    kept = TracepointCounter(number, "order==0", 0)
    opened: list[TracepointCounter] = []

    def median_s(work: Callable[[int], object]) -> float:
        return statistics.median(_timed(partial(work, place)) for place in range(counters))

    costs = Costs(
        median_s(lambda _: opened.append(TracepointCounter(number, "order==0", 0, kept))),
        median_s(lambda place: opened[place].arm(1 << 20)),
        median_s(lambda place: opened[place].arm(0)),
        median_s(lambda place: opened[place].close()),
    )
    kept.close()
    return costs


def main() -> int:
    """Measure each machine and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        epilog="Run it as root. The kernel's time for its files comes on top of a sample's.",
    )
    parser.add_argument(
        "--close-ms", type=float, help="let closing a counter take this long (default: as measured here)"
    )
    parser.add_argument(
        "--cpus", type=int, nargs="+", choices=_MACHINES, default=list(_MACHINES), help="(default: all)"
    )
    options = parser.parse_args()
    try:
        costs = measure_costs(_COUNTERS)
    except OSError as error:
        print(f"simulated_cpus: pages cannot be counted here ({error}): run as root", file=sys.stderr)
        return 1
    if options.close_ms is not None:
        costs = costs._replace(close_s=options.close_ms / 1e3)
    opened_us, armed_us, disarmed_us, closed_us = (cost_s * 1e6 for cost_s in costs)
    print(
        f"a counter: open {opened_us:.1f}, arm {armed_us:.1f}, disarm {disarmed_us:.1f},"
        f" close {closed_us:.1f} us; below, times are CPU times"
    )
    print(
        f"wake-ups: in a minute, thresholds every 1 % of memory, {_CHURN_PAGES_S} pages/s come and go;"
        f" median (min to max) of {_PLACES} places between two"
    )
    print(
        "CPUs nodes  counters  open, ms  arm, ms  one CPU more, ms  resume, ms  least, MiB  exact sample, us"
        "  wake-ups"
    )
    for cpus in options.cpus:
        with tempfile.TemporaryDirectory() as directory:
            print(_row(cpus, _MACHINES[cpus], costs, Path(directory)), flush=True)
    return 0


def _row(cpus: int, nodes: int, costs: Costs, directory: Path) -> str:
    online, zones = directory / "online", directory / "zoneinfo"
    zones.write_text(zoneinfo(cpus, nodes).text)
    online.write_text(f"0-{cpus - 1}\n")
    made = 0

    class SimulatedCounter:
        """A counter that counts nothing, and takes the kernel's time."""

        def __init__(self, *_: object) -> None:
            nonlocal made
            made += 1
            self._fd = os.eventfd(0)
            _spend(costs.open_s)

        def fileno(self) -> int:
            return self._fd

        def arm(self, events: int) -> None:
            _spend(costs.arm_s if events else costs.disarm_s)

        def close(self) -> None:
            os.close(self._fd)
            _spend(costs.close_s)

    with (
        patch.object(page_counters, "TracepointCounter", SimulatedCounter),
        patch.object(page_counters, "ONLINE_FILE", str(online)),
        patch.object(page_counters, "ZONES_FILE", str(zones)),
    ):
        counters: list[PageCounter] = []
        open_s = _cpu_time(
            lambda: counters.extend((PageCounter(ALLOCATED, EVERY_ALLOCATION), PageCounter(FREED)))
        )
        opened = made
        arm_s = _cpu_time(lambda: [counter.arm(1 << 30) for counter in counters])
        online.write_text(f"0-{cpus}\n")
        more_s = _cpu_time(lambda: [counter.arm(1 << 30) for counter in counters])
        now_s = time.clock_gettime
        with patch.object(time, "clock_gettime", lambda clock: now_s(clock) + 3600):
            resume_s = 0.0
            resumed = made
            while made < resumed + opened or any(counter.opening for counter in counters):
                # One sample each.
                resume_s = max(resume_s, _cpu_time(lambda: [counter.arm(1 << 30) for counter in counters]))
        least_pages = max(counter.least_pages for counter in counters)
        for counter in counters:
            counter.close()
    meminfo = directory / "meminfo"
    meminfo.write_text(re.sub(r"(MemTotal: +)[0-9]+", r"\g<1>8589934592", Path("/proc/meminfo").read_text()))
    with MemInfoReader(meminfo=str(meminfo), zoneinfo=str(zones)) as reader:
        sample_s = _cpu_time(lambda: [reader.read_exact() for _ in range(_SAMPLES)]) / _SAMPLES
    return (
        f"{cpus:4} {nodes:5}  {opened:8}  {open_s * 1e3:8.1f}  {arm_s * 1e3:7.2f}  {more_s * 1e3:16.1f}"
        f"  {resume_s * 1e3:10.1f}  {least_pages * PAGE_SIZE / (1 << 20):10.0f}  {sample_s * 1e6:16.0f}"
        f"  {_wakeups(cpus, nodes, least_pages)}"
    )


def _wakeups(cpus: int, nodes: int, least_pages: int) -> str:
    """Return how often the sampler wakes in the second minute, by the tests' simulation of a memory."""
    apart_pages = nodes * _NODE_PAGES // 100
    counts = []
    for place in range(_PLACES):
        used = nodes * _NODE_PAGES // 2 + apart_pages * (2 * place + 1) // (2 * _PLACES)
        first, both = (_simulated(cpus, nodes, least_pages, used, minutes) for minutes in (1, 2))
        counts.append(both - first)
    return f"{statistics.median(counts):.0f} ({min(counts)} to {max(counts)})"


def _simulated(cpus: int, nodes: int, least_pages: int, used: int, minutes: int) -> int:
    """Return the wake-ups of so many minutes, in which ``used`` stays."""
    curve = Curve(
        used,
        [(0.0, round(minutes * _MINUTE_S / STEP_S))],
        churn=_CHURN_PAGES_S * STEP_S,
        lists_pages=cpus * _LISTS_PAGES,
    )
    # A CPU's counter of single pages has half of its share.
    counter = {"least_pages": least_pages, "share": 0.5 / cpus}
    simulation = Simulation(curve, sampling(), lambda _: None, total=nodes * _NODE_PAGES, counter=counter)
    for percent in range(1, 100):
        sample = simulation.sampler.refresh()
        pages = nodes * _NODE_PAGES * percent // 100
        simulation.table.subscribe(simulation.table.open(), levels({USED: pages}), sample)
    simulation.run()
    return simulation.sampler.wakeups


def _spend(duration_s: float) -> None:
    end_s = time.thread_time() + duration_s
    while time.thread_time() < end_s:
        pass


def _cpu_time(work: Callable[[], object]) -> float:
    """Return how long a call takes where nothing else runs."""
    begun_s = time.thread_time()
    work()
    return time.thread_time() - begun_s


def _timed(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    sys.exit(main())
