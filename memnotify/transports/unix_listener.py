# SPDX-License-Identifier: MIT
"""The AF_UNIX socket in the file system to which clients connect."""

import logging
import os
import socket
import stat
from collections.abc import MutableMapping
from functools import partial

from memnotify.kernel.mounts import canonical_path
from memnotify.transports import Removal, TransportError
from memnotify.transports.paths import directory_locked, refuse_untrusted_directory

log = logging.getLogger(__name__)

_BACKLOG = 1024
# sd_listen_fds(3): the first descriptor (SD_LISTEN_FDS_START), and the variables that describe them.
_PASSED_FD = 3
_PASSED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Listener:
    """A listening stream socket at ``path``, with the permissions ``mode``.

    The socket of a daemon that was killed is replaced. If ``passed`` is given, it is used as it is: its maker
    has set its mode, and removes it. Raises TransportError.
    """

    def __init__(self, path: str, mode: int = 0o666, passed: socket.socket | None = None) -> None:
        self._made: os.stat_result | None = None
        if passed is not None:
            self.path, self.socket = path, passed
            return
        self.path = canonical_path(path)
        refuse_untrusted_directory(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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

    @property
    def removes(self) -> bool:
        """Whether ``close`` removes the socket from its path."""
        return self._made is not None

    def hand_over(self) -> Removal | None:
        """Leave the socket to another process to remove: ``close`` does not."""
        made, self._made = self._made, None
        return None if made is None else partial(self._remove, made)

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
        if not _is_socket(self.path):
            return
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


def _is_socket(path: str) -> bool:
    """Return True if there is a socket at ``path``, False if there is nothing. Raises TransportError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise TransportError(f"{path} exists and is no socket: choose another path for the socket")
    return True


def check_place(path: str) -> None:
    """Raise TransportError if no socket can be made at ``path``. One that is there may be a daemon's own."""
    path = canonical_path(path)
    refuse_untrusted_directory(path)
    directory = os.path.dirname(path)
    if not _is_socket(path) and not os.access(directory, os.W_OK | os.X_OK):
        why = "this user may not write to" if os.path.isdir(directory) else "there is no directory"
        raise TransportError(f"cannot make the socket {path}: {why} {directory}")


def open_listener(path: str, mode: int, *, stays: bool = False) -> Listener | None:
    """Return a listener on the socket that the service manager passed, or else at ``path``, or None.

    Raises TransportError if a passed socket cannot be used, or is at another path. If it ``stays``, because
    the program before served it, the one at another path is used as well.
    """
    passed = take_passed_socket()
    if passed is None:
        return Listener(path, mode) if path else None
    bound = passed.getsockname()
    place = f"@{os.fsdecode(bound[1:])}" if isinstance(bound, bytes) else bound
    if path and canonical_path(path) != canonical_path(place):
        if stays:
            log.warning("--socket is %s, and %s stays: a change of socket takes a restart", path, place)
            return Listener(place, passed=passed)
        passed.close()
        raise TransportError(
            f"the service manager passed the socket {place}, but --socket is {path}: leave --socket out"
        )
    return Listener(place, passed=passed)


def take_passed_socket(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """Return the listening socket that the service manager passed as sd_listen_fds(3) says, None without one.

    It is closed on exec, and the variables are removed. Raises TransportError unless it is one listening
    AF_UNIX stream socket.
    """
    given = {name: environment.pop(name) for name in _PASSED if name in environment}
    if given.get("LISTEN_PID") != str(os.getpid()):
        return None
    if given.get("LISTEN_FDS") != "1":
        raise TransportError(f"LISTEN_FDS is {given.get('LISTEN_FDS')}: exactly one socket may be passed")
    try:
        passed = socket.socket(fileno=_PASSED_FD)
    except OSError as error:
        raise TransportError(f"the passed descriptor {_PASSED_FD} is no socket: {error.strerror}") from error
    if (
        passed.family != socket.AF_UNIX
        or passed.type != socket.SOCK_STREAM
        or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        passed.close()
        raise TransportError(
            "the passed socket is not a listening AF_UNIX stream socket (ListenStream=/PATH)"
        )
    passed.set_inheritable(False)
    return passed
