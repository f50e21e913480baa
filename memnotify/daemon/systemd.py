# SPDX-License-Identifier: MIT
"""Notifications to the service manager (sd_notify), and the time of its watchdog."""

import errno
import logging
import os
import select
import signal
import time
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket as sockets

log = logging.getLogger(__name__)

_UNSENT_MAX = 16
# In one message (net/core/scm.c:SCM_MAX_FD).
_FDS_MAX = 253
_SYSTEMCTL_S = 10.0
_STORED_MAX_S = 5.0
# Of socket(7) and unix(7), so that a daemon without a service manager does not import socket.
_SOL_SOCKET, _SCM_RIGHTS = 1, 1
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


class SystemdNotifier:
    """Sends notifications to the service manager that NOTIFY_SOCKET names, if there is one.

    It never waits: while the socket's buffer is full, notifications are kept and sent later.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._socket: sockets.socket | None = None
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque(maxlen=_UNSENT_MAX)
        self._refused = False
        self.watchdog_s = 0.0
        """The time within which the service manager expects WATCHDOG=1 again; 0 if it does not."""
        address = _address(environment.get("NOTIFY_SOCKET", ""))
        if not address:
            return
        # Here, as a daemon that is started by hand has no service manager: it saves 0.4 MB.
        import socket  # noqa: PLC0415

        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.settimeout(0)
        try:
            # Now: the user that this process becomes may have no access to it.
            notify.connect(address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET cannot be written to: %s", error.strerror)
            notify.close()
            return
        self._socket = notify
        self.watchdog_s = _watchdog_s(environment)

    @property
    def listens(self) -> bool:
        """Return True if there is a service manager."""
        return self._socket is not None

    @property
    def unsent(self) -> bool:
        """Return True if a notification is still to be sent."""
        return bool(self._unsent)

    def send_ready(self, status: str) -> None:
        """Say that the daemon serves, at its start and after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def send_reloading(self) -> None:
        """Say that a reload begins; ``send_ready`` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def send_watchdog(self, status: str) -> None:
        """Say that all threads are alive."""
        self._send("WATCHDOG=1", f"STATUS={status}")

    def send_stopping(self) -> None:
        """Say that the daemon ends."""
        self._send("STOPPING=1")

    def send_store(self, name: str, fd: int, *, polled: bool = True) -> None:
        """Let the service manager store a descriptor, for the next process of the service.

        If it is ``polled``, the service manager removes it at POLLHUP or POLLERR.
        """
        self._send("FDSTORE=1", f"FDNAME={name}", *(() if polled else ("FDPOLL=0",)), fds=[fd])

    def send_store_all(self, name: str, fds: Sequence[int]) -> None:
        """Do the same for many descriptors of one name."""
        for start in range(0, len(fds), _FDS_MAX):
            self._send("FDSTORE=1", f"FDNAME={name}", fds=fds[start : start + _FDS_MAX])

    def send_remove(self, name: str) -> None:
        """Let the service manager close the stored descriptors of a name."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def barrier(self, timeout_s: float) -> None:
        """Wait until the service manager has processed every notification."""
        end, other_end = os.pipe2(os.O_CLOEXEC)
        self._send("BARRIER=1", fds=[other_end])
        os.close(other_end)
        poller = select.poll()
        poller.register(end, 0)
        poller.poll(timeout_s * 1000)
        os.close(end)

    def _send(self, *assignments: str, fds: Sequence[int] = ()) -> None:
        """Send variables in one message (sd_notify(3) has their list)."""
        if self._socket is not None:
            self._unsent.append(("\n".join(assignments).encode(), fds))
            self.flush()

    def flush(self) -> None:
        """Send the notifications that are still unsent."""
        while self._unsent and self._socket is not None:
            text, fds = self._unsent[0]
            ancillary = [(_SOL_SOCKET, _SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([text], ancillary)
            except OSError as error:
                if error.errno in _FULL:
                    return
                if not self._refused:
                    log.warning("NOTIFY_SOCKET cannot be written to: %s", error.strerror)
                self._refused = True
            self._unsent.popleft()

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class DescriptorStore:
    """The service manager's store of descriptors, which outlive the process.

    memnotify.service passes its name in MEMNOTIFY_UNIT to say that it has a store (FileDescriptorStoreMax=).
    """

    def __init__(self, notifier: SystemdNotifier, environment: Mapping[str, str] = os.environ) -> None:
        self._notifier = notifier
        self._unit = environment.get("MEMNOTIFY_UNIT", "")
        self.offered = notifier.listens and bool(self._unit)
        """Whether there is a store."""

    def store(self, fds: Mapping[str, int], *, polled: bool = True) -> None:
        """Store descriptors by name. A descriptor that is stored already is not stored twice.

        If they are ``polled``, the store removes them at POLLHUP or POLLERR.
        """
        if self.offered:
            for name, fd in fds.items():
                self._notifier.send_store(name, fd, polled=polled)

    def store_all(self, name: str, fds: Sequence[int]) -> None:
        """Store many descriptors of one name, at the end of the process."""
        if self.offered:
            self._notifier.send_store_all(name, fds)
            self._notifier.barrier(_STORED_MAX_S)

    def forget(self, names: Iterable[str]) -> None:
        """Remove the descriptors of these names from the store."""
        if self.offered:
            for name in names:
                self._notifier.send_remove(name)

    def outlives_process(self) -> bool:
        """Return True if there is a store and the service is not being stopped, which empties the store."""
        if not self.offered:
            return False
        try:
            jobs = _output("systemctl", "list-jobs", "--plain", "--no-legend")
        except OSError as error:
            log.warning("it is not known whether the service stops or restarts: %s", error)
            return True
        return not any(line.split()[1:3] == [self._unit, "stop"] for line in jobs.splitlines())


def _output(*command: str) -> str:
    """Return what a program writes to stdout. Raises OSError, also if it fails or takes over _SYSTEMCTL_S.

    The module subprocess does the same, but to import it takes 12 ms, for which clients wait at a restart.
    """
    end, other_end = os.pipe2(os.O_CLOEXEC)
    with open(end, "rb", buffering=0) as pipe:
        try:
            pid = os.posix_spawnp(
                command[0],
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, other_end, 1)],
                setsigmask=[],
            )
        finally:
            os.close(other_end)
        end_s = time.monotonic() + _SYSTEMCTL_S
        try:
            text = _read_until(pipe.fileno(), end_s)
            status = _wait_until(pid, end_s)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    if status:
        raise OSError(errno.EIO, f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return text.decode(errors="replace")


def _read_until(fd: int, end_s: float) -> bytes:
    """Return all that is read. Raises TimeoutError."""
    text = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(max(0.0, 1000 * (end_s - time.monotonic()))):
        part = os.read(fd, 4096)
        if not part:
            return text
        text += part
    raise TimeoutError(errno.ETIMEDOUT, "systemctl does not answer")


def _wait_until(pid: int, end_s: float) -> int:
    """Return the status of a child that has ended. Raises TimeoutError."""
    while time.monotonic() < end_s:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    raise TimeoutError(errno.ETIMEDOUT, "systemctl does not end")


def _address(place: str) -> str:
    """Return NOTIFY_SOCKET as socket.connect wants it, or '' if it is not set."""
    if not place.startswith(("/", "@")):
        if place:
            log.warning("NOTIFY_SOCKET is %s: only AF_UNIX sockets are supported", place)
        return ""
    return place.replace("@", "\0", 1) if place[0] == "@" else place


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return WATCHDOG_USEC in seconds, 0 if it is not for this process."""
    usec = environment.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(usec) / 1e6
