# SPDX-License-Identifier: MIT
"""A character device that is registered through /dev/cuse."""

import errno
import logging
import os
import stat

from memnotify.transports import Removal, Store, TransportError, TransportUnavailableError
from memnotify.transports.fuse import remove_leftover
from memnotify.transports.session import Operations, Session

log = logging.getLogger(__name__)

CUSE = "/dev/cuse"
_UDEV = "/run/udev/control"
_UDEV_RECORDS = "/run/udev/data"
_NO_CUSE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


class CuseTransport:
    """The character device /dev/NAME, class ``cuse``, with a major number that the kernel chooses.

    ``name`` must be one that the configuration allows. Raises TransportUnavailableError without CUSE or
    without the right to open /dev/cuse, otherwise TransportError.
    """

    kind = "CUSE character device"
    changes = -1

    def __init__(self, name: str, fd: int = -1) -> None:
        """Register ``name``; if ``fd`` is given, an earlier daemon has registered it by that."""
        self.path = f"/dev/{name}"
        self._sysfs = f"/sys/class/cuse/{name}/dev"
        self.store: Store | None = None
        self._node_lost = False
        self._resumed = fd >= 0
        self._fd: int | None = fd
        if fd < 0:
            self._fd = self._open()

    def _open(self) -> int:
        fd = _open_cuse()
        try:
            if os.path.exists(self._sysfs):
                raise TransportError(
                    f"{self.path} is served by another process already;"
                    " stop that one, or choose another --name"
                )
            remove_leftover(self.path)
            # The kernel would register the device, but no client could reach it.
            if os.path.lexists(self.path) and not os.path.exists(self._sysfs):
                raise TransportError(
                    f"{self.path} exists and is no CUSE device: remove it, or choose another --name"
                )
        except BaseException:
            os.close(fd)
            raise
        return fd

    def connect(self, operations: Operations) -> Session:
        """Return a session on /dev/cuse; the device appears during its handshake."""
        session = Session.cuse(self.path.removeprefix("/dev/"), operations)
        session.attach(f"/dev/fd/{self._fd}")
        self._fd = None  # the session's now
        return session

    def verify(self) -> None:
        """Check that the kernel has the device, and that the node in /dev leads to it.

        After the handshake the device is this daemon's, because names are unique in the kernel. If an earlier
        daemon registered it, its clients do not need the node. Raises TransportError.
        """
        try:
            with open(self._sysfs, encoding="utf-8") as dev:
                ours = dev.read().strip()
        except OSError as error:
            raise TransportError(f"the kernel has no device for {self.path} ({error})") from error
        try:
            self._verify_node(ours)
        except TransportError:
            if not self._resumed:
                raise
            self._node_lost = True
            log.warning(
                "%s was removed or replaced: open files go on; stop and start the daemon to make it anew",
                self.path,
            )

    def _verify_node(self, ours: str) -> None:
        try:
            node = os.stat(self.path)
        except OSError as error:
            raise TransportError(
                f"the kernel registered the device, and {self.path} did not appear ({error}):"
                " is /dev a devtmpfs?"
            ) from error
        if not stat.S_ISCHR(node.st_mode) or f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}" != ours:
            raise TransportError(
                f"{self.path} is not the device that the kernel registered ({ours}):"
                " remove it and start again"
            )

    def settled(self) -> bool:
        """Return True if udev has applied its rules to the node, whose first mode is 0600."""
        if self._node_lost:
            return True
        if not os.path.exists(_UDEV):
            log.info("udev is not running: %s has the mode that the kernel gave it", self.path)
            return True
        return udev_is_done(self.path, _UDEV_RECORDS)

    def hand_over(self) -> Removal | None:
        """Return None: the kernel removes the node."""
        return None

    def close(self) -> None:
        """Close /dev/cuse if no session has taken it; the kernel removes the node."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def udev_is_done(path: str, records: str) -> bool:
    """Return True if udev has given the node at ``path`` its mode and run the commands of its rules."""
    try:
        node = os.stat(path)
        # Written when the node has its final mode (udev-event.c:udev_event_execute_rules), and by newer ones
        # once more when the rules' commands have run.
        record = f"{records}/c{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"
        with open(record, encoding="utf-8", errors="replace") as opened:
            # The record of an earlier device of that number is older than the node: udev sets the node's time
            # when it sets the mode.
            newer = os.fstat(opened.fileno()).st_mtime_ns >= node.st_mtime_ns
            return newer and "E:ID_PROCESSING=1" not in opened.read().splitlines()
    except OSError:
        return False


def _open_cuse() -> int:
    tried = ""
    while True:
        try:
            if os.path.exists(CUSE) and not stat.S_ISCHR(os.stat(CUSE).st_mode):
                raise TransportUnavailableError(f"{CUSE} is no device: remove it")
            return os.open(CUSE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if tried or error.errno not in _NO_CUSE or os.geteuid() != 0:
                raise TransportUnavailableError(f"{CUSE}: {error.strerror}{tried}") from error
        # Not by subprocess, which would cost half a megabyte for the life of the daemon.
        status = os.spawnlp(os.P_WAIT, "modprobe", "modprobe", "--quiet", "cuse")  # noqa: S606
        tried = f"; modprobe cuse ended with {status}"
