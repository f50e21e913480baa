# SPDX-License-Identifier: MIT
"""Two thresholds of one figure as a switch with hysteresis: on at the higher, off below the lower."""

import errno
import time

from memnotify.client._device import Memnotify
from memnotify.client._errors import ThresholdError
from memnotify.client._source import Source
from memnotify.client._thresholds import Value


class Latch(Source[bool]):
    """On once a figure reaches ``high``, off once it falls below ``low``: to pause work and to resume it.

    ``on`` is the state. Each event is the new state, True or False. If the figure is at or above
    ``high`` at the start, the latch is on and reports no event. Across a restart of the daemon the state
    stays, and what changed meanwhile is an event. Raises OSError as Memnotify does.
    """

    def __init__(
        self, high: Value = "80%", low: Value = "60%", *, name: str = "used", path: str | None = None
    ) -> None:
        """Open the device and watch its figure ``name``."""
        self._device = Memnotify(path)
        super().__init__()
        self._high, self._low = (name, high), (name, low)
        self.on = False
        """True while the figure has reached ``high`` and has not fallen below ``low`` since."""
        try:
            self._device.subscribe(**{name: [high, low]})
            thresholds = self._device.thresholds
            if not thresholds[self._low] <= thresholds[self._high]:
                raise ThresholdError(errno.EINVAL, f"low {low} is above high {high}")
        except KeyError:
            self.close()
            raise ThresholdError(errno.EINVAL, "high and low must be above 0") from None
        except BaseException:
            self.close()
            raise
        self._update()

    def fileno(self) -> int:
        """Return a descriptor to poll for POLLIN in an event loop; when it is ready, call ``wait(0)``."""
        return self._device.fileno()

    def wait(self, timeout: float | None = None) -> bool | None:
        """Return the new state once it has changed, or None if it has not within ``timeout`` seconds."""
        self._check_open()
        end_s = None if timeout is None else time.monotonic() + timeout
        while True:
            event = self._device.wait(None if end_s is None else max(0.0, end_s - time.monotonic()))
            if event is None:
                return None
            if self._update():
                return self.on

    def close(self) -> None:
        """Close the device, and end an ``async for``. May be called again."""
        super().close()
        self._device.close()

    def _update(self) -> bool:
        """Update ``on`` from the sides of the thresholds; return True if it has changed."""
        exceeded = self._device.exceeded
        on = exceeded[self._high] or (self.on and exceeded[self._low])
        self.on, changed = on, on != self.on
        return changed
