# SPDX-License-Identifier: MIT
"""What one user can take of the daemon, and how it protects itself from the OOM killer."""

import errno
import os
import subprocess
from pathlib import Path

from support.daemon import NOBODY, TRANSPORT, Daemon

_OPEN_FIVE = """
for (1 .. 5) { open(my $file, "+<", $ARGV[0]) or last; push @opened, $file }
print scalar(@opened), " ", $! + 0, "\\n";
"""


def test_a_user_opens_so_many_files_and_no_more() -> None:
    """Root and others open more, and the user does when the first are closed."""
    with Daemon("--max-observers-per-user", "3", name="memnotify-limits") as daemon:
        os.chmod(daemon.path, 0o666)  # as udev would
        command = ["perl", "-e", _OPEN_FIVE, daemon.path]
        fds = [os.open(daemon.path, os.O_RDWR) for _ in range(5)]
        for _ in range(2):
            done = subprocess.run(command, user=NOBODY.pw_name, capture_output=True, text=True, check=True)
            assert done.stdout == f"3 {errno.EMFILE}\n", done
        for fd in fds:
            assert os.read(fd, 256).startswith(b"total ")
            os.close(fd)
        assert daemon.log.count("open is refused") in (1, 2)


def test_the_oom_killer_selects_it_late_or_the_log_says_so() -> None:
    """By hand as under the unit; the process that stays root is not selected at all."""
    with Daemon("--user", NOBODY.pw_name, name="memnotify-limits") as daemon:
        score = int(Path(f"/proc/{daemon.pid}/oom_score_adj").read_text())
        assert (score == -900) == ("oom_score_adj is" not in daemon.log)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        assert len(children) == (TRANSPORT == "fuse")
        for child in children:
            assert int(Path(f"/proc/{child}/oom_score_adj").read_text()) == (
                -1000 if score == -900 else score
            )
