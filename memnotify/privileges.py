# SPDX-License-Identifier: MIT
"""Least privilege: root, once it has what only root may have, becomes another user, for good.

What only root may remove at the end is left to a process that waits for the end and can do nothing else.
"""

import logging
import os
import pwd
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple, NoReturn, Protocol

from memnotify.system import (
    CAP_DAC_OVERRIDE,
    CAP_SYS_ADMIN,
    forbid_new_privileges,
    keep_capabilities,
    limit_capabilities,
    process_status,
)

log = logging.getLogger(__name__)

_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
# More than there can be (fs.nr_open).
_FDS = 1 << 30
# To unmount, and to remove files from folders of any user.
_TO_REMOVE = 1 << CAP_SYS_ADMIN | 1 << CAP_DAC_OVERRIDE


class Removal(Protocol):
    """Something to remove."""

    @property
    def fds(self) -> Collection[int]:
        """The descriptors that ``remove`` uses."""

    def remove(self) -> object:
        """Remove it."""


class PrivilegesError(Exception):
    """This process cannot become the user; the text says what to do."""


class User(NamedTuple):
    """A user that root can become."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User | None:
    """Return the user of that name, None if this process is run by it already. Raises PrivilegesError."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegesError(
            f"there is no user {name!r}: create it (systemd-sysusers, or useradd --system {name}),"
            " or choose another --user"
        ) from None
    if entry.pw_uid == os.geteuid():
        if entry.pw_uid == 0:
            raise PrivilegesError(f"--user {name} is root itself: choose one without rights, or leave it out")
        return None
    if os.geteuid() != 0:
        raise PrivilegesError(
            f"only root can become user {name}: start as root or as {name}, or leave --user out"
        )
    return User(name, entry.pw_uid, entry.pw_gid)


def become(user: User) -> None:
    """Become ``user`` for good, without any capability or group but its first.

    Before there is a second thread, which would stay what it was. Raises PrivilegesError: whoever sees it
    must not go on, as part of it may be done.
    """
    before = process_status()
    if before["Threads"] != "1":
        raise PrivilegesError("there is more than one thread, and rights are a thread's")
    try:
        _limit(0)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        keep_capabilities()
        forbid_new_privileges()
    except OSError as error:
        raise PrivilegesError(
            f"cannot become user {user.name} for good ({error.strerror}): it takes CAP_SETUID and CAP_SETGID"
            " (CapabilityBoundingSet= of a unit)"
        ) from error
    _verify(user)
    log.info(
        "root is given up for good: user %s (%d), group %d and no other, no new privileges,"
        " none of the %d capabilities",
        user.name,
        user.uid,
        user.gid,
        int(before["CapPrm"], 16).bit_count(),
    )


def _verify(user: User) -> None:
    """Look at what the kernel says of it, and try to go back. Raises PrivilegesError."""
    now = process_status()
    wanted = {"Uid": [str(user.uid)] * 4, "Gid": [str(user.gid)] * 4, "Groups": [], "NoNewPrivs": ["1"]}
    wrong = [f"{name} is {now[name]}" for name, words in wanted.items() if now[name].split() != words]
    wrong += [f"{name} is {now[name]}" for name in _SETS if int(now[name], 16)]
    with suppress(OSError):
        os.setresuid(0, 0, 0)
        wrong.append("root can be had again")
    if wrong:
        raise PrivilegesError(f"rights were not all given up, so nobody is served: {', '.join(wrong)}")


def _limit(kept: int) -> None:
    """Limit future capabilities, too, if there is CAP_SETPCAP: without new privileges none can be gained."""
    try:
        limit_capabilities(kept)
    except PermissionError:
        log.debug("no CAP_SETPCAP: the capabilities' bounding set stays as it is")


class Remover:
    """A process that stays root, waits until this one has ended, however it ends, and then removes things.

    It has at most two capabilities, none to gain and no descriptor but 0 to 2 and those that removing takes,
    and no signal but SIGKILL reaches it. To be made while there is one thread, before ``become``.
    """

    def __init__(self, removals: Collection[Removal]) -> None:
        # All that has ended this process, when there is no other writer left.
        end, self._end = os.pipe2(os.O_CLOEXEC)
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _remove_at(end, removals)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(end)

    def close(self) -> None:
        """Let it remove, and wait until it has."""
        os.close(self._end)
        _, status = os.waitpid(self._pid, 0)
        if status:
            log.warning(
                "what was to be removed may be left: its process ended with %d",
                os.waitstatus_to_exitcode(status),
            )


def _remove_at(end: int, removals: Collection[Removal]) -> NoReturn:
    """Be that process."""
    status = 1
    try:
        keep = sorted({0, 1, 2, end}.union(*(removal.fds for removal in removals)))
        # Above all the connection's own: as long as that is open somewhere, clients wait for an answer.
        for fd, following in zip(keep, [*keep[1:], _FDS], strict=True):
            os.closerange(fd + 1, following)
        # A service may have been given less, and root needs none in its own folders.
        capabilities = _TO_REMOVE & int(process_status()["CapPrm"], 16)
        _limit(capabilities)
        keep_capabilities(capabilities)
        forbid_new_privileges()
        with open("/proc/self/comm", "w", encoding="utf-8") as name:
            name.write("memnotify-rm")  # beside the daemon's own in ps
        os.read(end, 1)
        left = 0
        for removal in removals:
            try:
                removal.remove()
            except OSError as error:
                log.warning("what was to be removed is left: %s", error)
                left = 1
        status = left
    except Exception:
        log.exception("what was to be removed is left")
    finally:
        os._exit(status)
