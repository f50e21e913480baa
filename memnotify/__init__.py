# SPDX-License-Identifier: MIT
"""memnotify: /dev/memnotify made in userspace, a memory meter that programs can poll."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from memnotify.client import *  # noqa: F403 - the names that __getattr__ gives


def __getattr__(name: str) -> object:
    """Return a public name of the client library, as in ``from memnotify import Memnotify``.

    The library is imported at the first use, so the daemon's memory does not hold it.
    """
    # Modules have small letters: asking for one must import nothing else.
    if name[0].isupper():
        from memnotify import client  # noqa: PLC0415 - see above

        if name in client.__all__:
            return getattr(client, name)
    raise AttributeError(f"module 'memnotify' has no attribute {name!r}")
