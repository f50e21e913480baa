# SPDX-License-Identifier: MIT
"""Thresholds on the writer's own cgroup, with the kernel's cgroup v2."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from cgroup import MIB, Group
from support.daemon import QUICK, Daemon
from support.doctor import findings
from support.program import Program
from support.waiting import DEADLINE_S, eventually

PAGE_SIZE = os.sysconf("SC_PAGESIZE")
HOLD = """
import mmap, os, sys, time
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
held = []
print("ready", flush=True)
for line in sys.stdin:
    size, rate = map(int, line.split())
    if not size:
        held.clear()
    begun = time.monotonic()
    for done in range(0, size, 1 << 20):
        if rate:
            time.sleep(max(0.0, begun + done / rate - time.monotonic()))
        held.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    print("done", flush=True)
"""
LIBRARY = """
from memnotify.client import Memnotify
with Memnotify({path!r}) as device:
    print(device.subscribe(cgroup="50%").cgroup_limit.bytes, flush=True)
    for event in device:
        (change,) = event.changes
        print(change.name, change.up, event.after.cgroup.percent >= 50, device.read().cgroup > 0, flush=True)
"""
IN_NAMESPACE = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x20000000):  # CLONE_NEWPID
    raise OSError(ctypes.get_errno(), "unshare")
pid = os.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, "-m", "memnotify", *sys.argv[1:]])
signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


class Holder:
    """A process in a group that takes as much memory as it is told to."""

    def __init__(self, group: Group) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(group.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear("ready")

    def hear(self, text: str) -> None:
        """Wait for a line."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{text}\n"

    def tell(self, size: int, rate: int = 0) -> None:
        """Tell it to take ``size`` more bytes at a rate in bytes per second; 0 bytes frees all."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{size} {rate}\n")
        self.process.stdin.flush()

    def hold(self, size: int) -> None:
        """Tell it, and wait until it is done."""
        self.tell(size)
        self.hear("done")

    def __enter__(self) -> Self:
        """Return the holder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, unless it was."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Serve with the default parameters."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def quick() -> Iterator[Daemon]:
    """Serve with short periods."""
    with Daemon(*QUICK) as daemon:
        yield daemon


def subscribe(daemon: Daemon, group: Group | None, text: str) -> int:
    """Return an open file with this threshold, written by a process in the group."""
    fd = os.open(daemon.path, os.O_RDWR | os.O_CLOEXEC)
    if group is None:
        os.write(fd, text.encode())
    else:
        with group.entered():
            os.write(fd, text.encode())
    return fd


def told(fd: int) -> dict[str, int]:
    """Return the figures of a line."""
    words = os.pread(fd, 4096, 0).decode().split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def event(fd: int, timeout_s: float = DEADLINE_S) -> bool:
    """Return True if an event comes."""
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_both_directions(daemon: Daemon) -> None:
    """A group that grows and shrinks; the line has the group's figures, in the group of the writer alone."""
    with Group("both", max=200 * MIB) as group, Holder(group) as holder:
        fd, other = subscribe(daemon, group, "cgroup 50%"), subscribe(daemon, None, "used 1%")
        assert "cgroup" not in told(other)
        before = told(fd)
        assert list(before) == ["total", "used", "active", "cgroup", "cgroup_limit"]
        assert before["cgroup_limit"] == 200 * MIB // PAGE_SIZE
        assert before["cgroup"] < 50 * MIB // PAGE_SIZE
        holder.hold(120 * MIB)
        assert event(fd)
        assert 100 * MIB // PAGE_SIZE <= told(fd)["cgroup"] < 150 * MIB // PAGE_SIZE
        assert not event(fd, 0)
        holder.hold(0)
        assert event(fd)
        assert told(fd)["cgroup"] < 100 * MIB // PAGE_SIZE


def test_the_library_and_the_commands(daemon: Daemon) -> None:
    """In a group, as a service or a container is."""
    with Group("clients", max=200 * MIB) as group, Holder(group) as holder:
        enter = f'echo $$ >{group.path}/cgroup.procs; exec "$@"'

        def program(*arguments: str) -> Program:
            return Program("sh", "-c", enter, "sh", sys.executable, *arguments)

        wait = ("-m", "memnotify", "wait", "--path", daemon.path, "--count", "2", "cgroup 50%")
        run = ("-m", "memnotify", "run", "--path", daemon.path, "--when", "cgroup 50%", "--count", "1", "--")
        show = "echo $MEMNOTIFY_NAME $MEMNOTIFY_EVENT $MEMNOTIFY_CGROUP_LIMIT_BYTES"
        with (
            program("-c", LIBRARY.format(path=daemon.path)) as library,
            program(*wait) as waiting,
            program(*run, "sh", "-c", show) as running,
        ):
            assert library.line() == str(200 * MIB)
            for client in (waiting, running):
                client.settle()
            holder.hold(120 * MIB)
            assert library.line() == "cgroup True True True"
            assert " cgroup_limit " in waiting.line()
            assert running.hear("cgroup") == f"cgroup up {200 * MIB}"
            holder.hold(0)
            assert library.line() == "cgroup False False True"
            assert " cgroup_limit " in waiting.line()


@pytest.mark.parametrize("run", range(3))
def test_crossings_come_before_the_kill(daemon: Daemon, run: int) -> None:
    """If a group fills up at 100 MB/s, all its crossings are delivered before the OOM killer acts."""
    with Group(f"killed{run}", max=256 * MIB) as group, Holder(group) as holder:
        fds = {subscribe(daemon, group, f"cgroup {percent}%"): percent for percent in (50, 80, 90, 95)}
        pidfd = os.pidfd_open(holder.process.pid)
        poller = select.poll()
        for fd in (*fds, pidfd):
            poller.register(fd, select.POLLIN)
        delivered = []
        holder.tell(1024 * MIB, 100_000_000)
        killed = False
        while not killed:
            ready = [fd for fd, _ in poller.poll(DEADLINE_S * 1000)]
            assert ready
            for fd in ready:
                if fd in fds:
                    delivered.append(fds[fd])
                    poller.unregister(fd)
            killed = pidfd in ready
        assert sorted(delivered) == [50, 80, 90, 95]
        assert holder.process.wait() == -signal.SIGKILL
        for fd in (pidfd, *fds):
            os.close(fd)


def test_page_cache_is_no_event(quick: Daemon, disk: Path) -> None:
    """Files that are read fill a group up to memory.max; the kernel can drop them, so nothing crosses."""
    with (disk / "file").open("wb") as file:
        file.truncate(300 * MIB)
    with Group("cache", max=100 * MIB) as group:
        fd = subscribe(quick, group, "cgroup 80%")
        enter = f"echo $$ >{group.path}/cgroup.procs; exec cat {disk}/file"
        for _ in range(3):
            subprocess.run(["sh", "-c", enter], check=True, stdout=subprocess.DEVNULL)
            assert not event(fd, 0)
        assert group.current > 90 * MIB
        assert told(fd)["cgroup"] < 20 * MIB // PAGE_SIZE
        assert not event(fd, 0)


def test_a_limit_that_changes() -> None:
    """A percentage follows memory.max and memory.high at once: samples are minutes apart."""
    with (
        Group("limits", max=400 * MIB) as group,
        Holder(group) as holder,
        Daemon("--max-update-period", "3600000") as slow,
    ):
        fd = subscribe(slow, group, "cgroup 50%")
        holder.hold(100 * MIB)
        assert not event(fd, 0)
        group.limit("high", 150 * MIB)
        assert event(fd)
        assert told(fd)["cgroup_limit"] == 150 * MIB // PAGE_SIZE
        (group.path / "memory.high").write_text("max")
        assert event(fd)
        assert told(fd)["cgroup_limit"] == 400 * MIB // PAGE_SIZE


def test_the_nearest_limit_above(quick: Daemon) -> None:
    """A group without a limit has that of the nearest one above, and without one the machine's."""
    with Group("above", max=300 * MIB) as above, Group("middle", above=above.path) as middle:
        (middle.path / "cgroup.subtree_control").write_text("-memory")
        with Group("free") as free:
            assert told(subscribe(quick, middle, "cgroup 90%"))["cgroup_limit"] == 300 * MIB // PAGE_SIZE
            line = told(subscribe(quick, free, "cgroup 90%"))
            assert line["cgroup_limit"] == line["total"] > line["used"] > line["cgroup"]


def test_a_group_without_the_memory_controller(quick: Daemon) -> None:
    """Its memory is charged to the nearest group above that has it."""
    with Group("with", max=300 * MIB) as above:
        path = above.path / "without"
        path.mkdir()
        without = Group.__new__(Group)
        without.path = path
        assert not (path / "memory.current").exists()
        assert told(subscribe(quick, without, "cgroup 90%"))["cgroup_limit"] == 300 * MIB // PAGE_SIZE
        without.remove()


def test_doctor_tells_of_the_limit() -> None:
    """If the daemon itself is in a limited cgroup, doctor says so, and what its figures mean."""
    with Group("daemon", max=300 * MIB) as group:
        with group.entered():
            daemon = Daemon(*QUICK)
        with daemon:
            code, checks = findings()
    assert code == 0
    assert checks["meminfo"]["state"] == "ok"
    assert "the daemon's cgroup is limited to 300 MiB: total, used and active" in checks["meminfo"]["found"]


def test_the_root(quick: Daemon) -> None:
    """In the root group the figures are the machine's."""
    line = told(subscribe(quick, None, "cgroup 99%"))
    assert (line["cgroup"], line["cgroup_limit"]) == (line["used"], line["total"])


def test_a_thread_in_a_threaded_group(quick: Daemon) -> None:
    """A threaded group has no memory of its own: that of its domain counts."""
    with Group("domain", max=300 * MIB) as domain:
        threaded = domain.path / "threaded"
        threaded.mkdir()
        (threaded / "cgroup.type").write_text("threaded")
        lines = []

        def write() -> None:
            (threaded / "cgroup.threads").write_text(str(threading.get_native_id()))
            fd = os.open(quick.path, os.O_RDWR)
            os.write(fd, b"cgroup 90%")
            lines.append(told(fd))
            os.close(fd)

        with domain.entered():
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert lines[0]["cgroup_limit"] == 300 * MIB // PAGE_SIZE
        threaded.rmdir()


def test_a_group_that_is_removed_and_made_again(quick: Daemon) -> None:
    """A removed group has the value 0; a later one with its name is another one."""
    with Group("again", max=200 * MIB) as group, Holder(group) as holder:
        holder.hold(120 * MIB)
        fd = subscribe(quick, group, "cgroup 50%")
        # Its memory is charged to it as long as anything holds it; a file in tmpfs would stay.
        assert not event(fd, 0)
        holder.process.kill()
        assert event(fd)
        assert told(fd)["cgroup"] < 100 * MIB // PAGE_SIZE
        group.remove()
        with Group("again", max=100 * MIB) as anew, Holder(anew) as other:
            new = subscribe(quick, anew, "cgroup 50%")
            other.hold(80 * MIB)
            assert event(new)
            assert told(new)["cgroup_limit"] == 100 * MIB // PAGE_SIZE
            assert told(fd)["cgroup"] == 0
            assert not event(fd, 0)


def test_a_removed_group_holds_nothing(quick: Daemon) -> None:
    """A group above the threshold crosses it when it is removed, even if tmpfs files stay."""
    with Group("files", max=200 * MIB) as group:
        path = Path("/dev/shm/memnotify-group")  # noqa: S108 - the tmpfs itself is meant
        fill = f"echo $$ >{group.path}/cgroup.procs; exec head -c {120 * MIB} /dev/zero >{path}"
        subprocess.run(["sh", "-c", fill], check=True)
        try:
            fd = subscribe(quick, group, "cgroup 50%")
            assert told(fd)["cgroup"] > 100 * MIB // PAGE_SIZE
            assert not event(fd, 0)
            group.remove()
            assert event(fd)
            assert told(fd)["cgroup"] == 0
        finally:
            path.unlink()


def test_another_pid_namespace() -> None:
    """The daemon cannot identify a process of another pid namespace."""
    with Daemon(*QUICK, program=(sys.executable, "-c", IN_NAMESPACE)) as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        with pytest.raises(OSError, match="not supported") as refused:
            os.write(fd, b"cgroup 50%")
        assert refused.value.errno == errno.EOPNOTSUPP
        eventually(lambda: "another pid namespace" in daemon.log, "the log says why")
        os.close(fd)


def test_idle_groups_cost_nothing(daemon: Daemon) -> None:
    """With 200 groups the daemon's threads wake no more often than with one."""
    groups = [Group(f"idle{number}", max=400 * MIB) for number in range(200)]
    try:
        fds = [subscribe(daemon, group, "cgroup 90%") for group in groups]
        eventually(lambda: sum(daemon.wakes_within(5).values()) <= 5, "the daemon rests", deadline_s=120)
        for fd in fds:
            os.close(fd)
    finally:
        for group in groups:
            group.remove()
