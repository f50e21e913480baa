# SPDX-License-Identifier: MIT
"""The crossings that count for ``wait`` and ``run``, and when each does. Pure: the time is passed in."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from memnotify.client import Change, Figures


class Cause(NamedTuple):
    """A change of side, the figures that showed it, and the time from which it counts."""

    change: Change
    figures: Figures
    counts_s: float


class Causes:
    """The changes that count, the oldest first.

    A change counts once its figure has stayed on the new side for ``for_s`` seconds. For ``quiet_for_s``
    seconds after one was taken, further ones are dropped. Latched, causes alternate between up and down.
    """

    def __init__(self, *, latched: bool = False, for_s: float = 0.0, quiet_for_s: float = 0.0) -> None:
        self._due: dict[tuple[int, str], Cause] = {}
        self._latched, self._for_s, self._quiet_for_s = latched, for_s, quiet_for_s
        self._quiet_until_s = -math.inf
        self._on = False

    def note(
        self, changes: Iterable[Change], figures: Figures, now_s: float, *, up: bool | None, source: int = 0
    ) -> None:
        """Add the changes in a direction, in both if it is None, and drop those whose figure has gone back.

        ``source`` tells apart devices with thresholds of one name.
        """
        for change in changes:
            key = (source, change.name)
            if up is not None and change.up != up:
                # A latch ignores the way back, unless its figure had to stay for longer.
                if not self._latched:
                    self._due.pop(key, None)
                elif key in self._due and now_s < self._due[key].counts_s:
                    self._due.pop(key)
                    self._on = not up
                continue
            if self._latched:
                assert up is not None  # noqa: S101 - for mypy: a latch has two directions
                if up == self._on:
                    continue
                self._on = up
                if self._due:
                    # The change in the other direction was not taken, so neither is needed.
                    self._due.clear()
                    continue
            if now_s >= self._quiet_until_s:
                self._due[key] = Cause(change, figures, now_s + self._for_s)

    def wait_s(self, now_s: float) -> float | None:
        """Return the time until a change counts; None if that takes another crossing."""
        if not self._due:
            return None
        return max(0.0, min(cause.counts_s for cause in self._due.values()) - now_s)

    def take(self, now_s: float) -> Cause | None:
        """Return the oldest change that counts by now, and forget it; None if there is none."""
        for key, cause in self._due.items():
            if cause.counts_s <= now_s:
                self._quiet_until_s = now_s + self._quiet_for_s
                return self._due.pop(key)
        return None

    def take_all(self, now_s: float) -> tuple[Change, ...]:
        """Return all changes that count by now, and forget them."""
        taken = []
        while cause := self.take(now_s):
            taken.append(cause.change)
        return tuple(taken)
