# SPDX-License-Identifier: MIT
"""A memory that is made up, and the engine that samples it."""

from array import array
from collections.abc import Callable, Sequence

from memnotify.abi.figures import NAMES, PAGE_SIZE, Figures
from memnotify.engine.device import Device
from memnotify.engine.observer import GroupSource
from memnotify.engine.sampler import Sampler
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable
from memnotify.simulation.amounts import SimulatedFigures

# As in the defaults of the daemon, but no figures are ever old enough to be read again later: each move is
# sampled at once.
_PARAMETERS = SamplingParameters(
    update_period_s=0.0,
    max_update_period_s=15.0,
    min_update_period_s=0.0,
    fill_rate_pages_s=6 * 2**30 / PAGE_SIZE,
    update_space_kib=0,
)


class _Reader:
    """Returns made-up figures."""

    names = NAMES
    pcp_is_free = False
    pcp_limit_pages = 0

    def __init__(self, simulated: SimulatedFigures) -> None:
        self.simulated = simulated

    def read_plain(self) -> Figures:
        return self.simulated.figures

    def read_exact(self, plain: Figures | None = None) -> tuple[Figures, int]:
        return plain or self.simulated.figures, 0


class _Cgroup:
    """The cgroup of every client."""

    key = 1

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read_current(self) -> int:
        return self._reader.simulated.cgroup

    def read_exact(self) -> int:
        return self._reader.simulated.cgroup

    def read_limit(self) -> int:
        return self._reader.simulated.cgroup_limit

    def limit_files(self) -> Sequence[str]:
        return ()


class Memory:
    """The engine on made-up figures; ``notify`` is the sampler's.

    The sampler has no thread: figures move by ``move`` only, which takes the sample. Threads: any.
    """

    def __init__(self, simulated: SimulatedFigures, notify: Callable[["array[int]", int], object]) -> None:
        self._reader = _Reader(simulated)
        self._cgroup = _Cgroup(self._reader)
        self.table = ObserverTable()
        self.sampler = Sampler(self.table, self._reader, notify, _PARAMETERS)
        self.device = self.prepared(Device(self.table, self.sampler))

    def prepared(self, device: Device) -> Device:
        """Let every client of a device be in the made-up cgroup; return the device."""

        def find_group(_pid: int) -> GroupSource:
            return self._cgroup

        device.find_group = find_group
        return device

    def move(self, simulated: SimulatedFigures) -> None:
        """Change the figures. When this returns, each client with a threshold that crossed is notified."""
        self._reader.simulated = simulated
        self.sampler.refresh()
        for group in self.table.watched_groups():
            self.sampler.refresh_group(group)
        self.sampler.finish()

    def close(self) -> None:
        """Close the engine's descriptors; no client is served any more."""
        self.sampler.stop()
