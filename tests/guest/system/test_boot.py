# SPDX-License-Identifier: MIT
"""The result of the boot itself; this module runs first, by its name."""

import pwd
from pathlib import Path

from support.unit import NAME, show


def test_the_module_is_loaded() -> None:
    assert show("ExecMainStartTimestampMonotonic") == "0"
    assert Path("/sys/module/cuse").exists()


def test_the_user_is_there() -> None:
    user = pwd.getpwnam("memnotify")
    assert 0 < user.pw_uid < 1000
    assert user.pw_shell == "/usr/sbin/nologin"
    assert show("LoadState", NAME) == "loaded"
