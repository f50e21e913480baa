# SPDX-License-Identifier: MIT
"""Waiting for other threads and processes: for a condition, with a deadline, never for a fixed time."""

import time
from collections.abc import Callable

DEADLINE_S = 60.0
"""Long after the slowest machine, an emulated guest, has done what a test waits for."""
_LOOK_EVERY_S = 0.002


def eventually(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as ``condition`` holds; after ``deadline_s`` seconds fail: ``what`` did not happen."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(_LOOK_EVERY_S)
