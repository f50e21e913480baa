# SPDX-License-Identifier: MIT
"""The data that watch shows: recent figures, thresholds and events. No terminal."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from memnotify.abi.figures import threshold_names
from memnotify.abi.thresholds import parse
from memnotify.cli.common import human, loss
from memnotify.client import (
    Change,
    Figures,
    Memnotify,
    Pages,
)

HISTORY = 12_000
"""The number of samples that are kept: 200 columns of 60."""
ZOOMS = (1, 2, 5, 10, 30, 60)
"""How many samples a column of a plot may have."""


@dataclass(frozen=True)
class Note:
    """An event, and its time in seconds since the epoch."""

    when_s: float
    kind: str
    """up, down, lost or restored."""
    text: str


@dataclass(frozen=True)
class Line:
    """A threshold, in pages, and the name of the figure that has it."""

    name: str
    pages: Pages


class Watch:
    """The data to show. The history has None for the times when no daemon served the device."""

    def __init__(self, path: str, interval_s: float, figures: Figures) -> None:
        self.path = path
        self.interval_s = interval_s
        self.last = figures
        self.history: deque[Figures | None] = deque(maxlen=HISTORY)
        self.notes: deque[Note] = deque(maxlen=1000)
        self.lines: list[Line] = []
        self.samples = 0
        """How many samples were taken, so that a column has the same ones in each picture."""
        self._texts: list[str] = []
        self.record: Callable[[Figures], object] | None = None
        """Called with each sample."""

    @property
    def lost(self) -> bool:
        """True if no daemon serves the device."""
        return bool(self.history) and self.history[-1] is None

    def add(self, thresholds: str) -> None:
        """Watch more thresholds, given as written to the device."""
        self._texts.append(thresholds)
        self._measure()

    def sample(self, reader: Memnotify, now_s: float) -> Sequence[Note]:
        """Read the figures; return the events that this shows: the device is lost, or served again."""
        was_lost = self.lost
        self.samples += 1
        try:
            figures = reader.read()
        except OSError as error:
            self.history.append(None)
            return [] if was_lost else self._note(now_s, "lost", loss(error))
        before, self.last = self.last, figures
        if (figures.names, figures.total, figures.cgroup_limit) != (
            before.names,
            before.total,
            before.cgroup_limit,
        ):
            self._measure()
        self.history.append(figures)
        if self.record is not None:
            self.record(figures)
        return self._note(now_s, "restored", "the device is served again") if was_lost else []

    def add_changes(self, changes: Sequence[Change], figures: Figures, now_s: float) -> Sequence[Note]:
        """Add the changes of an event; return them as notes."""
        return [
            note
            for change in changes
            for note in self._note(now_s, "up" if change.up else "down", crossing(change, figures))
        ]

    def columns(self, name: str, count: int, zoom: int) -> list[Pages | None]:
        """Return the highest value of a figure in each of the last columns of ``zoom`` samples.

        None is for a column in which no daemon served the device.
        """
        # The newest column may be incomplete.
        newest = (self.samples - 1) % zoom + 1
        first = max(0, len(self.history) - newest - (count - 1) * zoom)
        shown = [
            figures[name] if figures and name in figures.names else None
            for figures in islice(self.history, first, None)
        ]
        if zoom == 1:
            return shown
        # The oldest column may be incomplete too.
        start = (len(shown) - newest) % zoom
        pieces = [shown[:start]] if start else []
        pieces += [shown[place : place + zoom] for place in range(start, len(shown), zoom)]
        return [max((pages for pages in piece if pages is not None), default=None) for piece in pieces]

    def _note(self, now_s: float, kind: str, text: str) -> Sequence[Note]:
        self.notes.append(Note(now_s, kind, text))
        return [self.notes[-1]]

    def _measure(self) -> None:
        """Compute the thresholds in pages, at the current total."""
        names = threshold_names(self.last.names)
        found = {
            Line(names[index], Pages(level.pages(whole), whole))
            for text in self._texts
            for index, level in parse(os.fsencode(text), names).items()
            if names[index] in self.last.names  # the cgroup's figures come with the next line
            for whole in (self.last[names[index]].total,)
        }
        self.lines = sorted(found, key=lambda line: (line.name, line.pages))


def crossing(change: Change, figures: Figures) -> str:
    """Return the text for a crossing: the threshold and the figure now."""
    now = figures[change.name]
    threshold = Pages(change.threshold, now.total)
    relation = "reached" if change.up else "fell below"
    return f"{change.name} {relation} {amount(threshold)}: now {amount(now)}"


def amount(pages: Pages) -> str:
    """Return the pages in percent and in human units."""
    return f"{pages.percent:.1f} % ({human(pages.bytes)})"
