# SPDX-License-Identifier: MIT
"""Ways in which requests reach the device: a character device, a FUSE file, an AF_UNIX socket."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # It loads libfuse, which commands that need a path or an error of this package do without.
    from memnotify.transports.session import Operations, Session


class TransportError(Exception):
    """The device cannot be served this way; the text says what to do."""


class TransportUnavailableError(TransportError):
    """This machine, or this user, does not have this transport at all; another one may work."""


Removal = Callable[[], object]
"""Removes, in another process once this one has ended, what this one has given up the right to remove."""


class Store(Protocol):
    """A store of descriptors that outlives this process."""

    def outlives_process(self) -> bool:
        """Return True, at the end, if the next daemon will get what is stored."""


class Transport(Protocol):
    """A way to serve. Life: ``connect``, the session's handshake, ``verify``, ``settled``, ..., ``close``."""

    path: str
    """Where clients open the device."""
    kind: str
    """What it is, in a word for the log."""
    store: "Store | None"
    """Where another process keeps the session's descriptor, if there is one."""
    changes: int
    """A descriptor that polls POLLPRI when ``verify`` may fail, from ``connect`` on; or -1."""

    def connect(self, operations: "Operations") -> "Session":
        """Return an attached session. Raises TransportError."""

    def verify(self) -> None:
        """Make sure that clients reach this daemon at ``path``. Raises TransportError if not."""

    def settled(self) -> bool:
        """Return True once the device has its final owner and mode; to be called until it does."""

    def hand_over(self) -> Removal | None:
        """Return what another process must remove at the end: ``close`` does not remove it any more."""

    def close(self) -> None:
        """Remove what was created. The session, if any, is closed already."""
