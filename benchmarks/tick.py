# SPDX-License-Identifier: MIT
"""What one sample costs the sampler, by the number of thresholds, none of which is crossed."""

import gc
import statistics
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable

from common import HERE, BenchmarkError, spread, table

sys.path.insert(0, str(HERE.parent / "tests"))

from support.bench import Bench

from memnotify.engine.sampler import Timing, WakeSources
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.page_counters import open_page_counters

COUNTS = (10, 1_000, 100_000)
_BATCH = 100
# Roughly a sample, and becoming an observer, in seconds; to estimate the duration.
_SAMPLE_S, _SUBSCRIBE_S = 100e-6, 20e-6


def seconds(options: Namespace) -> float:
    """Return about how long it takes."""
    return float(options.rounds * 5 * _BATCH * _SAMPLE_S + sum(COUNTS) * _SUBSCRIBE_S)


def measure(options: Namespace) -> None:
    """Run the rounds and print the table."""
    with MemInfoReader() as reader:
        smallest, *_ = names = [f"sample(), {count} thresholds" for count in COUNTS]
        measured: dict[str, Callable[[], object]] = {
            name: _sample(count, reader) for name, count in zip(names, COUNTS, strict=True)
        }
        readings = (reader.read_plain, reader.read_exact)
        methods = {f"MemInfoReader.{method.__name__}()": method for method in readings}
        measured |= methods
        results: dict[str, list[float]] = {name: [] for name in measured}
        # As the daemon does: keep the collector from visiting 100,000 observers.
        gc.freeze()
        for number in range(options.rounds):
            for name in list(measured)[:: 1 if number % 2 == 0 else -1]:
                results[name].append(_cpu_us(measured[name]))
    rows = [["one tick", "CPU, us", f"ratio to {COUNTS[0]} thresholds"]]
    for name, column in results.items():
        ratios = [ours / least for ours, least in zip(column, results[smallest], strict=True)]
        rows.append([name, spread(column, 1), f"{statistics.median(ratios):.2f}"])
    print(f"\n{table(rows)}\n{options.rounds} rounds of {_BATCH}, interleaved; median (min to max)\n")


def _sample(count: int, reader: MemInfoReader) -> Callable[[], object]:
    """Return the sample() of a sampler with ``count`` thresholds, half of them exceeded, none near."""
    sources = WakeSources(page_counters=open_page_counters())
    bench = Bench(reader, notify=_crossed, sources=sources, timing=Timing())
    device = bench.device
    (total, used, _), _ = reader.read_exact()
    # Up to two thirds of `used`, and from a quarter of the rest above it: far from what other programs take.
    below, above = used * 2 // 3, used + (total - used) // 4
    for number in range(count):
        place = number // 2 / max(1, count // 2)
        pages = 1 + place * below if number % 2 else above + place * (total - above)
        device.write(device.open(), b"used %d" % pages)
    return bench.sampler.sample


def _crossed(_: "array[int]", count: int) -> None:
    raise BenchmarkError(f"{count} thresholds were crossed by other programs' memory: try again")


def _cpu_us(call: Callable[[], object]) -> float:
    before_ns = time.thread_time_ns()
    for _ in range(_BATCH):
        call()
    return (time.thread_time_ns() - before_ns) / _BATCH / 1000
