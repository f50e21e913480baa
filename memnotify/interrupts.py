# SPDX-License-Identifier: MIT
"""SIGINT while a command is still being imported: it ends the process, without a traceback."""

import os
import signal
from types import FrameType


def end_at_once() -> None:
    """Let SIGINT end the process from now on, unless it is ignored. Threads: the main thread.

    A KeyboardInterrupt would be a traceback, or be lost: Python drops one that is raised in a callback of the
    import system (importlib/_bootstrap.py:_get_module_lock). The default action would be lost in the init
    process of a container.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let SIGINT raise KeyboardInterrupt, if ``end_at_once`` has changed that. Threads: the main thread."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # as a shell reports it
