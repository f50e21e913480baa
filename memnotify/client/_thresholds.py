# SPDX-License-Identifier: MIT
"""What a client writes, understood as by the device, so that the client knows each threshold's side."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memnotify.abi import thresholds as abi
from memnotify.client._errors import ThresholdError
from memnotify.client._figures import Figures

Levels = Mapping[str, abi.Level]
"""Levels by the name of the figure. A figure that is not watched is left out."""


def parse(text: bytes, names: Sequence[str]) -> Levels:
    """Return the levels of a write, by the names that the device has.

    Raises ThresholdError for what the device would refuse.
    """
    try:
        levels = abi.parse(text, names)
    except ValueError as error:
        raise ThresholdError(errno.EINVAL, str(error)) from None
    return {names[index]: level for index, level in levels.items()}


def spell(thresholds: str, named: Mapping[str, str | int]) -> bytes:
    """Return the bytes to be written for a text and for thresholds by name.

    Raises ThresholdError if they cannot be bytes at all.
    """
    text = " ".join(filter(None, (thresholds, *(f"{name} {value}" for name, value in named.items()))))
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        reason = f"{text[:60]!a} is not understood: it is not text"
        raise ThresholdError(errno.EINVAL, reason) from None


@dataclass(frozen=True)
class Change:
    """A threshold that changed side between two figures."""

    name: str
    """The figure that has the threshold."""
    threshold: int
    """In pages, at the total of the later figures."""
    up: bool
    """True if the figure is at or above the threshold now, False if below it."""


@dataclass(frozen=True)
class Snapshot:
    """Figures, the levels watched at that moment, and so the side of each."""

    figures: Figures
    levels: Levels

    def above(self, name: str) -> bool:
        """Return True if the figure is at or above its threshold, at the total of these figures."""
        return self.figures[name] >= self.threshold(name)

    def threshold(self, name: str) -> int:
        """Return a threshold in pages, at the total of these figures."""
        return self.levels[name].pages(self.figures.total)

    def changes_to(self, after: "Snapshot") -> tuple[Change, ...]:
        """Return the thresholds of both snapshots that are on another side in ``after``."""
        return tuple(
            Change(name, after.threshold(name), after.above(name))
            for name in after.levels
            if name in self.levels and self.above(name) != after.above(name)
        )
