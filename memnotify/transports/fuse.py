# SPDX-License-Identifier: MIT
"""The device as a one-file FUSE mount, for kernels without CUSE and for users without rights."""

import errno
import fcntl
import logging
import os
import re
import stat
from functools import partial

from memnotify.abi.figures import EXTRA_FIGURES, NAMES
from memnotify.abi.thresholds import WRITE_MAX, parse
from memnotify.kernel.mounts import FUSE_FILE, canonical_path, mount_number, read_mounts
from memnotify.transports import MOUNT_POINT, Removal, Store, TransportError, TransportUnavailableError
from memnotify.transports.paths import (
    belongs_to_root,
    directory_locked,
    refuse_untrusted_directory,
)
from memnotify.transports.session import Operations, Session

log = logging.getLogger(__name__)

# The mode of a mount point that the daemon made, by which a later run recognises it. While nothing is
# mounted, only root can open it and take it for the device.
_MOUNT_POINT_MODE = 0o200


class FuseTransport:
    """A regular file at ``path`` that behaves like the device, except to stat().

    The mount point is created if there is none, and then removed at the end. A mount whose daemon was
    killed is replaced. Raises TransportError.
    """

    kind = "FUSE file"

    def __init__(self, path: str, session: int = -1, mount_point: int = -1, *, ours: bool = False) -> None:
        """Mount at ``path``; if ``session`` and ``mount_point`` are given, an earlier daemon has mounted.

        ``ours`` says that the daemon made the mount point.
        """
        # A link as its last part is refused below, by _claim.
        self.path = canonical_path(path)
        refuse_untrusted_directory(self.path)
        if not os.path.exists("/dev/fuse"):
            raise TransportUnavailableError("/dev/fuse does not exist: load the module with 'modprobe fuse'")
        if session < 0:
            with directory_locked(self.path):
                _detach_dead(self.path)
        self.changes = -1
        self.kept: dict[str, int] = {}
        self.store: Store | None = None
        self.ours = ours
        """Whether the daemon made the mount point."""
        self._mount_point = mount_point
        self._session = session

    def connect(self, operations: Operations) -> Session:
        """Return a session on the mount."""
        options = "fsname=memnotify,subtype=memnotify,default_permissions"
        if os.geteuid() == 0:
            # For all users. A mount of another user would need user_allow_other in /etc/fuse.conf.
            options += ",allow_other"
        session = Session.file(operations, mode=0o666, mount_options=options)
        try:
            # Keep this short: a client that opens the mount point before the mount gets an empty file.
            if self._session < 0:
                with directory_locked(self.path):
                    self._mount_point, self.ours = _claim(self.path)
                    session.attach(self.path)
            else:
                session.attach(f"/dev/fd/{self._session}")
            self.kept = {MOUNT_POINT: self._mount_point}
            # POLLPRI means a change in this mount namespace (fs/proc_namespace.c:mounts_poll).
            self.changes = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except TransportError:
            session.close()
            raise
        except OSError as error:
            session.close()
            hint = (
                ""
                if os.geteuid() == 0
                else " (users need the package fuse3 and a readable, writable /dev/fuse)"
            )
            raise TransportError(
                f"cannot mount at {self.path}: libfuse's message stands above{hint}"
            ) from error
        return session

    def verify(self) -> None:
        """Check the table of mounts for the mount; a stat would wait for this process."""
        if all(mount.type != FUSE_FILE for mount in read_mounts(self.path)):
            raise TransportError(f"{self.path} is gone: it was unmounted")

    def settled(self) -> bool:
        """Return True: the file has its final mode."""
        return True

    def hand_over(self) -> Removal | None:
        """Leave mount and mount point to another process. The mount point stays open here, and so locked."""
        mount_point, self._mount_point = self._mount_point, -1
        return Removal(partial(self._remove, mount_point), (mount_point,))

    def close(self) -> None:
        """Remove the mount point if the daemon made it, and a dead mount, which libfuse leaves."""
        if self.changes >= 0:
            os.close(self.changes)
            self.changes = -1
        if self._mount_point >= 0:
            self._remove(self._mount_point)
            self._mount_point = -1

    def _remove(self, mount_point: int) -> None:
        try:
            if self.store is not None and self.store.outlives_process():
                return
            with directory_locked(self.path):
                if self.store is None:
                    _detach_dead(self.path, logging.DEBUG)
                elif any(mount.type == FUSE_FILE for mount in read_mounts(self.path)):
                    # The store has the connection open, so an open() of the mount would wait for an answer.
                    _unmount(self.path, logging.DEBUG)
                if self.ours:
                    _unlink_same(self.path, mount_point)
        except (TransportError, OSError) as error:
            log.warning("%s may be left: %s", self.path, error)
        finally:
            os.close(mount_point)


def remove_leftover(path: str) -> None:
    """Remove the mount of a dead daemon at ``path``, and the mount point that it made."""
    with directory_locked(path):
        _detach_dead(path)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if not _is_ours(status):
            return
        mount_point, _ = _claim(path)
        _unlink_same(path, mount_point)
        os.close(mount_point)


def _detach_dead(path: str, level: int = logging.INFO) -> None:
    """Unmount every mount at ``path`` whose daemon has died.

    Raises TransportError if another file system is mounted there.
    """
    while mounts := read_mounts(path):
        top = mounts[-1]
        if top.type != FUSE_FILE:
            raise TransportError(f"a file system ({top.type}) is mounted at {path}: choose another --path")
        if _is_hidden(path, top.number):
            return
        try:
            # The kernel would answer a stat from its cache. A living daemon answers an open at once.
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                raise TransportError(f"{path} is mounted and does not answer ({error.strerror})") from error
        else:
            raise TransportError(f"{path} is served by another process already; stop that one first")
        _unmount(path, level)


def _unmount(path: str, level: int) -> None:
    command = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-u", "-z")
    log.log(level, "%s is the mount of a daemon that died: %s", path, " ".join(command))
    status = os.spawnlp(os.P_WAIT, command[0], *command, "--", path)  # noqa: S606 - no shell is wanted
    if status != 0:
        raise TransportError(f"the dead mount at {path} cannot be removed: {command[0]} ended with {status}")


def _is_hidden(path: str, number: int) -> bool:
    """Return True if the path does not lead to that mount: another one covers a directory above it."""
    try:
        # Asks no daemon: with O_PATH the file itself is not opened (fs/open.c:do_dentry_open).
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return mount_number(place) != number
    finally:
        os.close(place)


def _claim(path: str) -> tuple[int, bool]:
    """Open and lock the mount point, made if there is none; return it and whether to remove it at the end."""
    try:
        if os.path.lexists(path):
            status = os.lstat(path)
            ours = _is_ours(status)
            if not stat.S_ISREG(status.st_mode) or not (ours or _holds_writes_only(path, status.st_size)):
                raise TransportError(f"{path} exists and is not an empty regular file: choose another --path")
            if os.geteuid() == 0 and not belongs_to_root(status):
                # Its owner could put a link in its place, even in a directory with the sticky bit.
                raise TransportError(f"{path} does not belong to root: remove it, or choose another --path")
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        else:
            ours = True
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MOUNT_POINT_MODE)
    except OSError as error:
        raise TransportError(f"cannot use {path} as a mount point: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # If something was mounted in the meantime, the lock is on the mounted file.
        if mount_number(fd) != _directory_mount_number(path):
            raise BlockingIOError
        # A client may have written to it while nothing was mounted.
        os.ftruncate(fd, 0)
    except BlockingIOError:
        os.close(fd)
        raise TransportError(
            f"{path} is taken by another process that is starting now; stop that one first"
        ) from None
    return fd, ours


def _holds_writes_only(path: str, size_bytes: int) -> bool:
    """Return True if the file is empty, or holds only what the device would have accepted as writes."""
    if not 0 < size_bytes <= WRITE_MAX:
        return size_bytes == 0
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        content = file.read()
    try:
        for write in re.split(rb"[\n\0]", content):
            parse(write, (*NAMES, *EXTRA_FIGURES))
    except ValueError:
        return False
    return True


def _is_ours(status: os.stat_result) -> bool:
    mode = stat.S_IMODE(status.st_mode)
    return stat.S_ISREG(status.st_mode) and mode == _MOUNT_POINT_MODE and status.st_uid == os.geteuid()


def _unlink_same(path: str, fd: int) -> None:
    """Remove the file at ``path`` if it is still the open one."""
    try:
        if os.path.samestat(os.lstat(path), os.fstat(fd)):
            os.unlink(path)
    except OSError as error:
        log.warning("the mount point %s could not be removed: %s", path, error.strerror)


def _directory_mount_number(path: str) -> int:
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_number(directory)
    finally:
        os.close(directory)
