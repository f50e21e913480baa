# SPDX-License-Identifier: MIT
"""An epoll, also in a program whose select module has lost it."""

import errno
import math
import select
import sys
import time

from memnotify.client._errors import MemnotifyError

POLL_MAX_S = 86_400.0
"""The longest single wait: epoll takes milliseconds as an int, which is 24 days."""


def new_epoll() -> "select.epoll":
    """Return a new epoll. Raises MemnotifyError if this Python has none.

    gevent's monkey-patching removes select.epoll, as its poll() would block all greenlets; ``wait_ready``
    below blocks one.
    """
    monkey = sys.modules.get("gevent.monkey")
    if hasattr(select, "epoll"):
        made = select.epoll()
    elif monkey is not None:
        made = monkey.get_original("select", "epoll")()
    else:
        reason = "select.epoll is missing: a library has removed it, and only gevent keeps a copy of it"
        raise MemnotifyError(errno.ENOSYS, reason)
    return made


def end_of(timeout_s: float | None) -> float | None:
    """Return when a wait of ``timeout_s`` seconds ends, by time.monotonic(). Raises ValueError for NaN.

    No time is after NaN: the wait would go on without an end, and without sleep.
    """
    if timeout_s is None:
        return None
    if math.isnan(timeout_s):
        raise ValueError("timeout must not be NaN")
    return time.monotonic() + timeout_s


def wait_ready(epoll: "select.epoll", timeout_s: float | None) -> list[tuple[int, int]]:
    """Return the descriptors that are ready and their events, after at most ``timeout_s`` seconds."""
    if timeout_s is not None:
        timeout_s = min(max(0.0, timeout_s), POLL_MAX_S)
    if hasattr(select, "epoll"):
        return epoll.poll(timeout_s)
    # This poll is gevent's, which lets other greenlets run.
    poller = select.poll()
    poller.register(epoll.fileno(), select.POLLIN)
    poller.poll(None if timeout_s is None else 1000 * timeout_s)
    return epoll.poll(0)
