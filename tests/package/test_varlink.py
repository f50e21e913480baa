# SPDX-License-Identifier: MIT
"""The status socket and Debian 13's varlinkctl(1), a Varlink client that is not this project's."""

import json
from pathlib import Path

from guest.kernel import GuestUnavailable
from guest.root import minbase
from support.daemon import Daemon
from support.package import in_chroot
from support.require import unavailable

SCRIPT = """
    varlinkctl info /mnt/status
    varlinkctl introspect /mnt/status org.memnotify.Daemon
    varlinkctl call --json=short /mnt/status org.memnotify.Daemon.GetStatus '{"observers": false}'
"""


def test_varlinkctl(tmp_path: Path) -> None:
    """It understands the interface's description, and the reply is a status."""
    try:
        system = minbase("trixie", "systemd")
    except GuestUnavailable as missing:
        unavailable(str(missing))
    with Daemon("--status-socket", str(tmp_path / "status")) as daemon:
        said = in_chroot(system, tmp_path, SCRIPT)
    assert "method GetStatus(" in said
    status = json.loads(said.strip().splitlines()[-1])
    assert (status["pid"], status["observers"]) == (daemon.pid, [])


def test_a_missing_method(tmp_path: Path) -> None:
    try:
        system = minbase("trixie", "systemd")
    except GuestUnavailable as missing:
        unavailable(str(missing))
    script = "varlinkctl call /mnt/status org.memnotify.Daemon.Nothing '{}' || echo ended with $?"
    with Daemon("--status-socket", str(tmp_path / "status")):
        said = in_chroot(system, tmp_path, script)
    assert "org.varlink.service.MethodNotFound" in said
    assert "ended with 1" in said
