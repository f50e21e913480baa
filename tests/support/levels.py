# SPDX-License-Identifier: MIT
"""Thresholds in pages as the levels that a table takes, and back."""

from collections.abc import Mapping

from memnotify.abi.thresholds import Level


def levels(thresholds: Mapping[int, int]) -> dict[int, Level]:
    """Return the levels of thresholds in pages, by the figure's index."""
    return {index: Level(pages, 1, of_total=False) for index, pages in thresholds.items()}


def in_pages(levels: Mapping[int, Level], total_pages: int) -> dict[int, int]:
    """Return the thresholds in pages that the levels are at this total."""
    return {index: level.pages(total_pages) for index, level in levels.items()}
