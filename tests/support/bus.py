# SPDX-License-Identifier: MIT
"""A private system bus."""

import shutil
from pathlib import Path

from support.program import Program
from support.require import unavailable

# Like Debian's system bus: a file in system.d allows each name to be owned.
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:path={directory}/bus</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <includedir>{directory}/system.d</includedir>
</busconfig>
"""


class Bus:
    """A dbus-daemon, and the environment in which programs find it."""

    def __init__(self, directory: Path, *policies: Path) -> None:
        if shutil.which("dbus-daemon") is None:
            unavailable("dbus-daemon is not installed: apt install dbus")
        (directory / "system.d").mkdir(parents=True)
        for policy in policies:
            shutil.copy(policy, directory / "system.d")
        (directory / "bus.conf").write_text(_BUS.format(directory=directory))
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus"}
        self.program = Program(
            "dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--print-address"
        )
        self.program.hear("unix:")
