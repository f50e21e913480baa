# SPDX-License-Identifier: MIT
"""A daemon whose stderr is closed, or takes nothing."""

import os
import signal

import pytest
from support.daemon import PROGRAM, start
from support.waiting import DEADLINE_S, eventually

PATH = "/dev/memnotify-mute"


def _answers() -> bool:
    try:
        with open(PATH, "rb", buffering=0) as device:
            return device.read(256).startswith(b"total ")
    except OSError:
        return False


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_it_serves_and_ends_as_if_it_had_one(redirection: str) -> None:
    program = ("sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM)
    name = os.path.basename(PATH)
    process = start("--transport", "fuse", "--name", name, "--log-level", "debug", program=program)
    eventually(_answers, "it serves")
    process.send_signal(signal.SIGHUP)  # a reload has lines for the log
    assert _answers()
    process.terminate()
    assert process.communicate(timeout=DEADLINE_S)[1] == ""
    assert process.returncode == 0
    assert not os.path.lexists(PATH)
