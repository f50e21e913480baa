# SPDX-License-Identifier: MIT
"""The device as a one-file FUSE mount, for kernels without CUSE and for users without rights."""

import errno
import logging
import os
import re
import select
import signal
import stat

from memnotify.abi.figures import EXTRA_FIGURES, NAMES
from memnotify.abi.thresholds import WRITE_MAX, parse
from memnotify.kernel.mounts import FUSE_FILE, canonical_path, mount_number, read_mounts
from memnotify.kernel.syscalls import MS_NODEV, MS_NOSUID, mount
from memnotify.transports import Removal, Store, TransportError, TransportUnavailableError
from memnotify.transports.paths import (
    belongs_to_root,
    directory_locked,
    refuse_untrusted_directory,
)
from memnotify.transports.session import Operations, Session

log = logging.getLogger(__name__)

# The mode of a mount point that the daemon made, by which a later run recognises it. Root's is a socket node
# to which nothing is bound: while nothing is mounted, open(2) fails with ENXIO (fs/inode.c:sock_no_open).
# fusermount3 takes regular files only; another user can open such a one only for writing.
_MOUNT_POINT_MODE = 0o200
# A daemon answers at once; on a machine under load it may have to wait for a CPU.
_ANSWER_S = 3.0


class FuseTransport:
    """A regular file at ``path`` that behaves like the device, except to stat().

    The mount point is created if there is none, and then removed at the end. A mount whose daemon was
    killed is replaced. Raises TransportError.
    """

    kind = "FUSE file"

    def __init__(self, path: str, session: int = -1, *, ours: bool = False) -> None:
        """Mount at ``path``; if ``session`` is given, an earlier daemon has mounted.

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
        self.store: Store | None = None
        self.ours = ours
        """Whether the daemon made the mount point."""
        self._made = False
        self._session = session

    def connect(self, operations: Operations) -> Session:
        """Return a session on the mount."""
        # For root, the kernel has the options from mount(2); libfuse accepts them and has no use for them.
        options = "fsname=memnotify,subtype=memnotify,default_permissions"
        session = Session.file(operations, mode=0o666, mount_options=options)
        try:
            if self._session >= 0:
                session.attach(f"/dev/fd/{self._session}")
            else:
                with directory_locked(self.path):
                    # Another daemon may have started meanwhile.
                    _detach_dead(self.path)
                    self._mount(session)
            self._made = True
            # POLLPRI means a change in this mount namespace (fs/proc_namespace.c:mounts_poll).
            self.changes = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except TransportError:
            session.close()
            raise
        except OSError as error:
            session.close()
            hint = "" if os.geteuid() == 0 else " (users need the package fuse3 and access to /dev/fuse)"
            raise TransportError(f"cannot mount at {self.path}: {error.strerror}{hint}") from error
        return session

    def _mount(self, session: Session) -> None:
        """Make the mount point and mount on it. Raises OSError or TransportError."""
        if os.geteuid() != 0:
            self.ours = _prepare_file(self.path)
            session.attach(self.path)
            return
        # First, as a unit may not allow this device: nothing is left behind then.
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            _prepare_socket(self.path)
            self.ours = True
            # For all users. libfuse would mount a file of the mount point's type.
            options = f"fd={fd},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
            options += ",default_permissions,allow_other"
            mount("memnotify", self.path, FUSE_FILE, MS_NOSUID | MS_NODEV, options)
        except TransportError:
            os.close(fd)
            raise
        except OSError:
            os.close(fd)
            _unlink_mount_point(self.path)
            raise
        session.attach(f"/dev/fd/{fd}")

    def verify(self) -> None:
        """Check the table of mounts for the mount; a stat would wait for this process."""
        if all(mount.type != FUSE_FILE for mount in read_mounts(self.path)):
            raise TransportError(f"{self.path} is gone: it was unmounted")

    def settled(self) -> bool:
        """Return True: the file has its final mode."""
        return True

    def hand_over(self) -> Removal | None:
        """Leave mount and mount point to another process."""
        self._made = False
        return self._remove

    def close(self) -> None:
        """Remove the mount point if the daemon made it, and a dead mount."""
        if self.changes >= 0:
            os.close(self.changes)
            self.changes = -1
        if self._made:
            self._made = False
            self._remove()

    def _remove(self) -> None:
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
                    _unlink_mount_point(self.path)
        except (TransportError, OSError) as error:
            log.warning("%s may be left: %s", self.path, error)


def remove_leftover(path: str) -> None:
    """Remove the mount of a dead daemon at ``path``, and the mount point that it made."""
    with directory_locked(path):
        _detach_dead(path)
        _unlink_mount_point(path)


def _detach_dead(path: str, level: int = logging.INFO) -> None:
    """Unmount every mount at ``path`` whose daemon has died.

    Raises TransportError if another file system is mounted there, or if the daemon lives or does not answer.
    """
    while mounts := read_mounts(path):
        top = mounts[-1]
        if top.type != FUSE_FILE:
            raise TransportError(f"a file system ({top.type}) is mounted at {path}: choose another --path")
        if _is_hidden(path, top.number):
            return
        error = _try_open(path)
        if error == errno.ETIMEDOUT:
            raise TransportError(
                f"{path} is served by another process, which does not answer: end that one first"
            )
        if error == 0:
            raise TransportError(f"{path} is served by another process already; stop that one first")
        if error not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise TransportError(f"{path} is mounted and does not answer ({os.strerror(error)})")
        _unmount(path, level)


def _try_open(path: str) -> int:
    """Open the file in a process of its own; return 0 or the errno, ETIMEDOUT if there is no answer.

    An open(2) that the daemon has received cannot be killed (fs/fuse/dev.c:request_wait_answer).
    """
    child = os.fork()
    if child == 0:
        error = errno.EIO
        try:
            # All of them, since the process may stay for as long as the daemon hangs.
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))
            # The kernel would answer a stat from its cache.
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            error = 0
        except OSError as failed:
            error = failed.errno or errno.EIO
        finally:
            os._exit(error)
    end = os.pidfd_open(child)
    try:
        poller = select.poll()
        poller.register(end, select.POLLIN)
        if poller.poll(_ANSWER_S * 1000):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.kill(child, signal.SIGKILL)
    finally:
        os.close(end)
    return errno.ETIMEDOUT


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


def _prepare_socket(path: str) -> None:
    """Put root's mount point at ``path``, in place of a file that holds nothing else than clients' writes.

    Raises TransportError.
    """
    made = path
    try:
        if _check_file(path):
            return
        if os.path.lexists(path):
            # By rename: a client finds either of the two.
            made = f"{path}.{os.getpid()}"
        os.mknod(made, stat.S_IFSOCK | _MOUNT_POINT_MODE)
        os.chmod(made, _MOUNT_POINT_MODE)  # whatever the umask is
        if made != path:
            os.rename(made, path)
    except OSError as error:
        raise TransportError(f"cannot use {path} as a mount point: {error.strerror}") from error


def _prepare_file(path: str) -> bool:
    """Put the mount point of an ordinary user at ``path``; return whether to remove it at the end.

    Raises TransportError.
    """
    try:
        if os.path.lexists(path):
            ours = _check_file(path)
            # A client may have written to it while nothing was mounted.
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        else:
            ours = True
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MOUNT_POINT_MODE)
    except OSError as error:
        raise TransportError(f"cannot use {path} as a mount point: {error.strerror}") from error
    os.close(fd)
    return ours


def _check_file(path: str) -> bool:
    """Return True if a mount point of a daemon of this user is at ``path``, False if it can be made there.

    Raises TransportError if something else is there.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if _is_mount_point(status):
        return stat.S_ISSOCK(status.st_mode) == (os.geteuid() == 0)
    if not (stat.S_ISREG(status.st_mode) and _holds_writes_only(path, status.st_size)):
        raise TransportError(f"{path} exists and is not an empty regular file: choose another --path")
    if os.geteuid() == 0 and not belongs_to_root(status):
        # Its owner could put a link in its place, even in a directory with the sticky bit.
        raise TransportError(f"{path} does not belong to root: remove it, or choose another --path")
    return False


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


def _is_mount_point(status: os.stat_result) -> bool:
    kinds = {stat.S_IFREG | _MOUNT_POINT_MODE, stat.S_IFSOCK | _MOUNT_POINT_MODE}
    return status.st_mode in kinds and status.st_uid == os.geteuid()


def _unlink_mount_point(path: str) -> None:
    """Remove the mount point at ``path`` if nothing is mounted on it."""
    try:
        if _is_mount_point(os.lstat(path)):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the mount point %s could not be removed: %s", path, error.strerror)
