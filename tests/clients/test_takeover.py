# SPDX-License-Identifier: MIT
"""Clients keep their open files and events while one daemon takes over from another."""

import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import PROGRAM, QUICK, Daemon, ready
from support.fake_memory import FakeMemory
from support.kept import Service, clients_of
from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

NAME = "memnotify-takeover"
CLIENTS = 200
KILLS = int(os.environ.get("MEMNOTIFY_KILLS", "4"))
ARGUMENTS = (*QUICK, *FakeMemory.ARGUMENTS)


@pytest.fixture
def memory(tmp_path: Path) -> FakeMemory:
    """Return a memory of which a half is used."""
    return FakeMemory(tmp_path)


@pytest.mark.representative
def test_the_program_replaces_itself(memory: FakeMemory) -> None:
    """Open files, thresholds and waiting clients stay; what is crossed afterwards is an event."""
    with (
        Daemon(*ARGUMENTS, name=NAME, program=memory.program) as daemon,
        clients_of(daemon, CLIENTS) as clients,
    ):
        for times in range(1, 4):
            os.kill(daemon.pid, signal.SIGUSR2)
            eventually(lambda: daemon.log.count("ready: ") == times + 1, "it serves again")  # noqa: B023
            assert daemon.log.count(f"took over {CLIENTS} clients") == times
            assert clients.silent()
            memory.use(70)
            assert clients.told()
            memory.use(50)
            assert clients.told()


def test_the_program_stays_if_a_new_one_could_not_start(memory: FakeMemory, tmp_path: Path) -> None:
    """Settings that are well formed, and that this machine cannot serve, cost no client."""
    config = tmp_path / "memnotify.toml"
    config.touch()
    (tmp_path / "file").touch()
    with (
        Daemon(*ARGUMENTS, name=NAME, program=memory.program, config=str(config)) as daemon,
        clients_of(daemon, 10) as clients,
    ):
        for times, (setting, reason) in enumerate(
            (
                ('user = "no-such-user"', "there is no user 'no-such-user'"),
                (f'socket = "{tmp_path}/none/socket"', "/none/socket: its directory: No such file"),
                (f'status_socket = "{tmp_path}/file"', "exists and is no socket"),
                ('figures = ["HighFree"]', "lacks it: remove from --figures"),
            ),
            1,
        ):
            config.write_text(setting)
            daemon.process.send_signal(signal.SIGUSR2)
            eventually(lambda: daemon.log.count("not replaced") == times, "it is refused")  # noqa: B023
            assert reason in daemon.log
        assert daemon.log.count("ready: ") == 1
        refused = upgrade()
        assert refused.returncode == 3
        assert "HighFree" in refused.stderr
        memory.use(70)
        assert clients.told()


def test_a_program_that_serves_another_socket_removes_the_old_one(memory: FakeMemory, tmp_path: Path) -> None:
    config = tmp_path / "memnotify.toml"

    def settings(number: int) -> str:
        return f'socket = "{tmp_path}/{number}"\nstatus_socket = "{tmp_path}/status{number}"'

    def sockets() -> list[str]:
        return sorted(each.name for each in tmp_path.iterdir() if each.is_socket())

    config.write_text(settings(1))
    with Daemon(*ARGUMENTS, name=NAME, program=memory.program, config=str(config)) as daemon:
        assert sockets() == ["1", "status1"]
        config.write_text(settings(2))
        daemon.process.send_signal(signal.SIGUSR2)
        eventually(lambda: daemon.log.count("ready: ") == 2, "it serves again")
        assert sockets() == ["2", "status2"]
    assert sockets() == []


@pytest.mark.parametrize("used", [60, 70])
def test_a_daemon_that_was_stopped_tells_what_is_crossed_then(memory: FakeMemory, used: int) -> None:
    """SIGSTOP: what was crossed and still is, is told once after SIGCONT."""
    with (
        Daemon(*ARGUMENTS, name=NAME, program=memory.program) as daemon,
        clients_of(daemon, 20) as clients,
    ):
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            memory.use(used)
            assert clients.epoll.poll(0) == []
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert clients.told()


def upgrade(
    *arguments: str, path: str = f"/dev/{NAME}", directory: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``memnotify upgrade`` in a directory. As the installed program, it imports nothing from there."""
    return subprocess.run(
        [PROGRAM[0], "-P", *PROGRAM[1:], "upgrade", "--path", path, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )


def test_upgrade(memory: FakeMemory, tmp_path: Path) -> None:
    """It ends once the new program serves, and its exit code says why that does not."""
    config = tmp_path / "memnotify.toml"
    config.touch()
    (tmp_path / "argparse.py").write_text("raise SystemExit('a module of the working directory')")
    with (
        Daemon(*ARGUMENTS, name=NAME, program=memory.program, config=os.path.relpath(config)) as daemon,
        clients_of(daemon, 2) as clients,
    ):
        for times in (1, 2):
            done = upgrade(directory=tmp_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert "replaced, and serves after " in done.stdout
            assert daemon.log.count("took over 2 clients") == times
        config.write_text("update_period = 'soon'")
        assert upgrade().returncode == 3
        assert daemon.log.count("ready: ") == 3
        config.write_text("")
        # The signal of a program that hangs does nothing.
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            done = upgrade("--timeout", "0.5")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert done.returncode == 1
        assert "has not replaced itself" in done.stderr
        eventually(lambda: daemon.log.count("ready: ") == 4, "the signal is acted on")
        memory.use(70)
        assert clients.told()
    done = upgrade()
    assert done.returncode == 4
    # Where a process of this machine cannot be seen, it says so.
    assert re.search("no daemon .*serves", done.stderr)
    assert upgrade("--quiet").stderr == ""


@pytest.fixture
def serving(memory: FakeMemory, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Give what starts a service, with options."""
    with ExitStack() as closed:

        def start(*arguments: str) -> Service:
            service = Service(memory.program, tmp_path, *ARGUMENTS, *arguments, name=NAME)
            closed.callback(service.close)
            return service

        yield start


@pytest.fixture
def service(serving: Callable[..., Service]) -> Service:
    """Give a service that runs."""
    return serving()


@pytest.mark.representative
def test_restart(service: Service, memory: FakeMemory) -> None:
    """What was crossed between two processes is an event, and what was pending stays pending."""
    with clients_of(service.daemon, CLIENTS) as clients:
        service.daemon.end()
        memory.use(70)
        service.start()
        assert f"took over {CLIENTS} clients" in service.daemon.log
        assert clients.told()
        memory.use(50)
        assert all(ready(fd) & select.POLLIN for fd in clients.fds)
        service.restart()
        assert clients.told()


def test_a_bind_mount_outlives_a_restart(service: Service, memory: FakeMemory, tmp_path: Path) -> None:
    """A container that has the file goes on with it."""
    inside = tmp_path / "container"
    inside.touch()
    subprocess.run(["mount", "--bind", service.daemon.path, str(inside)], check=True)
    try:
        service.restart()
        fd = os.open(inside, os.O_RDWR)
        os.write(fd, b"used 60%")
        memory.use(70)
        assert ready(fd) & select.POLLIN
        os.close(fd)
    finally:
        subprocess.run(["umount", str(inside)], check=True)


def _replace(service: Service) -> None:
    """Let the process replace itself."""
    times = service.daemon.log.count("ready: ")
    service.daemon.process.send_signal(signal.SIGUSR2)
    eventually(lambda: service.daemon.log.count("ready: ") > times, "it serves again")


@pytest.mark.parametrize("replace", [Service.restart, _replace])
def test_the_socket(
    memory: FakeMemory, tmp_path: Path, replace: Callable[[Service], None], serving: Callable[..., Service]
) -> None:
    """Connections stay, with their thresholds."""
    path = tmp_path / "socket"
    service = serving("--socket", str(path))
    with ExitStack() as clients:
        told, refused, asked, gone = (clients.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4))
        for client in (told, refused, asked, gone):
            client.settimeout(DEADLINE_S)
            client.connect(str(path))
            client.sendall(b"used 60%\nread\n")
            assert client.recv(256).startswith(b"read total ")
        refused.sendall(b"usd\n")
        gone.close()
        # The server meets the end of one connection before what another sends later.
        told.sendall(b"read\n")
        assert told.recv(256).startswith(b"read total ")
        replace(service)
        assert "took over 3 clients" in service.daemon.log
        asked.sendall(b"read\n")
        assert refused.recv(256).startswith(b"error ")
        assert asked.recv(256).startswith(b"read total ")
        memory.use(70)
        assert all(client.recv(256).startswith(b"total ") for client in (told, refused, asked))
        memory.use(50)
        replace(service)
        assert all(client.recv(256).startswith(b"total ") for client in (told, refused, asked))
        told.sendall(b"read\n")
        assert told.recv(256).startswith(b"read total ")


def _perf_events(service: Service) -> int:
    """Return how many counters the daemon has open."""
    fds = Path(f"/proc/{service.daemon.pid}/fd").iterdir()
    return [os.readlink(fd) for fd in fds].count("anon_inode:[perf_event]")


def test_tracepoints_stay_in_use(service: Service) -> None:
    """The kernel takes 36 ms to end the last use of each, and the end of the process would wait for it."""

    def held() -> dict[str, int]:
        stored = service.manager.stored
        return {name: fd for name, fd in stored.items() if name.startswith("memnotify-tracepoint-")}

    counters = _perf_events(service)
    if not counters:
        unavailable("pages cannot be counted here")
    eventually(lambda: len(held()) == 5, "the store has a descriptor for each tracepoint")
    first = held()
    # Else systemd removes them: they poll POLLHUP.
    unpolled = [said for said in service.manager.heard() if "FDPOLL=0" in said]
    assert {name for name in first if any(f"FDNAME={name}\n" in said for said in unpolled)} == first.keys()
    assert {os.readlink(f"/proc/self/fd/{fd}") for fd in first.values()} == {"anon_inode:[perf_event]"}
    _replace(service)
    assert _perf_events(service) == counters
    service.restart()
    assert _perf_events(service) == counters
    assert held() == first
    service.restart(signal.SIGTERM, "--no-count-pages")
    eventually(lambda: not held(), "what is not needed any more is removed")
    assert _perf_events(service) == 0


def test_a_descriptor_of_another_version(service: Service) -> None:
    """It is closed and removed from the store; it does not count as a socket unit's."""
    service.manager.stored["memnotify-of-another-version"] = os.open("/dev/null", os.O_RDONLY)
    service.restart()
    stored = service.manager.stored
    eventually(lambda: "memnotify-of-another-version" not in stored, "the store has no such descriptor")


def test_stop_leaves_nothing(service: Service, memory: FakeMemory) -> None:
    """Neither a device nor a mount point; the clients' files have ended."""
    with clients_of(service.daemon, 2) as clients:
        service.stop()
        assert not os.path.lexists(service.daemon.path)
        assert all(ready(fd) & select.POLLERR for fd in clients.fds)


def test_another_daemon_of_the_same_name_is_refused(service: Service, memory: FakeMemory) -> None:
    """Also after a takeover."""
    service.restart()
    with pytest.raises(AssertionError, match="is served by another process already"):
        Daemon(*ARGUMENTS, name=NAME, program=memory.program)


def test_other_figures(service: Service, memory: FakeMemory) -> None:
    """A setting that takes a restart costs no client."""
    with clients_of(service.daemon, CLIENTS) as clients:
        service.restart(signal.SIGTERM, "--figures", "available")
        assert b" available " in os.read(clients.fds[0], 256)
        memory.use(70)
        assert clients.told()
        service.restart()
        assert "are lost" not in service.daemon.log, service.daemon.log
        memory.use(50)
        assert clients.told()


def test_mode_and_owner_stay(service: Service) -> None:
    """On the FUSE file; those of a device node are udev's."""
    path = service.daemon.path
    os.chmod(path, 0o640)
    os.chown(path, 12, 34)
    service.restart()
    status = os.stat(path)
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 12, 34)


def test_a_state_of_another_version(service: Service) -> None:
    """Clients are lost, with a line in the log, and the device is served anew."""
    with clients_of(service.daemon, 2) as clients:
        os.pwrite(service.manager.stored["memnotify-state"], b"?", 0)
        service.restart()
        assert "the clients of the daemon before are lost: " in service.daemon.log
        assert all(ready(fd) & select.POLLERR for fd in clients.fds)
    with clients_of(service.daemon, 2) as clients:
        service.restart()
        assert "took over 2 clients" in service.daemon.log


def test_killed_under_load(service: Service, memory: FakeMemory) -> None:
    """SIGKILL at any moment: the requests in flight are answered by the next process, or the device is new.

    Kernels before 6.9 cannot send a request again that was read and not answered.
    """
    ended = threading.Event()
    errors: list[OSError] = []

    def load(fd: int) -> None:
        try:
            while not ended.is_set():
                os.write(fd, b"used 60%")
                os.read(fd, 256)
                ready(fd, timeout_s=0)
        except OSError as error:
            errors.append(error)

    with clients_of(service.daemon, 20) as clients:
        busy = [os.open(service.daemon.path, os.O_RDWR) for _ in range(2)]
        threads = [threading.Thread(target=load, args=(fd,)) for fd in busy]
        for thread in threads:
            thread.start()
        try:
            for used in (70, 50) * KILLS:
                memory.use(used)
                service.restart(signal.SIGKILL)
                if "are lost: " in service.daemon.log:
                    assert os.uname().release < "6.9"
                    return
                assert clients.told()
        finally:
            ended.set()
            for thread in threads:
                thread.join(DEADLINE_S)
            for fd in busy:
                os.close(fd)
        assert not errors
