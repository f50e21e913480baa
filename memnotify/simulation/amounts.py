# SPDX-License-Identifier: MIT
"""Made-up figures as a user gives them. Pure."""

from typing import NamedTuple

from memnotify.abi.figures import NAMES, Figures
from memnotify.abi.thresholds import parse


class Amounts(NamedTuple):
    """The three figures, as a user gives them: pages, or a string such as "40%" or "6G"."""

    total: int | str = "16G"
    used: int | str = "50%"
    active: int | str = "10%"

    def figures(self) -> Figures:
        """Return them in pages. Raises ValueError if one is not understood, or above total."""
        total = pages_of("total", self.total, 0)
        if not total or str(self.total).endswith("%"):
            raise ValueError(f"total is {self.total}: it must be a size above 0, such as '16G'")
        others = {name: pages_of(name, getattr(self, name), total) for name in ("used", "active")}
        for name, pages in others.items():
            if pages > total:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be above total, {self.total}")
        return Figures(total, **others)


def pages_of(name: str, amount: int | str, total_pages: int) -> int:
    """Return an amount of a figure in pages. Raises ValueError if it is not understood."""
    levels = parse(f"{name} {amount}".encode(), NAMES)
    return next((level.pages(total_pages) for level in levels.values()), 0)
