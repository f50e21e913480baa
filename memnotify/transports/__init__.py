# SPDX-License-Identifier: MIT
"""Where the descriptor that speaks the FUSE protocol comes from."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from memnotify.transports.session import Operations, Session


class TransportError(Exception):
    """The device cannot be served this way; the text says what to do."""


class TransportUnavailableError(TransportError):
    """This machine, or this user, does not have this transport at all; another may do."""


class Removal(NamedTuple):
    """What is still to be removed when this process, which may not do it any more, has ended."""

    remove: Callable[[], object]
    fds: tuple[int, ...] = ()
    """The descriptors that ``remove`` uses."""


class Transport(Protocol):
    """A way to serve. Life: ``connect``, the session's handshake, ``verify``, ``settled``, ..., ``close``."""

    path: str
    """Where clients open the device."""
    kind: str
    """What it is, in a word for the log."""

    def connect(self, operations: Operations) -> Session:
        """Return an attached session. Raises TransportError."""

    def verify(self) -> None:
        """Make sure that clients reach this daemon at ``path``. Raises TransportError if not."""

    def settled(self) -> bool:
        """Whether nobody will change any more who may open the device; to be asked until it is so."""

    def hand_over(self) -> Removal | None:
        """Leave it to others to remove what was created: ``close`` does not."""

    def close(self) -> None:
        """Remove what was created. The session, if any, is closed already."""
