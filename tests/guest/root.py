# SPDX-License-Identifier: MIT
"""A Debian with systemd to boot in a guest, made once in the cache directory and never changed."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from guest.kernel import GuestUnavailable, cached, output
from guest.vm import REPOSITORY
from support.debian import mirror

PACKAGES = (
    # The system.
    "systemd",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "procps",
    # Containers.
    "bubblewrap",
    "systemd-container",
    # Dependencies of memnotify.
    "python3",
    "python3-cffi-backend",
    "fuse3",  # and libfuse3, whose package has another name in each Debian
)


def debian() -> Path:
    """Return the root directory of a small Debian with systemd (270 MB). Raises GuestUnavailable."""
    return minbase("bookworm", *PACKAGES)


def minbase(suite: str, *names: str) -> Path:
    """Return the root directory of a Debian with its essential packages and these.

    If the cache does not have it, make it (20 s). Raises GuestUnavailable.
    """
    if os.geteuid() != 0:
        raise GuestUnavailable("only root can make a root directory: run as root")
    if shutil.which("mmdebstrap") is None:
        raise GuestUnavailable("no mmdebstrap: apt-get install mmdebstrap")
    source = mirror()
    if source is None:
        raise GuestUnavailable("apt knows no mirror of Debian")
    packages = ",".join(names)

    def make(directory: Path) -> None:
        output(
            "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={packages}",
            suite, str(directory), source,
        )  # fmt: skip

    return cached(f"{suite}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}", make)


def install(directory: Path) -> None:
    """Make `directory` a layer for such a root, with memnotify where a package has its files."""
    command = ["make", "--silent", "install", "prefix=/usr", f"DESTDIR={directory}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
