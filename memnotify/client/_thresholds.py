# SPDX-License-Identifier: MIT
"""What a client writes, in pages: as the device understands it, so that the client knows the sides."""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass

from memnotify.client._errors import ThresholdError
from memnotify.client._figures import PAGE_SIZE, Figures

_TEXT_MAX = 4096
_VALUE_MAX = 2**63 - 1
# Bytes, as a pattern on text would take every blank of Unicode for one.
_PAIR = re.compile(rb"\s*([^\s=]+)(?:\s*=\s*|\s+)([0-9]+)((?:\.[0-9]+)?)([%KMGT]?)(?!\S)")


def parse(text: bytes, figures: Figures) -> dict[str, int]:
    """Return the thresholds of a write in pages, by name; what is not watched is not there.

    Figures give the names there are, and the total that a percentage is of. Raises ThresholdError
    for what the device would refuse.
    """
    if len(text) > _TEXT_MAX:
        raise _refused(text, f"it has {len(text)} bytes, at most {_TEXT_MAX} are read")
    body = text.rstrip(b"\0").strip()
    thresholds: dict[str, int] = {}
    position = 0
    while position < len(body):
        pair = _PAIR.match(body, position)
        if pair is None:
            raise _refused(
                body[position:],
                "write pairs of a name and a value (5000 pages, 80%, 1.5G), such as 'used 80%'",
            )
        name = pair[1].decode("ascii", errors="replace")
        if name not in figures.names:
            names = ", ".join(figures.names)
            raise _refused(pair[1], f"the names are {names} (others by 'memnotify serve --figures')")
        pages = _pages(pair[2], pair[3], pair[4], figures.total)
        if pages is None or pages > _VALUE_MAX:
            raise _refused(pair[0], f"a value is a number of pages up to {_VALUE_MAX}, or has a unit")
        if thresholds.setdefault(name, pages) != pages:
            raise _refused(pair[0], f"{name} has another threshold already")
        position = pair.end()
    return {name: pages for name, pages in thresholds.items() if pages}


def spell(thresholds: str, named: Mapping[str, str | int]) -> bytes:
    """Return the bytes to be written for a text and for thresholds by name.

    Raises ThresholdError if they cannot be bytes at all.
    """
    text = " ".join(filter(None, (thresholds, *(f"{name} {value}" for name, value in named.items()))))
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise _refused(ascii(text).encode(), "it is no text") from None


@dataclass(frozen=True)
class Change:
    """A threshold that changed side between two figures."""

    name: str
    """The figure that has the threshold."""
    threshold: int
    """In pages."""
    up: bool
    """True if the figure is at or above the threshold now, False if below it."""


@dataclass(frozen=True)
class Snapshot:
    """Figures, the thresholds in pages that hold then, and so the side of each."""

    figures: Figures
    thresholds: Mapping[str, int]

    def above(self, name: str) -> bool:
        """Whether the figure is at or above its threshold."""
        return self.figures[name] >= self.thresholds[name]

    def changes_to(self, after: "Snapshot") -> tuple[Change, ...]:
        """Return which of the thresholds that both moments have are on another side in ``after``."""
        return tuple(
            Change(name, pages, after.above(name))
            for name, pages in after.thresholds.items()
            if name in self.thresholds and self.above(name) != after.above(name)
        )


def _pages(whole: bytes, decimals: bytes, unit: bytes, total: int) -> int | None:
    """Return a value in pages, rounded to the nearest, half a page up; None if it is none."""
    if int(whole) > _VALUE_MAX:
        return None
    if not unit:
        return None if decimals else int(whole)
    # In integers: a value may have more digits than a float holds.
    pages: int
    of: int
    pages, of = (total, 100) if unit == b"%" else (1024 ** (b"KMGT".index(unit) + 1), PAGE_SIZE)
    pages *= int(whole + decimals[1:])
    of *= 10 ** len(decimals[1:])
    return (2 * pages + of) // (2 * of)


def _refused(text: bytes, hint: str) -> ThresholdError:
    shown = repr(text[:60])[1:] + ("..." if len(text) > 60 else "")
    return ThresholdError(errno.EINVAL, f"{shown} is not understood: {hint}")
