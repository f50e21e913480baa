# SPDX-License-Identifier: MIT
"""Settings of every layer of tests."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is shared is slow by spells; a test says what must happen, not how soon.
settings.register_profile("memnotify", deadline=None)
settings.load_profile("memnotify")

# In the background of a shell SIGINT and SIGQUIT are ignored, under nohup SIGHUP. Daemons and commands would
# inherit that and obey it; they do not inherit a handler.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

GUEST = Path(__file__).parent / "guest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the guests last: they take the longest, and keep all processors busy."""
    items.sort(key=lambda item: GUEST in item.path.parents)
