# SPDX-License-Identifier: MIT
"""A libsystemd that knows memory pressure (254 or later): Debian 13's, in a cache, never installed."""

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.debian import mirror

PACKAGES = ("libsystemd0", "libsystemd-dev", "libcap2", "libc6")
# A configuration of apt's own, so that the machine's lists and packages stay as they are.
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} trixie main\n"
_CONFIGURATION = """\
Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "/nonexistent";
Dir::State::Lists "{directory}/lists";
Dir::Cache "{directory}/cache";
APT::Sandbox::User "root";
"""


class LibsystemdUnavailable(Exception):  # noqa: N818 - a state of the host, not a fault in what called
    """It is not in the cache and cannot be had; the message says why."""


class Libsystemd:
    """The library and its headers, with the C library it was made for, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.libraries = root / f"usr/lib/{platform.machine()}-linux-gnu"

    def compile(self, source: Path, binary: Path) -> list[str]:
        """Compile a C program against it, and return the command that runs it with it."""
        options = ["-Wall", "-Wextra", "-Werror", "-O2", f"-I{self.root}/usr/include"]
        # What libsystemd itself needs of a newer C library than this machine's is there when it runs.
        libraries = [f"-L{self.libraries}", "-Wl,--allow-shlib-undefined", "-l:libsystemd.so.0"]
        subprocess.run(["gcc", *options, "-o", str(binary), str(source), *libraries], check=True)
        (loader,) = self.libraries.glob("ld-linux-*.so.*")
        return [str(loader), "--library-path", str(self.libraries), str(binary)]


def libsystemd() -> Libsystemd:
    """Return the library, downloaded into the cache where it is not there yet (about 15 MB).

    The cache is $MEMNOTIFY_SYSTEMD_CACHE, or ~/.cache/memnotify/systemd. Raises LibsystemdUnavailable.
    """
    cache = Path(os.environ.get("MEMNOTIFY_SYSTEMD_CACHE") or Path.home() / ".cache/memnotify/systemd")
    root = cache / "root"
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not root.exists():
                partial = cache / "partial"
                shutil.rmtree(partial, ignore_errors=True)  # of a run that died: the lock says so
                _unpack(partial)
                (partial / "root").rename(root)
                shutil.rmtree(partial)
    return Libsystemd(root)


def _unpack(directory: Path) -> None:
    (directory / "lists/partial").mkdir(parents=True)
    (directory / "cache/archives/partial").mkdir(parents=True)
    found = mirror()
    if found is None:
        raise LibsystemdUnavailable("apt knows no mirror of Debian")
    (directory / "sources.list").write_text(_SOURCE.format(mirror=found))
    configuration = directory / "apt.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory))
    ours = {"APT_CONFIG": str(configuration)}
    _run(directory, ours, "apt-get", "update")
    _run(directory, ours, "apt-get", "download", *PACKAGES)
    for archive in directory.glob("*.deb"):
        _run(directory, {}, "dpkg", "-x", str(archive), str(directory / "root"))


def _run(directory: Path, variables: Mapping[str, str], *command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", **variables}
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise LibsystemdUnavailable(f"no {command[0]}: Debian's tools unpack libsystemd") from None
    if done.returncode != 0:
        raise LibsystemdUnavailable(f"{' '.join(command)}: {done.stderr.strip()}; is there a network?")
    return done.stdout
