# SPDX-License-Identifier: MIT
"""Least privilege: root becomes another user permanently, once all that needs root is done."""

import logging
import os
import pwd
import re
from contextlib import suppress
from typing import NamedTuple

from memnotify.kernel.syscalls import (
    forbid_new_privileges,
    keep_capabilities,
    limit_capabilities,
    process_status,
)

log = logging.getLogger(__name__)

# setresuid(2) and setresgid(2) take it as "leave unchanged".
_NO_ID = 2**32 - 1
_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


class PrivilegesError(Exception):
    """This process cannot become the user; the text says what to do."""


class User(NamedTuple):
    """A user that root can become."""

    name: str
    uid: int
    gid: int


def find_user(text: str) -> User | None:
    """Return the user that a name, UID or UID:GID means, or None if this process has that user already.

    Raises PrivilegesError.
    """
    user = _look_up(text)
    if user.uid == os.geteuid():
        if user.uid == 0:
            raise PrivilegesError(f"--user {text} is root itself: choose an ordinary user")
        return None
    if os.geteuid() != 0:
        raise PrivilegesError(
            f"only root can become user {text}: start as root or as {text}, or leave --user out"
        )
    return user


def _look_up(text: str) -> User:
    numbers = re.fullmatch("([0-9]{1,10})(?::([0-9]{1,10}))?", text)
    if numbers is None:
        try:
            entry = pwd.getpwnam(text)
        except KeyError:
            raise PrivilegesError(
                f"there is no user {text!r}: create it (systemd-sysusers, or useradd --system {text}),"
                " or choose another --user"
            ) from None
        return User(text, entry.pw_uid, entry.pw_gid)
    uid, gid = int(numbers[1]), int(numbers[2] or 0)
    if max(uid, gid) >= _NO_ID:
        raise PrivilegesError(f"--user {text}: a number must be less than {_NO_ID}")
    try:
        return User(text, uid, gid if numbers[2] else pwd.getpwuid(uid).pw_gid)
    except KeyError:
        raise PrivilegesError(f"user {text} has no entry that gives its group: give --user UID:GID") from None


def become(user: User) -> None:
    """Become ``user`` permanently, without capabilities, and with the user's first group only.

    Threads: the only one; another thread would keep its rights. Raises PrivilegesError. The caller must then
    exit, because some rights may be lost.
    """
    before = process_status()
    if before["Threads"] != "1":
        raise PrivilegesError("there is more than one thread, and each thread has its own rights")
    try:
        limit_future_capabilities(0)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        keep_capabilities()
        forbid_new_privileges()
    except OSError as error:
        raise PrivilegesError(
            f"cannot become user {user.name} permanently ({error.strerror}): this needs CAP_SETUID and"
            " CAP_SETGID (CapabilityBoundingSet= of a unit)"
        ) from error
    _verify(user)
    log.info(
        "root is given up permanently: user %s (%d), group %d only, no new privileges,"
        " all %d capabilities dropped",
        user.name,
        user.uid,
        user.gid,
        int(before["CapPrm"], 16).bit_count(),
    )


def _verify(user: User) -> None:
    """Check the result in /proc, and try to become root again. Raises PrivilegesError."""
    now = process_status()
    wanted = {"Uid": [str(user.uid)] * 4, "Gid": [str(user.gid)] * 4, "Groups": [], "NoNewPrivs": ["1"]}
    wrong = [f"{name} is {now[name]}" for name, words in wanted.items() if now[name].split() != words]
    wrong += [f"{name} is {now[name]}" for name in _SETS if int(now[name], 16)]
    with suppress(OSError):
        os.setresuid(0, 0, 0)
        wrong.append("this process can become root again")
    if wrong:
        raise PrivilegesError(f"some rights were not given up, so no client is served: {', '.join(wrong)}")


def limit_future_capabilities(kept: int) -> None:
    """Limit the capabilities that this process can gain. Without CAP_SETPCAP only no_new_privs does that."""
    try:
        limit_capabilities(kept)
    except PermissionError:
        log.debug("no CAP_SETPCAP: the bounding set of capabilities stays as it is")
