# SPDX-License-Identifier: MIT
"""How the daemon's threads start: without signals, and with somebody who is told if one fails."""

import logging
import signal
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def start_thread(name: str, body: Callable[[], None], on_failure: Callable[[], None]) -> threading.Thread:
    """Start a thread that runs ``body``, and return it. It takes no signals: they are the main thread's.

    If ``body`` raises, the thread logs that, calls ``on_failure`` and ends.
    """

    def run() -> None:
        try:
            body()
        except Exception:
            log.exception("the thread %s failed", name)
            on_failure()

    thread = threading.Thread(target=run, name=name, daemon=True)
    # A thread inherits the mask of the one that starts it.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return thread
