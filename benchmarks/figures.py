# SPDX-License-Identifier: MIT
"""Measure the cost of a sample: reading the kernel's files and parsing them, also those of a large machine.

Every round measures each row in turn; the table shows medians. Absolute times say something about this
machine; compare rows.
"""
# ruff: noqa: SLF001 - parts are measured

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.zoneinfo import zoneinfo

from memnotify.abi.figures import EXTRA_FIGURES
from memnotify.kernel.meminfo import MemInfoReader

ROUND_S = 0.01


def per_line(text: bytes) -> dict[bytes, int]:
    """Return every field of /proc/meminfo, as most programs do."""
    lines = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in lines}


def elsewhere(text: str) -> MemInfoReader:
    """Return a reader that takes a text for /proc/zoneinfo."""
    fd = os.memfd_create("zoneinfo")
    os.write(fd, text.encode())
    try:
        return MemInfoReader(zoneinfo=f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def lasts_us(work: Callable[[], object]) -> float:
    """Return how many microseconds ``work`` takes, repeated for about ROUND_S."""
    count, begin_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - begin_s) < ROUND_S:
        work()
        count += 1
    return passed_s / count * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31, help="how many (%(default)s)")
    rounds = parser.parse_args().rounds
    with (
        MemInfoReader() as reader,
        MemInfoReader(extra=dict(itertools.islice(EXTRA_FIGURES.items(), 7))) as seven_extra,
        elsewhere(zoneinfo(256, nodes=2).text) as two_nodes,
        elsewhere(zoneinfo(256, nodes=8).text) as eight_nodes,
        open("/proc/meminfo", "rb", buffering=0) as file,
    ):
        reader.read_plain()
        text = os.pread(file.fileno(), 1 << 16, 0)
        rows: dict[str, Callable[[], object]] = {
            "read /proc/meminfo": lambda: os.pread(file.fileno(), 1 << 14, 0),
            "understand it, by columns": lambda: reader._columns.values(text),
            "understand it, line by line": lambda: per_line(text),
            "plain figures": reader.read_plain,
            "plain figures with seven extra ones": seven_extra.read_plain,
            "exact figures": reader.read_exact,
            "read and understand /proc/zoneinfo": reader._pcp_pages,
            "256 CPUs' on 2 nodes, without the kernel's time to write it": two_nodes._pcp_pages,
            "256 CPUs' on 8 nodes, without the kernel's time to write it": eight_nodes._pcp_pages,
        }
        times = [{name: lasts_us(work) for name, work in rows.items()} for _ in range(rounds)]
    for name in rows:
        print(f"{statistics.median(row[name] for row in times):9.2f} us  {name}")


if __name__ == "__main__":
    main()
