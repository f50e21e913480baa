# SPDX-License-Identifier: MIT
"""The contract as plainly as it can be written: what observers and a write mean, without speed or threads.

From the manual's words alone, so that code and model can only agree if both say what it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from memnotify.abi.figures import NAMES, PAGE_SIZE, Figures

Wanted = tuple[Fraction, bool]
"""A level as it was written: pages, or a part of total, and whether it is of total."""
Group = tuple[int, int]
"""What a cgroup holds, and its limit."""
Values = Mapping[int, Group]
"""A figure, and what a percentage of it is of, by the figure's place; the cgroup's is after the line's."""


def values_of(figures: Figures, group: Group | None = None) -> Values:
    """Return the machine's figures and those of a cgroup."""
    values = {i: (value, figures.total) for i, value in enumerate(figures)}
    return values if group is None else values | {len(figures): group}


@dataclass
class ModelThreshold:
    """A threshold, on which side of it the figure was, its last event, and the one level that fires next."""

    wanted: Wanted
    pages: int
    above: bool
    level: int
    event: int | None = None
    """The figure at its last event, or that which a read told instead of one."""

    def arm(self, granularity: int) -> None:
        """Set the level, damped by the last event.

        That event may be on the wrong side of a percentage that has moved with total: then nothing is damped.
        """
        damping = min(granularity, self.pages // 8)
        if self.event is None or (self.event >= self.pages) != self.above:
            self.level = self.pages
        elif self.above:
            self.level = min(self.pages, self.event + 1 - damping)
        else:
            self.level = max(self.pages, self.event + damping)

    def follow(self, total: int, granularity: int) -> None:
        """Move with total if it is a percentage."""
        pages = wanted_pages(self.wanted, total)
        if pages != self.pages:
            self.pages = pages
            self.arm(granularity)

    def tell(self, value: int, granularity: int) -> None:
        """Arm for the way back if a read returns the other side without an event."""
        if self.level <= value < self.pages if self.above else self.pages <= value < self.level:
            self.turn(value, granularity)

    def distance(self, value: int) -> int:
        """Return by how many pages the value must move for the next event; less than 1 if it is due."""
        return value + 1 - self.level if self.above else self.level - value

    def crossed(self, value: int, granularity: int) -> bool:
        """Whether the figure's new value is an event; if it is, the next one is damped."""
        if (value >= self.level) if not self.above else (value < self.level):
            self.turn(value, granularity)
            return True
        return False

    def turn(self, value: int, granularity: int) -> None:
        """Arm for the other direction."""
        self.above = not self.above
        self.event = value
        self.arm(granularity)


@dataclass
class ModelObserver:
    """An open file."""

    pending: bool = False
    handle: int = 0
    thresholds: dict[int, ModelThreshold] = field(default_factory=dict)
    cgroup: int = -1
    """The place of the cgroup's figure, after the line's; none by default."""

    def write(self, levels: dict[int, Wanted], figures: Figures, group: Group | None = None) -> None:
        """Replace the thresholds, and acknowledge."""
        values = values_of(figures, group)
        pages = {i: wanted_pages(level, values[i][1]) for i, level in levels.items()}
        self.thresholds = {
            i: ModelThreshold(levels[i], at, values[i][0] >= at, at) for i, at in pages.items() if at
        }
        self.pending = False

    def read(self, figures: Figures, granularity: int, group: Group | None = None) -> None:
        """Return the figures and acknowledge; a read binds thresholds."""
        self.pending = False
        values = values_of(figures, group)
        for i, threshold in self.thresholds.items():
            threshold.tell(values[i][0], granularity)

    def poll(self, handle: int) -> tuple[bool, bool]:
        """Return whether an event is pending and whether the handle is kept."""
        kept = not self.handle and handle != 0
        self.handle = self.handle or handle
        return self.pending, kept

    def follow(self, total: int, granularity: int) -> None:
        """Move the percentages of the machine's figures with total."""
        for i, threshold in self.thresholds.items():
            if i != self.cgroup:
                threshold.follow(total, granularity)

    def see(self, figures: Figures, granularity: int) -> int:
        """Take new figures; return the handle to notify, or 0."""
        return self._see(values_of(figures), granularity)

    def see_group(self, group: Group, granularity: int) -> int:
        """Take new figures of the cgroup on which there is a threshold; return the same."""
        return self._see({self.cgroup: group}, granularity)

    def _see(self, values: Values, granularity: int) -> int:
        seen = {i: threshold for i, threshold in self.thresholds.items() if i in values}
        for i, threshold in seen.items():
            threshold.follow(values[i][1], granularity)
        crossed = [t for i, t in seen.items() if t.crossed(values[i][0], granularity)]
        if not crossed or self.pending:
            return 0
        self.pending, handle, self.handle = True, self.handle, 0
        return handle


def granularity_of(total: int) -> int:
    """Return the default granularity in pages."""
    return total // 128 or 512 * 1024 // PAGE_SIZE


def understood(text: bytes, names: Sequence[str] = NAMES) -> dict[int, Wanted] | None:
    """Return a write's levels by the figure's place in the line; None if it is refused."""
    if len(text) > 4096:
        return None
    words = text.rstrip(b"\0").replace(b"=", b" = ").split()
    wanted: dict[int, Wanted] = {}
    pairs = 0
    while words:
        name, *words = words
        if words and words[0] == b"=":
            words = words[1:]
        if not words or name.decode("latin-1") not in names:
            return None
        level = _level(words.pop(0).decode("latin-1"))
        index = names.index(name.decode("latin-1"))
        pairs += 1
        if level is None or wanted.setdefault(index, level) != level or pairs > 64:
            return None
    return {index: level for index, level in wanted.items() if level[0]}


def understood_pages(text: bytes, total: int, names: Sequence[str] = NAMES) -> dict[int, int] | None:
    """Return a write's levels in pages at this total; None if it is refused."""
    wanted = understood(text, names)
    if wanted is None:
        return None
    return {index: wanted_pages(level, total) for index, level in wanted.items()}


def wanted_pages(level: Wanted, total: int) -> int:
    """Return the pages of a level at this total."""
    value, of_total = level
    return level_pages(value * total if of_total else value)


def level_pages(value: Fraction) -> int:
    """Return the pages of a level: the nearest, but at least 1 for a level above 0, and at most 2^63 - 1."""
    return min(max(nearest(value), 1), 2**63 - 1)


def _level(word: str) -> Wanted | None:
    """Return a value in pages, or as a part of total, and whether it is of total."""
    units = {unit: Fraction(1024**power, PAGE_SIZE) for power, unit in enumerate("KMGT", start=1)}
    units["%"] = Fraction(1, 100)
    number, unit = (word[:-1], units[word[-1]]) if word[-1] in units else (word, None)
    whole, point, decimals = number.partition(".")
    digits = [whole, decimals] if point and unit is not None else [number]
    if not all(part.isascii() and part.isdigit() for part in digits):
        return None
    of_total = word.endswith("%")
    value = Fraction(number) * (1 if unit is None else unit)
    if int(whole) >= 2**63 or (not of_total and nearest(value) >= 2**63):
        return None
    return value, of_total and value > 0


def nearest(value: Fraction) -> int:
    """Return the nearest whole number; the half goes up."""
    return (value + Fraction(1, 2)).__floor__()
