# SPDX-License-Identifier: MIT
"""A kernel that has CUSE: Debian's own, unpacked into a cache directory and never installed.

The requirements of the host are checked here too: an error names what is missing and how to install it.
"""

import errno
import fcntl
import functools
import lzma
import os
import platform
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.debian import mirror

META_PACKAGE = "linux-image-amd64"
SUITE = "MEMNOTIFY_GUEST_SUITE"
"""The Debian whose kernel a guest boots, such as trixie; by default this machine's."""
TOOLS = {  # command: the Debian package that has it
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "ldd": "libc-bin",
    "setpriv": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "depmod": "kmod",
    "udevadm": "udev",  # not for the boot: the tests inside examine real nodes
}
# depmod is in /usr/sbin, which is not on every user's PATH; apt-cache translates its "Depends:".
ENVIRONMENT = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}

_STAT = """
import os, sys
try:
    os.stat(sys.argv[1])
except OSError as error:
    sys.exit(error.errno)
"""
_ANSWER_S = 10.0


class GuestUnavailable(Exception):  # noqa: N818 - a state of the host, not an error of the caller
    """This host cannot run a guest; the message has the reason and the remedy."""


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to boot: `image` is what QEMU loads, `modules` its /lib/modules/RELEASE directory."""

    image: Path
    modules: Path


def kernel(suite: str = "") -> Kernel:
    """Return the kernel to boot; download it into the cache if it is not there yet (about 70 MB).

    ``suite`` is the Debian that it is of, by default $MEMNOTIFY_GUEST_SUITE, or that of this machine. The
    cache is $MEMNOTIFY_GUEST_CACHE, or ~/.cache/memnotify/guest. Raises GuestUnavailable.
    """
    if platform.machine() != "x86_64":
        raise GuestUnavailable(f"guests are x86_64 only, and this machine is {platform.machine()}")
    missing = [name for name in TOOLS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        packages = " ".join(sorted({TOOLS[name] for name in missing}))
        raise GuestUnavailable(f"no {', '.join(missing)}: apt-get install {packages}")
    if subprocess.run(["ldd", busybox()], env=ENVIRONMENT, capture_output=True, check=False).returncode == 0:
        raise GuestUnavailable("busybox needs shared libraries: apt-get install busybox-static")
    stale = stale_fuse_mounts()
    if stale:
        raise GuestUnavailable(
            f"dead FUSE mounts would hide directories from the guest: umount -l {' '.join(stale)}"
        )
    return _kernel(suite or os.environ.get(SUITE, ""))


def busybox() -> str:
    """Return the path of the host's busybox."""
    return shutil.which("busybox", path=ENVIRONMENT["PATH"]) or ""


def stale_fuse_mounts() -> list[str]:
    """Return the mount points of FUSE mounts whose server is gone (stat fails with ENOTCONN)."""
    stale = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        mount_point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if fields[fields.index("-") + 1].startswith("fuse") and _stat(mount_point) == errno.ENOTCONN:
            stale.append(mount_point)
    return stale


def _stat(path: str) -> int:
    """Return the errno of a stat(2), 0 if it succeeds, ETIMEDOUT if there is no answer.

    In a process of its own: a server that was stopped, as by a test that was killed, answers never, and a
    request that it has read cannot be killed (fs/fuse/dev.c:request_wait_answer).
    """
    pid = os.posix_spawn(sys.executable, [sys.executable, "-IS", "-c", _STAT, path], ENVIRONMENT)
    end = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(end, select.POLLIN)
        if poller.poll(_ANSWER_S * 1000):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.kill(pid, signal.SIGKILL)
    finally:
        os.close(end)
    return errno.ETIMEDOUT


@functools.cache  # apt-cache takes 0.6 s, and its answer is the same for all boots of one run
def _kernel(suite: str) -> Kernel:
    lists = _lists(suite) if suite else ()
    try:
        directory = _newest(lists)
    except GuestUnavailable:
        if os.geteuid() != 0 and not suite:
            raise
        # The package lists are missing, or so old that the archive no longer has their kernel.
        output("apt-get", *lists, "update")
        directory = _newest(lists)
    modules = next((directory / "lib/modules").iterdir())
    return Kernel(image=directory / "kernel", modules=modules)


def _lists(suite: str) -> tuple[str, ...]:
    """Return apt's options for the package lists of a Debian, kept in the cache. Raises GuestUnavailable."""
    source = mirror()
    if source is None:
        raise GuestUnavailable("apt knows no mirror of Debian")

    def make(directory: Path) -> None:
        (directory / "lists/partial").mkdir(parents=True)
        (directory / "archives/partial").mkdir(parents=True)
        (directory / "sources.list").write_text(f"deb {source} {suite} main\n")

    directory = cached(f"apt-{suite}", make)
    options = {
        "Dir::Etc::SourceList": directory / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": directory / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": directory,
        "APT::Sandbox::User": "root",
    }
    return tuple(f"--option={name}={value}" for name, value in options.items())


def _newest(lists: Sequence[str]) -> Path:
    """Return the directory of the kernel that the package lists name. Raises GuestUnavailable."""
    found = re.search(r"Depends: (linux-image-\S+)", output("apt-cache", *lists, "depends", META_PACKAGE))
    if found is None:
        raise GuestUnavailable(f"apt-cache names no kernel for {META_PACKAGE}: run apt-get update")
    return cached(found[1], functools.partial(_unpack, found[1], lists))


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the directory of that name in the cache; `make` fills it if it is not there yet."""
    cache = Path(os.environ.get("MEMNOTIFY_GUEST_CACHE") or Path.home() / ".cache/memnotify/guest")
    directory = cache / name
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(
                lock, fcntl.LOCK_EX
            )  # a second run waits here, then finds the directory of the first one
            if not directory.exists():
                partial = cache / "partial"
                # Left by a run that died: the holder of the lock is the only user.
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(directory)
    return directory


def _unpack(package: str, lists: Sequence[str], directory: Path) -> None:
    """Download `package` and put the files that a boot needs into `directory`."""
    output("apt-get", *lists, "download", package, cwd=directory)
    (archive,) = directory.glob("*.deb")
    output("dpkg", "-x", str(archive), str(directory))
    archive.unlink()
    if not (directory / "lib").exists():  # newer packages have /usr/lib/modules; depmod -b searches /lib
        (directory / "lib").symlink_to("usr/lib")
    (modules,) = (directory / "lib/modules").iterdir()
    output("depmod", "-b", str(directory), modules.name)
    (image,) = (directory / "boot").glob("vmlinuz-*")
    (directory / "kernel").write_bytes(_decompressed(image.read_bytes()))


def _decompressed(image: bytes) -> bytes:
    """Return the kernel inside a bzImage if it is packed with xz, else the bzImage itself, as with zstd.

    QEMU starts an unpacked kernel directly, through its PVH entry: a script ends after 2.4 s. If an emulated
    processor unpacks xz, that is 5.2 s; with zstd it is no slower than an unpacked one. The
    offsets are those of the x86 boot protocol from 2.08 on.
    """
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        return image
    return lzma.LZMADecompressor().decompress(payload)  # not lzma.decompress: the payload ends with its size


def output(*command: str, cwd: Path | None = None) -> str:
    """Return the output of a command. Raises GuestUnavailable with its stderr if it fails."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        hint = "; are the package lists old? apt-get update" if command[0].startswith("apt") else ""
        raise GuestUnavailable(f"{' '.join(command)}: {done.stderr.strip()}{hint}")
    return done.stdout
