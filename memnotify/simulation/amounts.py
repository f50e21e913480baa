# SPDX-License-Identifier: MIT
"""Made-up figures as a user gives them. Pure."""

from typing import NamedTuple

from memnotify.abi.figures import NAMES, Figures
from memnotify.abi.thresholds import parse

MOVED = ("used", "active", "cgroup", "cgroup_limit")
"""The figures that a script moves."""


class SimulatedFigures(NamedTuple):
    """The three figures, and those of the one cgroup of all clients, in pages."""

    total: int
    used: int
    active: int
    cgroup: int
    cgroup_limit: int

    @property
    def figures(self) -> Figures:
        """The three figures of the machine."""
        return Figures(self.total, self.used, self.active)


class Amounts(NamedTuple):
    """The figures, as a user gives them: pages, or a string such as "40%" or "6G".

    A percentage is of total, that of ``cgroup`` of ``cgroup_limit``.
    """

    total: int | str = "16G"
    used: int | str = "50%"
    active: int | str = "10%"
    cgroup: int | str = "50%"
    cgroup_limit: int | str = "100%"

    def figures(self) -> SimulatedFigures:
        """Return them in pages. Raises ValueError if one is not understood, or above total."""
        total = pages_of("total", self.total, 0)
        if not total or str(self.total).endswith("%"):
            raise ValueError(f"total is {self.total}: it must be a size above 0, such as '16G'")
        limit = pages_of("cgroup_limit", self.cgroup_limit, total)
        if not limit:
            raise ValueError(f"cgroup_limit is {self.cgroup_limit}: it must be above 0")
        others = {name: pages_of(name, getattr(self, name), total) for name in ("used", "active")}
        others |= {"cgroup": pages_of("cgroup", self.cgroup, limit), "cgroup_limit": limit}
        for name, pages in others.items():
            if pages > total:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be above total, {self.total}")
        return SimulatedFigures(total, **others)


def pages_of(name: str, amount: int | str, whole_pages: int) -> int:
    """Return an amount of a figure in pages; a percentage is of ``whole_pages``.

    Raises ValueError if it is not understood.
    """
    levels = parse(f"{name} {amount}".encode(), (*NAMES, *MOVED))
    return next((level.pages(whole_pages) for level in levels.values()), 0)
