# SPDX-License-Identifier: MIT
"""The warning levels of GMemoryMonitor, and when each is sent. Pure."""

import math
from collections.abc import Iterable

from memnotify.client import Change

LEVELS = {"low": 50, "medium": 100, "critical": 255}
"""GMemoryMonitorWarningLevel."""


class WarningLimiter:
    """Decides which level to send, and when. Pure: the time is passed in, in seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._reached: dict[int, set[str]] = {}
        self._due: set[int] = set()
        self._sent = 0
        self._not_before_s = -math.inf

    def note(self, level: int, changes: Iterable[Change]) -> None:
        """Note the changes of a level's thresholds: the level becomes due, or is no longer due."""
        names = self._reached.setdefault(level, set())
        for change in changes:
            if change.up:
                names.add(change.name)
                self._due.add(level)
            else:
                names.discard(change.name)
                if not names:
                    self._due.discard(level)

    def hold(self, now_s: float, pause_s: float) -> None:
        """Count the levels that are due as sent now: those that still hold are sent after ``pause_s``."""
        self._sent = max(self._due, default=0)
        self._not_before_s = now_s + pause_s

    def wait_s(self, now_s: float) -> float | None:
        """Return the time until a level may be sent; None if that takes another change."""
        if not self._due:
            return None
        return 0.0 if max(self._due) > self._sent else max(0.0, self._not_before_s - now_s)

    def take(self, now_s: float) -> int | None:
        """Return the level to send now, which then counts as sent; None if there is none."""
        if now_s >= self._not_before_s:
            self._sent = 0
        if self.wait_s(now_s) != 0:
            return None
        self._sent = max(self._due)
        self._due.clear()
        self._not_before_s = now_s + self._interval_s
        return self._sent
