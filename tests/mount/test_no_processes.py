# SPDX-License-Identifier: MIT
"""RLIMIT_NPROC is reached: the daemon can start neither a thread nor another program."""

import os
import signal
import subprocess
from pathlib import Path

from support.daemon import NOBODY, PROGRAM, Daemon, start
from support.waiting import DEADLINE_S, eventually

NAME = "memnotify-nproc"
# Root has no such limit (kernel/fork.c:copy_process).
USER = ("--user", NOBODY.pw_name)


def test_a_start_ends_with_one_line() -> None:
    """No mount is left behind."""
    process = start(
        "--transport", "fuse", "--name", NAME, *USER, program=("prlimit", "--nproc=1:1", *PROGRAM)
    )
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, log
    assert log.count("cannot be started") == 1, log
    assert "Traceback" not in log
    assert not os.path.lexists(f"/dev/{NAME}")
    assert NAME not in Path("/proc/self/mountinfo").read_text()


def test_a_daemon_that_cannot_start_a_program_is_not_replaced() -> None:
    """It goes on as it is."""
    with Daemon(*USER, transport="fuse", name=NAME) as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        # By the same user, as root may lack CAP_SYS_RESOURCE.
        subprocess.run(
            ["prlimit", f"--pid={daemon.pid}", "--nproc=1:1"],
            user=NOBODY.pw_uid,
            group=NOBODY.pw_gid,
            extra_groups=(),
            check=True,
        )
        daemon.process.send_signal(signal.SIGUSR2)
        eventually(lambda: "not replaced: " in daemon.log, "it says so")
        assert os.read(fd, 256).startswith(b"total ")
        os.close(fd)
