# SPDX-License-Identifier: MIT
"""The image of deploy/kubernetes: its Containerfile's steps, run in a copy of a Debian, and its daemon."""

import json
import re
import shlex
import shutil
from pathlib import Path

from support.package import REPOSITORY, in_chroot, of_python

CONTAINERFILE = REPOSITORY / "deploy/kubernetes/Containerfile"
# /mnt of in_chroot is the context. A privileged container has /dev/fuse.
_PREPARE = """
cp /mnt/resolv.conf /etc/resolv.conf
cp -R /mnt/apt.conf.d/. /etc/apt/apt.conf.d
mknod -m 666 /dev/fuse c 10 229
"""
# The daemon takes the place of the shell, so it is process 1 as in a container.
_SERVE = """
(
    until [ -S /run/memnotify/socket ] && memnotify read --path /run/memnotify/socket; do sleep 0.1; done
    as_nobody='setpriv --reuid 65534 --regid 65534 --clear-groups'
    $as_nobody memnotify wait --now --path /run/memnotify/socket 'used 1'
    echo "Uid of process 1: $(awk '/^Uid/ {print $2}' /proc/1/status)"
    kill -TERM 1
) &
"""


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile and their arguments."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    words = "\n".join(lines).replace("\\\n", "").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in words)]


def script() -> str:
    """Return the steps as a shell script; the base is the directory in which it runs."""
    steps, start = [_PREPARE], []
    for name, rest in instructions():
        match name:
            case "ARG" | "FROM":
                assert re.fullmatch(r"BASE=docker\.io/library/debian:bookworm-slim|\$\{BASE\}", rest)
            case "COPY":
                *sources, target = rest.split()
                steps.append(f"cp {' '.join(f'/mnt/{source}' for source in sources)} {target}")
            case "RUN":
                steps.append(f"sh -c {shlex.quote(rest)}")
            case "ENTRYPOINT" | "CMD":
                start += json.loads(rest)
            case _:
                raise AssertionError(f"the test does not know {name}")
    return "\n".join([*steps, _SERVE, f"exec {shlex.join(start)}"])


def test_the_image_serves(package: Path, system: Path, tmp_path: Path) -> None:
    """Its daemon is process 1, serves another user by the socket, and ends when it is asked to."""
    for file in (package, of_python(package)):
        shutil.copy(file, tmp_path)
    shutil.copy("/etc/resolv.conf", tmp_path)
    shutil.copytree("/etc/apt/apt.conf.d", tmp_path / "apt.conf.d")
    said = in_chroot(system, tmp_path, script())
    assert re.search(r"(?m)^total +\d+ pages", said), said
    assert re.search(r"(?m)^total \d+ used \d+ active \d+$", said), said
    assert "Uid of process 1: 65534" in said, said
    assert "Traceback" not in said, said
