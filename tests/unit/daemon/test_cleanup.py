# SPDX-License-Identifier: MIT
"""The process that removes at the end what only root may remove."""

import os

import pytest

from memnotify.daemon.cleanup import close_all_except


def test_only_descriptors_that_are_open_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is not open is never tried: there may be 2^30, and close_range(2) may be missing."""
    kept, other = os.pipe()
    opened = {int(fd) for fd in os.listdir("/proc/self/fd")}
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closed.append)
        patch.setattr(os, "closerange", None)
        close_all_except({0, 1, 2, kept})
    assert other in closed
    assert set(closed) == opened - {0, 1, 2, kept}
    for fd in (kept, other):
        os.close(fd)
