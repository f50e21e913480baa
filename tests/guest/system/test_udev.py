# SPDX-License-Identifier: MIT
"""The udev daemon of the boot, and the rule for the node."""

import grp
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.unit import DEVICE, NAME, NODE, client, file, mode, serves, show, state, systemctl
from support.waiting import eventually

RULES = "99-memnotify.rules"
INSTALLED = Path("/usr/lib/udev/rules.d") / RULES
OVERRIDE = Path("/etc/udev/rules.d") / RULES


@pytest.fixture(autouse=True)
def _stopped() -> Iterator[None]:
    yield
    systemctl("stop", NAME)
    assert not os.path.lexists(NODE)


@contextmanager
def _rules(text: str) -> Iterator[None]:
    """Give udev other rules during the block, in the administrator's place."""
    try:
        with file(OVERRIDE, text):
            subprocess.run(["udevadm", "control", "--reload"], check=True)
            yield
    finally:
        subprocess.run(["udevadm", "control", "--reload"], check=True)


def test_the_node_is_there_without_the_module_and_loads_it() -> None:
    subprocess.run(["modprobe", "--remove", "cuse"], check=True)
    try:
        assert not Path("/dev/cuse").exists()
        systemctl("restart", "kmod-static-nodes.service", "systemd-tmpfiles-setup-dev.service")
        assert Path("/dev/cuse").exists()
        assert not Path("/sys/module/cuse").exists()
        os.close(os.open("/dev/cuse", os.O_RDWR))
        assert Path("/sys/module/cuse").exists()
    finally:
        subprocess.run(["modprobe", "cuse"], check=True)


def test_the_service_loads_the_module() -> None:
    subprocess.run(["modprobe", "--remove", "cuse"], check=True)
    systemctl("start", NAME)
    assert Path("/sys/module/cuse").exists()
    assert "a CUSE character device" in show("StatusText")


def test_before_the_rule_a_user_is_refused() -> None:
    with _rules("# nothing\n"):
        systemctl("start", NAME)
        assert mode() == 0o600
        done = client()
        assert (done.returncode, "cannot open device" in done.stdout) == (255, True), done
        # And why: by another program, as that one does not say.
        head = subprocess.run(
            ["head", "-c", "1", NODE],
            user="nobody", group="nogroup", extra_groups=(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (head.returncode, "Permission denied" in head.stderr) == (1, True), head
        systemctl("stop", NAME)
    systemctl("start", NAME)
    assert mode() == 0o666
    assert client().returncode == 0


def test_a_changed_rule_is_honoured() -> None:
    text = INSTALLED.read_text().replace('MODE="0666"', 'MODE="0660", GROUP="memory"')
    assert 'GROUP="memory"' in text
    subprocess.run(["groupadd", "--system", "memory"], check=True)
    try:
        with _rules(text):
            systemctl("start", NAME)
            assert (mode(), os.stat(NODE).st_gid) == (0o660, grp.getgrnam("memory").gr_gid)
            assert client().returncode == 255
            assert client(groups=("memory",)).returncode == 0
    finally:
        subprocess.run(["groupdel", "memory"], check=True)


def test_it_is_not_ready_before_udev_has_done() -> None:
    subprocess.run(["udevadm", "control", "--stop-exec-queue"], check=True)
    try:
        systemctl("start", "--no-block", NAME)
        eventually(lambda: os.path.exists(NODE), "the node is born")
        # It serves root meanwhile, the only user that can open the device.
        subprocess.run(["memnotify", "read"], stdout=subprocess.DEVNULL, check=True)
        assert (state(), mode(), serves()) == ("activating", 0o600, False)
    finally:
        subprocess.run(["udevadm", "control", "--start-exec-queue"], check=True)
    eventually(lambda: state() != "activating", "it is ready")
    assert (state(), mode(), serves()) == ("active", 0o666, True)


def test_how_long_the_node_has_another_mode(record_property: Callable[[str, object], None]) -> None:
    systemctl("start", NAME)
    born = subprocess.run(["stat", "--format=%.6W", NODE], capture_output=True, text=True, check=True).stdout
    born_s, final_s = float(born), os.stat(NODE).st_ctime
    to_real_s = time.time() - time.monotonic()
    ready_s = int(show("ActiveEnterTimestampMonotonic")) / 1e6 + to_real_s
    record_property("from the node's birth to its final mode, ms", round(1000 * (final_s - born_s), 1))
    record_property("from the node's birth to active, ms", round(1000 * (ready_s - born_s), 1))
    assert 0 < born_s <= final_s < ready_s


WATCHER = f"""
[Unit]
BindsTo={DEVICE}
After={DEVICE}
[Service]
ExecStart=/bin/sleep infinity
"""


def test_other_units_can_wait_for_the_device_and_end_with_it() -> None:
    with file(Path("/run/systemd/system/watcher.service"), WATCHER):
        systemctl("daemon-reload")
        systemctl("start", "--no-block", "watcher.service")
        assert state("watcher.service") == "inactive"
        systemctl("start", NAME)
        eventually(lambda: state("watcher.service") == "active", "it is started")
        assert state(DEVICE) == "active"
        systemctl("stop", NAME)
        eventually(lambda: state("watcher.service") == "inactive", "it is stopped")
        assert state(DEVICE) == "inactive"
