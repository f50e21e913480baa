# SPDX-License-Identifier: MIT
"""How long wakes took, counted by class."""

from array import array
from bisect import bisect_left

BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)
"""The upper bounds of the classes, each included; the last class has none."""


class Latencies:
    """A histogram. Threads: one at a time adds; any thread may read."""

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(BOUNDS_S) + 1)))
        """How many there are in each class."""
        self.total_s = 0.0

    def add(self, latency_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, latency_s)] += 1
        self.total_s += latency_s
