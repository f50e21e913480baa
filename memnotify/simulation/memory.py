# SPDX-License-Identifier: MIT
"""A memory that is made up, and the engine that samples it."""

from array import array
from collections.abc import Callable

from memnotify.abi.figures import NAMES, PAGE_SIZE, Figures
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoReader

# As in the defaults of the daemon. Each move is sampled at once, so only the granularity has an effect.
_PARAMETERS = SamplingParameters(
    update_period_s=0.25,
    max_update_period_s=15.0,
    min_update_period_s=0.02,
    fill_rate_pages_s=6 * 2**30 / PAGE_SIZE,
    update_space_kib=0,
)


class _Reader(MemInfoReader):
    """Returns made-up figures. It opens no file, so it does without MemInfoReader's own beginning."""

    def __init__(self, figures: Figures) -> None:
        self.pcp_is_free = False
        self.names = NAMES
        self.figures = figures

    def read_plain(self) -> Figures:
        """Return the figures, which are exact."""
        return self.figures

    def read_exact(self) -> tuple[Figures, int]:
        """Return the figures; no pages are on per-CPU lists."""
        return self.figures, 0


class Memory:
    """The engine on made-up figures; ``notify`` is the sampler's.

    The sampler has no thread: figures move by ``move`` only, which takes the sample. Threads: any.
    """

    def __init__(self, figures: Figures, notify: Callable[["array[int]", int], object]) -> None:
        self._reader = _Reader(figures)
        self.table = ObserverTable()
        self._sampler = Sampler(self.table, self._reader, notify, _PARAMETERS)
        self.device = Device(self.table, self._sampler)

    def move(self, figures: Figures) -> None:
        """Change the figures. When this returns, each client with a threshold that crossed is notified."""
        self._reader.figures = figures
        self._sampler.refresh()

    def close(self) -> None:
        """Close the engine's descriptors; no client is served any more."""
        self._sampler.stop()
