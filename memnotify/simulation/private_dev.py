# SPDX-License-Identifier: MIT
"""A /dev of this process's own, in which a device can be made that no other process sees."""

import os
from contextlib import suppress

from memnotify.kernel.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NOSUID,
    MS_REC,
    MS_SLAVE,
    mount,
    unshare,
)

_DEV = "/dev"


def enter_private_dev(without: str) -> bool:
    """Give this process and its children a copy of /dev that lacks the name ``without``.

    Mounts in it are seen nowhere else. If this process may not make a mount namespace, it makes a user
    namespace too, in which it keeps its user and group. The process must have one thread. If the kernel
    permits neither, return False and change nothing. Raises OSError.
    """
    if not _unshare():
        return False
    mount("none", "/", "", MS_REC | MS_SLAVE)
    # The old /dev stays reachable through its descriptor.
    old = os.open(_DEV, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount("memnotify", _DEV, "tmpfs", MS_NOSUID, "mode=0755")
        with os.scandir(f"/proc/self/fd/{old}") as entries:
            for entry in entries:
                if entry.name != without:
                    # A device may go meanwhile, and a FUSE file may have lost its server.
                    with suppress(OSError):
                        _bring_over(entry, f"{_DEV}/{entry.name}")
    finally:
        os.close(old)
    return True


def _unshare() -> bool:
    try:
        unshare(CLONE_NEWNS)
    except PermissionError:
        maps = {
            "setgroups": "deny",
            "uid_map": f"{os.geteuid()} {os.geteuid()} 1",
            "gid_map": f"{os.getegid()} {os.getegid()} 1",
        }
        try:
            unshare(CLONE_NEWUSER | CLONE_NEWNS)
        except OSError:
            return False
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                file.write(text)
    return True


def _bring_over(entry: "os.DirEntry[str]", target: str) -> None:
    # Use the type in the directory: stat() of a FUSE file waits for its server, which may hang.
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    if entry.is_dir(follow_symlinks=False):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    # Recursive: in a user namespace the kernel does not separate mounts that were inherited together
    # (fs/namespace.c:has_locked_children).
    mount(entry.path, target, "", MS_BIND | MS_REC)
