# SPDX-License-Identifier: MIT
"""memnotify.service under systemd as process 1."""

import json
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import status
from support.memory import Hog, step_pages, used_pages
from support.program import Program
from support.restarts import GATE, check_restarts
from support.unit import (
    CLIENT,
    DEVICE,
    NAME,
    NODE,
    drop_in,
    file,
    log,
    main_pid,
    serves,
    show,
    state,
    systemctl,
)
from support.waiting import eventually

CONFIGURATION = Path("/etc/memnotify/memnotify.toml.d/test.toml")


@pytest.fixture(scope="module")
def started() -> None:
    """Start the service; a test that stops it or has it die sees that it runs again."""
    systemctl("start", NAME)


@pytest.fixture
def fd(started: None) -> Iterator[int]:
    opened = os.open(NODE, os.O_RDWR | os.O_CLOEXEC)
    yield opened
    os.close(opened)


def starts() -> bool:
    """Return True if systemctl start succeeds."""
    return (
        subprocess.run(["systemctl", "start", NAME], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


def analyzed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Return the output of systemd-analyze, which must succeed."""
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=True)


def test_active_means_that_a_user_can_open_it() -> None:
    assert not os.path.exists(NODE)
    systemctl("start", NAME)
    assert serves()


def test_status_tells_what_it_serves_and_to_how_many(fd: int) -> None:
    eventually(lambda: "clients: 1" in show("StatusText"), "its status says so")
    assert show("StatusText").startswith(f"{NODE}, a CUSE character device")
    assert f'Status: "{NODE}' in systemctl("status", "--no-pager", NAME)


def test_a_user_s_program_is_woken(started: None) -> None:
    with Hog() as hog:
        opened = os.open(NODE, os.O_RDONLY)
        threshold = used_pages(opened) + step_pages()
        os.close(opened)
        with Program(CLIENT, f"used {threshold}", user="nobody") as program:
            program.settle()
            hog.hold(2 * step_pages())
            assert program.end(0) == 0
    assert program.lines[-1].startswith("--> memory figures reached 'total "), program.lines


def test_nothing_that_it_wants_is_kept_from_it(started: None) -> None:
    # What could not be had is said in the log, at level info.
    said = log()
    assert "pages are not counted" not in said
    assert "pressure" not in said
    assert "not locked" not in said
    assert log("--priority=warning") == ""
    pid = main_pid()
    held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert "/proc/pressure/memory" in held
    assert "anon_inode:[perf_event]" in held
    process = Path(f"/proc/{pid}/status")
    assert status(process, "VmLck") > 0.9 * status(process, "VmSize")
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "-900\n"
    assert re.search(r"(?m)^Max open files +16384 +524288 ", Path(f"/proc/{pid}/limits").read_text())


def test_it_is_root_no_more(started: None) -> None:
    process = Path(f"/proc/{main_pid()}/status").read_text()
    user = pwd.getpwnam("memnotify")
    assert re.search(rf"(?m)^Uid:(\t{user.pw_uid}){{4}}$", process), process
    assert re.search(rf"(?m)^Gid:(\t{user.pw_gid}){{4}}$", process), process
    assert re.search(r"(?m)^Groups:\t *$", process), process
    for name in "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
        assert f"{name}:\t0000000000000000\n" in process
    assert "NoNewPrivs:\t1\n" in process
    assert "Seccomp:\t2\n" in process


def test_reload_takes_over_what_has_changed(fd: int) -> None:
    pid = main_pid()
    with file(CONFIGURATION, "update_period = 100\n"):
        systemctl("reload", NAME)
        eventually(lambda: "changed: update_period\n" in log(), "it says what has changed")
    assert (state(), main_pid()) == ("active", pid)
    assert os.read(fd, 256).startswith(b"total ")


def test_reload_refuses_what_is_wrong_and_goes_on(fd: int) -> None:
    with file(CONFIGURATION, "update_period = 'soon'\n"):
        done = subprocess.run(["systemctl", "reload", NAME], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        eventually(lambda: f"{CONFIGURATION}" in log(), "the log says where")
    assert state() == "active"
    assert os.read(fd, 256).startswith(b"total ")
    systemctl("reload", NAME)


def test_a_wrong_configuration_at_the_start_is_not_tried_again() -> None:
    systemctl("stop", NAME)
    with file(CONFIGURATION, "update_period = 'soon'\n"):
        assert (
            subprocess.run(["systemctl", "start", NAME], stderr=subprocess.DEVNULL, check=False).returncode
            != 0
        )
        assert (state(), show("ExecMainStatus"), show("NRestarts")) == ("failed", "2", "0")
        assert str(CONFIGURATION) in log("--priority=err")
    systemctl("start", NAME)


def test_killed_it_is_there_again(fd: int) -> None:
    """And its client has kept its open file."""
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: state() == "active" and main_pid() not in {0, pid}, "it was started again")
    assert serves()
    assert "took over 1 clients" in log()
    assert os.read(fd, 256).startswith(b"total ")


def test_any_user_may_ask_for_its_status_after_restarts_as_well(fd: int) -> None:
    """The command needs no option, and the socket is there for each process and each program."""

    def restart() -> None:
        systemctl("restart", NAME)

    def replace() -> None:
        times = log().count("took over 1 clients")
        os.kill(main_pid(), signal.SIGUSR2)
        eventually(lambda: log().count("took over 1 clients") > times, "the new program serves")

    for change in (restart, replace, replace, restart):
        command = ["memnotify", "status", "--json"]
        done = subprocess.run(command, user="nobody", group="nogroup", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        status = json.loads(done.stdout)
        assert (status["pid"], status["path"]) == (main_pid(), NODE)
        assert (status["observer_count"], status["observers"]) == (1, [])
        change()


def test_clients_do_not_notice_a_restart(
    started: None, record_property: Callable[[str, object], None]
) -> None:
    with drop_in(GATE):
        check_restarts("CUSE", record_property)


def test_hung_it_is_killed_and_there_again(started: None) -> None:
    with drop_in("[Service]\nWatchdogSec=3\n"):
        systemctl("restart", NAME)
        pid = main_pid()
        # Alive, it is left alone.
        first = show("WatchdogTimestampMonotonic")
        eventually(lambda: show("WatchdogTimestampMonotonic") != first, "it says that it lives")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: show("Result") == "watchdog", "systemd has noticed")
        eventually(lambda: state() == "active" and main_pid() not in {0, pid}, "it was started again")
        assert serves()
    systemctl("restart", NAME)


def test_restart_and_stop(started: None) -> None:
    pid = main_pid()
    systemctl("restart", NAME)
    assert main_pid() != pid
    assert serves()
    pid = main_pid()
    systemctl("stop", NAME)
    assert (state(), show("Result")) == ("inactive", "success")
    # systemd closes its descriptors in a thread (asynchronous_close).
    eventually(lambda: not os.path.lexists(NODE), "the device is gone")
    assert not Path(f"/proc/{pid}").exists()
    assert os.listdir("/run/memnotify") == []
    eventually(lambda: state(DEVICE) == "inactive", "systemd knows")
    assert "Traceback" not in log()


BOUND = "bound.service"


@pytest.fixture
def bound(started: None) -> Iterator[None]:
    """Yield a unit that is bound to the service."""
    text = f"[Unit]\nBindsTo={NAME}\nAfter={NAME}\n[Service]\nExecStart=/bin/sleep infinity\n"
    with file(Path("/run/systemd/system") / BOUND, text):
        systemctl("daemon-reload")
        systemctl("start", BOUND)
        yield
        systemctl("stop", BOUND)
    systemctl("daemon-reload")
    systemctl("start", NAME)


def test_a_unit_bound_to_it_ends_when_it_is_stopped(bound: None) -> None:
    assert state(BOUND) == "active"
    systemctl("stop", NAME)
    eventually(lambda: state(BOUND) == "inactive", "it is stopped")


def test_a_unit_bound_to_it_does_not_outlive_a_killed_one(bound: None) -> None:
    client = int(show("MainPID", BOUND))
    assert Path(f"/proc/{client}").exists()
    os.kill(main_pid(), signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{client}").exists(), "its process is ended")
    eventually(lambda: state() == "active", "the service was started again")


def exposure() -> str:
    """Return the exposure level of systemd-analyze, from 0.0 to 10.0."""
    found = re.search(
        r"Overall exposure level for \S+: ([0-9.]+)", analyzed("security", "--no-pager", NAME).stdout
    )
    assert found
    return found[1]


def stated(text: str) -> str:
    """Return the number that follows a text in the documentation."""
    found = re.search(rf"{text} ([0-9]+\.[0-9])", (Path(__file__).parents[3] / "docs/systemd.md").read_text())
    assert found
    return found[1]


def test_how_exposed_it_is() -> None:
    assert exposure() == stated("exposure of")
    assert float(exposure()) <= 2.0


def test_the_unit_is_understood() -> None:
    assert analyzed("verify", "--man=no", NAME).stderr == ""


@pytest.fixture(scope="module")
def without_cuse() -> Iterator[None]:
    """Remove CUSE from the kernel until the end of the module; systemd has not noticed."""
    systemctl("stop", NAME)
    eventually(lambda: not os.path.lexists(NODE), "the device is gone")
    subprocess.run(["modprobe", "--remove", "cuse"], check=True)
    modules = Path("/lib/modules", os.uname().release)
    where = os.readlink(modules)
    modules.unlink()
    yield
    systemctl("stop", NAME)
    modules.symlink_to(where)
    subprocess.run(["modprobe", "cuse"], check=True)
    systemctl("daemon-reload")


def test_no_file_is_served_where_nobody_else_would_see_it(without_cuse: None) -> None:
    assert not starts()
    eventually(lambda: f"cannot mount at {NODE}" in log(), "it says so")


def test_without_cuse_a_file_is_served_for_everybody(
    without_cuse: None, record_property: Callable[[str, object], None]
) -> None:
    with drop_in(GATE):
        assert exposure() == stated("exposure is then")
        systemctl("start", NAME)
        assert show("StatusText").startswith(f"{NODE}, a FUSE file")
        assert serves()
        opened = os.open(NODE, os.O_RDWR)
        os.close(os.open(NODE, os.O_RDWR))
        pid = main_pid()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: state() == "active" and main_pid() not in {0, pid}, "it was started again")
        assert serves()
        assert os.read(opened, 256).startswith(b"total ")
        os.close(opened)
        check_restarts("FUSE", record_property)
        systemctl("stop", NAME)
    assert not os.path.lexists(NODE)
    assert NODE not in Path("/proc/self/mountinfo").read_text()
