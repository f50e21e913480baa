# SPDX-License-Identifier: MIT
"""The AF_UNIX socket in the file system to which clients connect."""

import logging
import os
import socket
import stat
from functools import partial

from memnotify.transports import Removal, TransportError
from memnotify.transports.paths import canonical_path, directory_locked, refuse_untrusted_directory

log = logging.getLogger(__name__)

_BACKLOG = 1024


class Listener:
    """A listening stream socket at ``path``, with the permissions ``mode``.

    The socket of a daemon that was killed is replaced. Raises TransportError.
    """

    def __init__(self, path: str, mode: int = 0o666) -> None:
        self.path = canonical_path(path)
        refuse_untrusted_directory(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._made: os.stat_result | None = None
        try:
            with directory_locked(self.path):
                self._remove_dead()
                # The mode is set at creation: before a chmod, a link could take its place. One thread runs.
                before = os.umask(0o777 & ~mode)
                try:
                    self.socket.bind(self.path)
                finally:
                    os.umask(before)
                self._made = os.lstat(self.path)
            self.socket.listen(_BACKLOG)
        except TransportError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise TransportError(f"cannot make the socket {path}: {error.strerror or error}") from error

    def hand_over(self) -> Removal | None:
        """Leave the socket to another process to remove: ``close`` does not."""
        made, self._made = self._made, None
        return None if made is None else Removal(partial(self._remove, made))

    def close(self) -> None:
        """Close the socket, and remove it from ``path`` if it is still there."""
        self.socket.close()
        if self._made is not None:
            self._remove(self._made)

    def _remove(self, made: os.stat_result) -> None:
        try:
            now = os.lstat(self.path)
            # The socket of a later daemon may have the same inode number.
            if os.path.samestat(now, made) and now.st_mtime_ns == made.st_mtime_ns:
                os.unlink(self.path)
        except OSError as error:
            log.warning("the socket %s could not be removed: %s", self.path, error.strerror)

    def _remove_dead(self) -> None:
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise TransportError(f"{self.path} exists and is no socket: choose another --socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except OSError as error:
                raise TransportError(f"{self.path} does not answer ({error.strerror})") from error
        raise TransportError(f"{self.path} is served by another process already; stop that one first")
