# SPDX-License-Identifier: MIT
"""Draw when memnotify samples, while memory use slowly rises above a threshold and falls again."""

import argparse
import importlib.util
import mmap
import os
import re
import sys
import time
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import PAGE_SIZE, BenchmarkError, Driven, Server, build, memnotify, positive, progress, run

from memnotify.client import Memnotify
from memnotify.kernel.meminfo import MemInfoReader

# How often some memory is taken or freed, and read for the curve.
_STEP_S = 0.02
_STEP_MAX = 16 << 20
_SAMPLE = re.compile(r"^([0-9]+) .*\bnext sample in ([0-9.]+) ms")


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    distance_mib: int
    taken_mib: int
    mib_s: int
    still_s: float
    python: str

    def held_mib(self, at_s: float) -> float:
        """Return how much is to be held ``at_s`` seconds after the beginning."""
        rise_s = self.taken_mib / self.mib_s
        rising = (at_s - self.still_s) * self.mib_s
        falling = self.taken_mib - (at_s - 2 * self.still_s - rise_s) * self.mib_s
        return min(max(0.0, min(rising, falling)), self.taken_mib)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return 3 * self.still_s + 2 * self.taken_mib / self.mib_s


@dataclass(frozen=True)
class Course:
    """What happened, in seconds from the beginning."""

    threshold_pages: int
    memory: list[tuple[float, int]]
    """When, and how many pages were used."""
    events: list[float]
    """When the client's poll returned."""
    samples: list[tuple[float, float]]
    """When the daemon had looked, and how many ms it then meant to sleep."""


def samples(lines: Iterable[str]) -> list[tuple[int, float]]:
    """Return when each sample was logged, in ns, and how many ms the daemon then meant to sleep."""
    return [(int(found[1]), float(found[2])) for line in lines if (found := _SAMPLE.match(line))]


def record(plan: Plan, directory: Path) -> Course:
    """Run a daemon against the ramp. Raises BenchmarkError."""
    client = build("client")
    *serve, path = memnotify(plan.python)
    with ExitStack() as stack:
        reader, writer = os.pipe()
        with ExitStack() as ends:
            ends.callback(os.close, reader)
            ends.callback(os.close, writer)
            stamped = stack.enter_context(Driven([str(client), "stamp", "-", "1"], stdin=reader))
            server = Server("memnotify", [*serve, "--log-level", "debug", path], directory, log_fd=writer)
        stack.enter_context(server)
        meminfo = stack.enter_context(MemInfoReader())
        device = stack.enter_context(Memnotify(str(server.path)))
        threshold = device.read().used + (plan.distance_mib << 20) // PAGE_SIZE
        device.subscribe(f"used {threshold}")
        started_ns = time.monotonic_ns()
        lines: list[str] = []
        memory, events = [], []
        for now_s in _ramp(plan):
            memory.append((now_s, meminfo.read_exact()[0].used))
            # Read all of it soon: the daemon drops log lines that are not read.
            while (line := stamped.line(0)) is not None:
                lines.append(line)
            if device.wait(_STEP_S) is not None:
                events.append((time.monotonic_ns() - started_ns) / 1e9)
    found = [((ns - started_ns) / 1e9, ms) for ns, ms in samples(lines)]
    if not found:
        raise BenchmarkError("the daemon's debug log has no line that says 'next sample in N ms'")
    return Course(threshold, memory, events, found)


def _ramp(plan: Plan) -> Iterator[float]:
    """Take and free memory bit by bit; yield the seconds since the beginning after each bit."""
    started_s, held = time.monotonic(), 0
    with mmap.mmap(-1, plan.taken_mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        # Otherwise the ramp would be a staircase.
        block.madvise(mmap.MADV_NOHUGEPAGE)
        while (now_s := time.monotonic() - started_s) < plan.seconds:
            wanted = int(plan.held_mib(now_s) * 2**20) // PAGE_SIZE * PAGE_SIZE
            # A machine that does not keep up gets a flatter ramp, not one without a curve.
            wanted = min(wanted, held + _STEP_MAX)
            if wanted > held:
                block[held:wanted] = b"\1" * (wanted - held)
            elif wanted < held:
                block.madvise(mmap.MADV_DONTNEED, wanted, held - wanted)
            held = wanted
            yield time.monotonic() - started_s


def draw(course: Course, plan: Plan, output: Path) -> None:
    """Draw it as a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the same

    gib = PAGE_SIZE / 2**30
    times = [at_s for at_s, _ in course.memory]
    used = [pages * gib for _, pages in course.memory]
    looked = [at_s for at_s, _ in course.samples]

    def used_at(moments: list[float]) -> list[float]:
        found = []
        for at_s in moments:
            # Interpolate between the two samples around it.
            place = min(max(1, bisect(times, at_s)), len(times) - 1)
            share = (at_s - times[place - 1]) / (times[place] - times[place - 1])
            found.append(used[place - 1] + min(max(0.0, share), 1.0) * (used[place] - used[place - 1]))
        return found

    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(11, 7), height_ratios=(3, 2), layout="constrained"
    )
    figure.suptitle(
        f"memnotify: {plan.taken_mib} MiB taken and freed at {plan.mib_s} MiB/s,"
        f" a threshold {plan.distance_mib} MiB away: {len(looked)} samples in {plan.seconds:.0f} s"
    )
    above.plot(times, used, color="tab:blue", linewidth=1.5, label="used")
    above.plot(looked, used_at(looked), ".", color="black", markersize=4, label="the daemon samples")
    threshold = course.threshold_pages * gib
    above.axhline(threshold, color="tab:red", linestyle="--", linewidth=1, label="threshold")
    above.plot(
        course.events, used_at(course.events), "v", color="tab:red", markersize=9, label="the client wakes"
    )
    above.set_ylabel("memory, GiB")
    above.set_ylim(0, max(threshold, *used) * 1.1)
    above.legend(loc="upper left")

    _draw_intervals(below, course, plan)
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(output, dpi=120)


def _draw_intervals(below: Any, course: Course, plan: Plan) -> None:
    """Draw how long the daemon meant to sleep, and how long it slept: less if it was woken early."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter  # noqa: PLC0415 - only drawing needs it

    looked = [at_s for at_s, _ in course.samples]
    meant = [ms for _, ms in course.samples]
    slept = [(later - earlier) * 1000 for earlier, later in pairwise(looked)]
    below.step(looked, meant, where="post", color="tab:blue", linewidth=1, label="it means to sleep")
    below.plot(looked[1:], slept, ".", color="black", markersize=4, label="it slept")
    for at_s in course.events:
        below.axvline(at_s, color="tab:red", linewidth=0.8, alpha=0.6)
    below.set_yscale("log")
    below.set_yticks([20, 50, 100, 250, 500, 1000, 2000, 5000, 15000])
    below.set_ylim(min(15, *meant) * 0.8, max(1000, *meant) * 1.2)
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_ylabel("interval, ms")
    below.set_xlabel("time, s")
    below.set_xlim(0, plan.seconds)
    below.legend(loc="upper left", ncols=2)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Run as root, from an environment in which memnotify and matplotlib are installed:"
        " pip install -e '.[bench]'.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="the PNG to write")
    parser.add_argument(
        "--distance-mib", type=positive, default=2048, metavar="MIB", help="how far away the threshold is"
    )
    parser.add_argument("--taken-mib", type=positive, default=2560, metavar="MIB", help="how much is taken")
    parser.add_argument("--rate", type=positive, default=128, metavar="MIB_S", help="and how fast, in MiB/s")
    parser.add_argument(
        "--still",
        type=float,
        default=8,
        metavar="S",
        help="seconds before, between and after, with nothing moving",
    )
    parser.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")
    return parser.parse_args()


def plot(options: argparse.Namespace, directory: Path) -> None:
    """Record and draw. Raises BenchmarkError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchmarkError("matplotlib is missing: pip install -e '.[bench]'")
    plan = Plan(options.distance_mib, options.taken_mib, options.rate, options.still, options.python)
    progress(f"this takes about {plan.seconds:.0f} s")
    course = record(plan, directory)
    try:
        draw(course, plan, options.output)
    except OSError as error:
        raise BenchmarkError(f"{options.output} cannot be written: {error.strerror}") from None
    print(f"{options.output}: {len(course.samples)} samples, {len(course.events)} events")


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    return run("plot", lambda directory: plot(options, directory))


if __name__ == "__main__":
    sys.exit(main())
