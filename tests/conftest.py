# SPDX-License-Identifier: MIT
"""Settings of every layer of tests."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from support.require import REQUIRE_ALL

# A machine that is shared is slow by spells; a test says what must happen, not how soon. The inner loop draws
# fewer examples than hypothesis's own number, which CI takes.
settings.register_profile(
    "memnotify", deadline=None, max_examples=100 if os.environ.get(REQUIRE_ALL) == "1" else 25
)
settings.load_profile("memnotify")


def pytest_collection_finish() -> None:
    """Leave what pytest and the imports made out of each garbage collection: that is most objects."""
    gc.freeze()


# In the background of a shell SIGINT and SIGQUIT are ignored, under nohup SIGHUP. Daemons and commands would
# inherit that and obey it; they do not inherit a handler.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

GUEST = Path(__file__).parent / "guest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the guests last: they take the longest, and keep all processors busy."""
    items.sort(key=lambda item: GUEST in item.path.parents)
