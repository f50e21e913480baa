# SPDX-License-Identifier: MIT
"""What watch shows: the figures of a while, the thresholds, and the events. No terminal."""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from memnotify.abi.thresholds import parse
from memnotify.cli.common import human
from memnotify.client import (
    Change,
    Figures,
    Memnotify,
    Pages,
)

HISTORY = 1000
"""So many samples are kept, more than a terminal has columns."""


@dataclass(frozen=True)
class Note:
    """Something that happened, and when, in seconds since the epoch."""

    when_s: float
    kind: str
    """up, down, lost or restored"""
    text: str


@dataclass(frozen=True)
class Line:
    """A threshold, in pages, and the name of the figure that has it."""

    name: str
    pages: Pages


class Watch:
    """What is to be seen; in the history there is None where nobody served the device."""

    def __init__(self, path: str, interval_s: float, figures: Figures) -> None:
        self.path = path
        self.interval_s = interval_s
        self.last = figures
        self.history: deque[Figures | None] = deque(maxlen=HISTORY)
        self.notes: deque[Note] = deque(maxlen=HISTORY)
        self.lines: list[Line] = []
        self._texts: list[str] = []

    @property
    def lost(self) -> bool:
        """Whether nobody serves the device."""
        return bool(self.history) and self.history[-1] is None

    def add(self, thresholds: str) -> None:
        """Watch more thresholds, as they were written to the device."""
        self._texts.append(thresholds)
        self._measure()

    def sample(self, reader: Memnotify, now_s: float) -> Sequence[Note]:
        """Take a sample; return what it shows to have happened."""
        was_lost = self.lost
        try:
            figures = reader.read()
        except OSError as error:
            self.history.append(None)
            # What to do about it is the last that it says.
            hint = str(error.strerror).rpartition("; ")[2]
            return [] if was_lost else self._note(now_s, "lost", hint)
        if figures.total != self.last.total:
            self.last = figures
            self._measure()
        self.last = figures
        self.history.append(figures)
        return self._note(now_s, "restored", "it is served again") if was_lost else []

    def add_changes(self, changes: Sequence[Change], figures: Figures, now_s: float) -> Sequence[Note]:
        """Take an event's changes; return them as what has happened."""
        return [
            note
            for change in changes
            for note in self._note(now_s, "up" if change.up else "down", crossing(change, figures))
        ]

    def _note(self, now_s: float, kind: str, text: str) -> Sequence[Note]:
        self.notes.append(Note(now_s, kind, text))
        return [self.notes[-1]]

    def _measure(self) -> None:
        """Find out the thresholds in pages, of what is the total now."""
        found = {
            Line(self.last.names[index], Pages(level.pages(self.last.total), self.last.total))
            for text in self._texts
            for index, level in parse(os.fsencode(text), self.last.names).items()
        }
        self.lines = sorted(found, key=lambda line: (line.name, line.pages))


def crossing(change: Change, figures: Figures) -> str:
    """Return what crossed, and where it is now."""
    threshold, now = Pages(change.threshold, figures.total), figures[change.name]
    relation = "reached" if change.up else "fell below"
    return f"{change.name} {relation} {amount(threshold)}: now {amount(now)}"


def amount(pages: Pages) -> str:
    """Return it in percent and in human units."""
    return f"{pages.percent:.1f} % ({human(pages.bytes)})"
