# SPDX-License-Identifier: MIT
"""The unit of an ordinary user, under that user's manager: systemctl --user."""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.unit import NAME, NODE, drop_in, systemctl
from support.waiting import eventually

USER = "tester"
LOGIND = "systemd-logind.service"


class Session:
    """What the user runs, with the variables of a login."""

    def __init__(self) -> None:
        self.uid = pwd.getpwnam(USER).pw_uid
        self.runtime = Path(f"/run/user/{self.uid}")
        self.device = self.runtime / "memnotify"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; fail the test if it fails."""
        done = subprocess.run(
            command,
            user=self.uid,
            group=pwd.getpwnam(USER).pw_gid,
            extra_groups=(),
            env={"PATH": os.environ["PATH"], "HOME": f"/home/{USER}", "XDG_RUNTIME_DIR": str(self.runtime)},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done}"
        return done

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.run("systemctl", "--user", "show", f"--property={name}", "--value", NAME).stdout.strip()


@pytest.fixture
def session() -> Iterator[Session]:
    """Return the session of a user with a manager of their own, on a machine without /dev/memnotify."""
    assert not os.path.lexists(NODE)
    masked = Path("/run/systemd/system", LOGIND)
    with ExitStack() as undo:
        # The guest boots without it; user-runtime-dir@.service asks it for the size of the directory.
        target = masked.readlink()
        masked.unlink()
        undo.callback(systemctl, "daemon-reload")
        undo.callback(masked.symlink_to, target)
        undo.callback(systemctl, "stop", LOGIND)
        systemctl("daemon-reload")
        subprocess.run(["useradd", "--create-home", USER], check=True)
        undo.callback(subprocess.run, ["userdel", "--remove", USER], check=True)
        session = Session()
        # What pam_systemd does at a login; it is in a package that this root lacks.
        undo.enter_context(drop_in("[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n", "user@.service"))
        systemctl("start", f"user@{session.uid}.service")
        undo.callback(systemctl, "stop", f"user@{session.uid}.service")
        yield session


def test_a_user_s_own_service(session: Session) -> None:
    """It serves the file that commands find, reloads, restarts after a crash, and leaves nothing."""
    session.run("systemctl", "--user", "enable", "--now", NAME)
    enabled = Path(f"/home/{USER}/.config/systemd/user/default.target.wants", NAME)
    assert enabled.resolve() == Path("/usr/lib/systemd/user", NAME)
    # Root cannot even look at another user's FUSE file.
    assert str(session.device) in Path("/proc/self/mountinfo").read_text()
    assert session.run("memnotify", "read").stdout.startswith("total ")
    assert session.run("head", "-n", "1", str(session.device)).stdout.startswith("total ")
    session.run("memnotify", "wait", "--now", "--timeout", "30", "used 1K")
    session.run("memnotify", "doctor", "--timeout", "60")

    pid = session.show("MainPID")
    session.run("systemctl", "--user", "reload", NAME)
    assert session.show("MainPID") == pid

    os.kill(int(pid), signal.SIGKILL)
    eventually(
        lambda: session.show("ActiveState") == "active" and session.show("MainPID") != pid,
        "the manager has started it again",
    )
    session.run("memnotify", "read")

    session.run("systemctl", "--user", "stop", NAME)
    assert str(session.device) not in Path("/proc/self/mountinfo").read_text()
    assert not os.path.lexists(session.device)
