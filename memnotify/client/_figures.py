# SPDX-License-Identifier: MIT
"""The figures as a client sees them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from memnotify.abi.figures import CGROUP, CGROUP_LIMIT, NAMES, PAGE_SIZE

__all__ = ["PAGE_SIZE", "Figures", "Pages"]


class Pages(int):
    """A number of pages, with its value in bytes and in percent of total."""

    total: int
    """RAM and swap, in pages, which ``percent`` refers to; of a cgroup's figures, its limit."""

    def __new__(cls, pages: int, total: int = 0) -> Self:
        """Return ``pages`` of ``total``."""
        made = super().__new__(cls, pages)
        made.total = total
        return made

    @property
    def bytes(self) -> int:
        """The value in bytes."""
        return self * PAGE_SIZE

    @property
    def percent(self) -> float:
        """The value in percent of total; 0 if total is 0."""
        return 100 * self / self.total if self.total else 0.0


@dataclass(frozen=True, repr=False)
class Figures:
    """The system's memory at one moment: ``figures.used``, ``figures.used.percent``, ``figures["used"]``.

    A device may be configured to have more figures than the three that are properties here: they are
    attributes too.
    """

    values: tuple[tuple[str, int], ...]
    """Names and pages, in the order of the device's line. total, used and active are always there."""

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Return the figures of a device's line. Raises ValueError if the bytes are not such a line."""
        words = line.decode("ascii", errors="replace").split()
        try:
            values = {name: int(pages) for name, pages in zip(words[::2], words[1::2], strict=True)}
        except ValueError:
            values = {}
        if not values.keys() >= set(NAMES):
            raise ValueError(f"this is no line of a memnotify device: {line[:100]!r}")
        return cls(tuple(values.items()))

    @property
    def total(self) -> Pages:
        """RAM and swap."""
        return self["total"]

    @property
    def used(self) -> Pages:
        """The memory in use that the kernel cannot reclaim."""
        return self["used"]

    @property
    def active(self) -> Pages:
        """The memory that was used recently. It changes later than ``used``."""
        return self["active"]

    @property
    def cgroup(self) -> Pages | None:
        """What this process's cgroup holds and the kernel cannot reclaim; None without such a threshold."""
        return self[CGROUP] if CGROUP in self.names else None

    @property
    def cgroup_limit(self) -> Pages | None:
        """The limit of that cgroup; None without such a threshold."""
        return self[CGROUP_LIMIT] if CGROUP_LIMIT in self.names else None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the line."""
        return tuple(name for name, _ in self.values)

    def __iter__(self) -> Iterator[tuple[str, Pages]]:
        """Iterate over the pairs of name and value, in the order of the line."""
        return ((name, self[name]) for name in self.names)

    def __getattr__(self, name: str) -> Pages:
        """Return an extra figure. Raises AttributeError if the device does not have it."""
        if name.startswith("__") or name == "values" or name not in self.names:
            raise AttributeError(f"this device has no figure {name!r}", name=name, obj=self)
        return self[name]

    def __getitem__(self, name: str) -> Pages:
        """Return the figure of that name. Raises KeyError if the device does not have it."""
        values = dict(self.values)
        return Pages(values[name], values[CGROUP_LIMIT if name in (CGROUP, CGROUP_LIMIT) else "total"])

    def __repr__(self) -> str:
        """Return a text in which each figure is a field."""
        return f"Figures({', '.join(f'{name}={pages}' for name, pages in self.values)})"

    def __str__(self) -> str:
        """Return the line without its newline: ``total N used N active N``."""
        return " ".join(f"{name} {pages}" for name, pages in self.values)
