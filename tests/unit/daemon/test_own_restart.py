# SPDX-License-Identifier: MIT
"""The daemon ends by itself where a new process would do better."""

from types import SimpleNamespace
from typing import Any

import pytest

from memnotify import daemon
from memnotify.daemon import End, Service


class _StopError(Exception):
    """The main thread goes on."""


def ends(monkeypatch: pytest.MonkeyPatch, *, refused: bool, stored: bool, age_s: float) -> bool:
    """Return True if the daemon ends once it has done what is due."""
    turns = iter(range(3))

    def do_due() -> None:
        if next(turns, None) is None:
            raise _StopError

    parts: list[Any] = [
        SimpleNamespace(interrupt=None),
        SimpleNamespace(path="/dev/x", kind="file", changes=-1),
        SimpleNamespace(stored=stored),
        SimpleNamespace(counters_refused=refused),
    ]
    status: Any = SimpleNamespace(do_due=do_due, due_in_s=0.0)
    service = Service(*parts)
    monkeypatch.setattr(daemon, "_RESTART_AFTER_S", -age_s)
    try:
        return service._run(status, parts[0]) is End.ASKED
    except _StopError:
        return False


def test_lost_page_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if the service manager keeps its clients, and not again and again."""
    assert ends(monkeypatch, refused=True, stored=True, age_s=0)
    assert not ends(monkeypatch, refused=False, stored=True, age_s=0)
    assert not ends(monkeypatch, refused=True, stored=False, age_s=0)
    assert not ends(monkeypatch, refused=True, stored=True, age_s=-600)
