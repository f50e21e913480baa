# SPDX-License-Identifier: MIT
"""What one daemon leaves to the next."""

from types import SimpleNamespace
from typing import Any, cast

from memnotify.daemon.takeover import Handover


def test_what_was_left_to_the_sampler_is_done_before_the_state_is_left() -> None:
    """Else the next daemon would have thresholds that fired as if they had not, and tell of them twice."""
    calls: list[str] = []
    handover = cast("Any", Handover.__new__(Handover))
    handover._sampler = SimpleNamespace(settle=lambda: calls.append("settle"))
    handover._server = SimpleNamespace(left=lambda: calls.append("left"))
    handover._saved = SimpleNamespace(fd=-1)
    assert handover.leave([]) == []
    assert calls == ["settle", "left"]
