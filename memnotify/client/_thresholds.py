# SPDX-License-Identifier: MIT
"""What a client writes, understood as by the device, so that the client knows each threshold's side."""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memnotify.abi import thresholds as abi
from memnotify.abi.figures import CGROUP, threshold_names
from memnotify.client._errors import ThresholdError
from memnotify.client._figures import PAGE_SIZE, Figures, Pages

Levels = Mapping[str, abi.Level]
"""Levels by the name of the figure. A figure that is not watched is left out."""
Value = str | int
"""A threshold as it is given: a number of bytes, ``Pages``, or a text such as 80% or 1.5G."""

_PAIR = re.compile(r"([^\s=]+)(?:\s*=\s*|\s+)([^\s=]+)")
_ADVICE = {
    r"[<>]": "leave the sign out, as in 'used 80%': both directions are reported",
    r"\d *[kKMGT]i?[bB]\b": "write K, M, G or T, which are powers of 1024, as in 'used 8G'",
    r"\d[kmgt]\b": "write a capital K, M, G or T, as in 'used 8G'",
    r"\d\s+[%KMGT](?![\w%])": "leave out the blank before the unit, as in 'used 80%' or 'used 8G'",
    r"\d,\d": "write a point, as in 'used 1.5G'",
}
"""What people write instead, and the answer."""
_MAY_EXCEED_TOTAL = {CGROUP, "total"}
"""Thresholds that may have a size above total: a cgroup's limit may become lower, and total may grow."""


def parse(text: bytes, names: Sequence[str]) -> Levels:
    """Return the levels of a write, by the names that the device has, and ``cgroup``.

    Raises ThresholdError for what the device would refuse.
    """
    names = threshold_names(names)
    try:
        levels = abi.parse(text, names)
    except ValueError as error:
        reason = str(error)
        written = text.decode(errors="replace")
        for pattern, advice in _ADVICE.items():
            if re.search(pattern, written):
                reason = f"{written[:60]!a} is not understood: {advice}"
                break
        raise ThresholdError(errno.EINVAL, reason) from None
    return {names[index]: level for index, level in levels.items()}


@dataclass(frozen=True)
class Writing:
    """What is written to one open file, and its thresholds by name, as they were given."""

    text: bytes
    given: Mapping[str, Value]


def spell(thresholds: str, named: Mapping[str, Value | Sequence[Value]]) -> list[Writing]:
    """Return what is to be written, for thresholds as a text and by name; at least one text.

    An open file has one threshold for each name, so a list of values becomes as many texts. Raises
    ThresholdError if they cannot be bytes at all.
    """
    for name, value in named.items():
        if isinstance(value, float):
            hint = f"write a percentage as a str, {name}='{100 * value:g}%', or bytes as an int"
            raise ThresholdError(errno.EINVAL, f"{name}={value} is not understood: {hint}")
    lists = {name: [given] if isinstance(given, str | int) else list(given) for name, given in named.items()}
    writings = []
    for number in range(max([1, *map(len, lists.values())])):
        given = {name: values[number] for name, values in lists.items() if number < len(values)}
        pairs = [f"{name} {_spell_value(value)}" for name, value in given.items()]
        text = " ".join(filter(None, ("" if number else thresholds, *pairs)))
        if not number:
            given = dict(_PAIR.findall(thresholds)) | given
        try:
            writings.append(Writing(text.encode(errors="surrogateescape"), given))
        except UnicodeEncodeError:
            reason = f"{text[:60]!a} is not understood: it is not text"
            raise ThresholdError(errno.EINVAL, reason) from None
    return writings


def _is_bare(value: Value) -> bool:
    return value.isdecimal() if isinstance(value, str) else not isinstance(value, Pages)


def _spell_value(value: Value) -> str:
    """Return a value as the device takes it: a number is one of pages there."""
    if isinstance(value, str) or value <= 0:
        return str(value)
    return str(int(value) if isinstance(value, Pages) else max(1, (value + PAGE_SIZE // 2) // PAGE_SIZE))


def check_reachable(levels: Levels, figures: Figures) -> None:
    """Raise ThresholdError for a threshold that can never be crossed."""
    for name, level in levels.items():
        if level.of_total and name == "total":
            raise ThresholdError(
                errno.EINVAL, "total is always 100 % of total: write a size, as in 'total 8G'"
            )
        if level.of_total and level.numerator > level.denominator:
            percent = f"{100 * level.numerator / level.denominator:g} %"
            whole = "the cgroup's limit" if name == CGROUP else "total"
            raise ThresholdError(errno.EINVAL, f"{name} never reaches {percent} of {whole}")
        pages, total = level.pages(figures.total), figures.total
        if pages > total > 0 and name not in _MAY_EXCEED_TOTAL:
            size, whole = describe_size(pages, figures), describe_size(total, figures)
            raise ThresholdError(errno.EINVAL, f"{name} never reaches {size}: total is {whole}")


def doubts(levels: Levels, given: Mapping[str, Value], figures: Figures) -> list[str]:
    """Return a sentence for each bare number that is so small that a percentage may have been meant."""
    return [
        f"{name} {describe_size(level.pages(figures.total), figures)} is less than 1 % of total:"
        f" write a unit, as in '{name} 80%' or '{name} 8G'"
        for name, level in levels.items()
        if _is_bare(given[name]) and level.pages(figures.total) < figures.total / 100
    ]


def describe_size(pages: int, figures: Figures) -> str:
    """Return a number of pages for a reader: ``80.0 % (6.4 GiB)``."""
    size, units = float(pages * PAGE_SIZE), ["TiB", "GiB", "MiB", "KiB", "B"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop()
    return f"{Pages(pages, figures.total).percent:.1f} % ({size:.1f} {units[-1]})"


@dataclass(frozen=True)
class Change:
    """A threshold that changed side between two figures."""

    name: str
    """The figure that has the threshold."""
    threshold: Pages
    """At the total, or the cgroup's limit, of the later figures."""
    up: bool
    """True if the figure is at or above the threshold now, False if below it."""

    @property
    def pages(self) -> int:
        """The threshold in pages."""
        return int(self.threshold)

    @property
    def bytes(self) -> int:
        """The threshold in bytes."""
        return self.threshold.bytes

    @property
    def percent(self) -> float:
        """The threshold in percent of total."""
        return self.threshold.percent


@dataclass(frozen=True)
class Snapshot:
    """Figures, the levels watched at that moment, and so the side of each."""

    figures: Figures
    levels: Levels

    def above(self, name: str) -> bool:
        """Return True if the figure is at or above its threshold, at the total of these figures."""
        return self.figures[name] >= self.threshold(name)

    def threshold(self, name: str) -> Pages:
        """Return a threshold at the total of these figures."""
        total = self.figures[name].total
        return Pages(self.levels[name].pages(total), total)

    def changes_to(self, after: "Snapshot") -> tuple[Change, ...]:
        """Return the thresholds of both snapshots that are on another side in ``after``."""
        return tuple(
            Change(name, after.threshold(name), after.above(name))
            for name in after.levels
            if name in self.levels and self.above(name) != after.above(name)
        )
