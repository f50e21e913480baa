# SPDX-License-Identifier: MIT
"""The figures as a client sees them."""

import os
from dataclasses import dataclass
from typing import Self

PAGE_SIZE = os.sysconf("SC_PAGESIZE")
"""Bytes in a page, the unit of the figures."""


class Pages(int):
    """A number of pages, an int, that knows what it is in bytes and in percent of total."""

    total: int
    """What it is a part of, in pages."""

    def __new__(cls, pages: int, total: int = 0) -> Self:
        """Return ``pages`` of ``total``."""
        made = super().__new__(cls, pages)
        made.total = total
        return made

    @property
    def bytes(self) -> int:
        """The same in bytes."""
        return self * PAGE_SIZE

    @property
    def percent(self) -> float:
        """The same in percent of total; 0 of nothing."""
        return 100 * self / self.total if self.total else 0.0


@dataclass(frozen=True, repr=False)
class Figures:
    """The system's memory at one moment: ``figures.used``, ``figures.used.percent``, ``figures["used"]``.

    A device may be configured to say more than the three that have a name here.
    """

    values: tuple[tuple[str, int], ...]
    """Names and pages, in the order of the device's line; total, used and active are among them."""

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read a line of the device. Raises ValueError if it is none."""
        words = line.decode("ascii", errors="replace").split()
        try:
            values = {name: int(pages) for name, pages in zip(words[::2], words[1::2], strict=True)}
        except ValueError:
            values = {}
        if not {"total", "used", "active"} <= values.keys():
            raise ValueError(f"this is no line of a memnotify device: {line[:100]!r}")
        return cls(tuple(values.items()))

    @property
    def total(self) -> Pages:
        """RAM and swap."""
        return self["total"]

    @property
    def used(self) -> Pages:
        """What programs hold and the kernel cannot just drop."""
        return self["used"]

    @property
    def active(self) -> Pages:
        """What was used recently; it follows use slowly."""
        return self["active"]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the line."""
        return tuple(name for name, _ in self.values)

    def __getitem__(self, name: str) -> Pages:
        """Return the figure of that name. Raises KeyError if the device does not say it."""
        values = dict(self.values)
        return Pages(values[name], values["total"])

    def __repr__(self) -> str:
        """Return how it looks, as if each figure were a field."""
        return f"Figures({', '.join(f'{name}={pages}' for name, pages in self.values)})"

    def __str__(self) -> str:
        """Return the line, without its end: ``total N used N active N``."""
        return " ".join(f"{name} {pages}" for name, pages in self.values)
