# SPDX-License-Identifier: MIT
"""A table, a sampler and a device, connected as in the daemon, with the test's reader and clock."""

from array import array
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from support.fakes import FakeClock, Woken

from memnotify.abi.figures import PAGE_SIZE
from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, Timing, WakeSources
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoReader

Reader = TypeVar("Reader", bound=MemInfoReader)
Notify = Callable[["array[int]", int], object]


def sampling(
    update_period_s: float = 0.25, max_update_period_s: float = 15.0, **more: Any
) -> SamplingParameters:
    """Return sampling parameters; by default the daemon's."""
    return SamplingParameters(
        update_period_s=update_period_s,
        max_update_period_s=max_update_period_s,
        min_update_period_s=min(0.02, update_period_s),
        fill_rate_pages_s=6 * 2**30 / PAGE_SIZE,
        update_space_kib=0,
    )._replace(**more)


class Bench(Generic[Reader]):
    """The engine without the sampler's thread; ``notified`` has the handles unless ``notify`` is given."""

    def __init__(
        self,
        reader: Reader,
        parameters: SamplingParameters | None = None,
        *,
        table: ObserverTable | None = None,
        notify: Notify | None = None,
        sources: WakeSources | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Give ``table`` if the reader has extra figures. ``timing`` replaces ``clock``."""
        self.clock = FakeClock()
        self.reader = reader
        self.notified = Woken()
        self.table = ObserverTable() if table is None else table
        self.sampler = Sampler(
            self.table,
            reader,
            self.notified if notify is None else notify,
            sampling() if parameters is None else parameters,
            sources=sources or WakeSources(),
            # A turn that is taken by hand does not wait.
            timing=timing or Timing(self.clock, lambda poller, _: poller.poll(0)),
        )
        self.device = Device(self.table, self.sampler)

    @property
    def interval_s(self) -> float:
        """How long after the last sample the timer causes the next one."""
        return self.sampler._interval.timer_s
