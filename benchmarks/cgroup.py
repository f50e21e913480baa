#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure thresholds on cgroups: how soon, at what cost, and what other ways to watch a cgroup do."""

import argparse
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from common import (
    DEADLINE_S,
    BenchmarkError,
    Driven,
    Server,
    await_that,
    check_running,
    cpu_ns,
    memnotify,
    positive,
    progress,
    run,
    spread,
    table,
    wake_ups,
)

MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
ROWS = ("floor", "latency", "kill", "idle", "cache")
WAYS = ("memnotify", "poll at 4 Hz", "memory.high", "PSI")
RATES_MIB_S = (200, 2048)
LIMIT = 512 * MIB
DISTANCE = 64 * MIB
# A watcher that has not noticed by then will not.
_NOTICE_S = 2.0
# The interval doubles up to max_update_period, 15 s.
_REST_S = 30.0
_WINDOW_S = 30.0
_GUEST_S = 3000.0

# Each program enters the cgroup that is its first argument. A fault each page, in steps of 64 KiB.
_FILL = """
import mmap, os, sys, time
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
STEP = 65536
held = None
now = time.monotonic_ns
print("ready", flush=True)
for line in sys.stdin:
    size, rate, distance = map(int, line.split())
    if held is not None:
        held.close()
        held = None
    if size:
        held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held.madvise(mmap.MADV_NOHUGEPAGE)
        filled = b"x" * STEP
        begun, crossed = now(), 0
        for done in range(0, size, STEP):
            while now() < begun + done * 1000000000 // rate:
                pass
            held[done : done + STEP] = filled
            if not crossed and done + STEP >= distance:
                crossed = now()
                print(crossed, distance * 1000000000 // (crossed - begun), flush=True)
    else:
        print("freed", flush=True)
"""
_WATCH = """
import os, select, sys, time
path, way, place, level = sys.argv[1:]
poller = select.poll()
if way == "memnotify":
    with open(path + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    fd = os.open(place, os.O_RDWR)
    os.write(fd, b"cgroup %d" % (int(level) // 4096))
    poller.register(fd, select.POLLIN)
elif way == "memory.high":
    with open(path + "/memory.high", "w") as high:
        high.write(level)
    fd = os.open(path + "/memory.events", os.O_RDONLY)
    os.read(fd, 4096)
    poller.register(fd, select.POLLPRI)
elif way == "PSI":
    fd = os.open(path + "/memory.pressure", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"some 5000 500000\\0")
    poller.register(fd, select.POLLPRI)
else:
    fd = os.open(path + "/memory.current", os.O_RDONLY)
print("ready", flush=True)
above = False
while True:
    if way == "poll at 4 Hz":
        time.sleep(0.25)
        found = int(os.pread(fd, 64, 0)) >= int(level)
        above, noticed = found, found and not above
    else:
        poller.poll()
        noticed = True
    if noticed:
        print(time.monotonic_ns(), flush=True)
    if way in ("memnotify", "memory.high"):
        os.pread(fd, 4096, 0)
"""


class Group:
    """A cgroup with limits of memory, in bytes, and without swap; removed at the end of the block."""

    def __init__(self, name: str, *, above: Path = ROOT, **limits: int) -> None:
        (above / "cgroup.subtree_control").write_text("+memory")
        self.path = above / name
        self.path.mkdir()
        for limit, size in limits.items():
            self.limit(limit, size)
        with suppress(FileNotFoundError):
            self.limit("swap.max", 0)

    def limit(self, name: str, size: int) -> None:
        """Set ``high`` or ``max``."""
        (self.path / f"memory.{name}").write_text(str(size))

    @property
    def current(self) -> int:
        """The bytes that are charged to it."""
        return int((self.path / "memory.current").read_text())

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this process into it during the block."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (ROOT / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove it, once its last process is gone. Raises BenchmarkError if it does not go."""

        def removed() -> bool:
            with suppress(OSError):
                self.path.rmdir()
            return not self.path.exists()

        await_that(removed, f"removing {self.path}")

    def __enter__(self) -> Self:
        """Return the group itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it, if it is still there."""
        self.remove()


def program(text: str, group: Group, *arguments: str) -> Driven:
    """Return a program of this file, started and ready."""
    driven = Driven([sys.executable, "-c", text, str(group.path), *arguments])
    driven.answer()
    return driven


def floor(_: argparse.Namespace, __: Path) -> None:
    """Print what the machine's parts cost: a wake-up, and the two files of a group."""
    ours, theirs = os.eventfd(0), os.eventfd(0)
    child = os.fork()
    if child == 0:
        while True:
            os.eventfd_read(theirs)
            os.eventfd_write(ours, 1)
    times_us = []
    for _round in range(2000):
        begun = time.perf_counter_ns()
        os.eventfd_write(theirs, 1)
        os.eventfd_read(ours)
        times_us.append((time.perf_counter_ns() - begun) / 1e3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rows = [["floor", "us, median (min to max)"], ["eventfd ping-pong of two processes", spread(times_us, 1)]]
    with Group("memnotify-bench-floor", max=LIMIT) as group:
        files = ("memory.current", "memory.stat")
        rows += [[f"open and read {name}", spread(_read_us(group.path / name), 1)] for name in files]
        (group.path / "cgroup.subtree_control").write_text("+memory")
        below = [group.path / str(number) for number in range(100)]
        for path in below:
            path.mkdir()
        rows.append(["the same with 100 groups below", spread(_read_us(group.path / "memory.stat"), 1)])
        for path in below:
            path.rmdir()
    rows.append(["open and read /proc/meminfo", spread(_read_us(Path("/proc/meminfo")), 1)])
    print(f"\n{table([[first, second, ''] for first, second in rows])}\n", flush=True)


def _read_us(path: Path) -> list[float]:
    times_us = []
    for _ in range(500):
        begun = time.perf_counter_ns()
        fd = os.open(path, os.O_RDONLY)
        os.pread(fd, 16384, 0)
        os.close(fd)
        times_us.append((time.perf_counter_ns() - begun) / 1e3)
    return times_us


def latency(options: argparse.Namespace, directory: Path) -> None:
    """Print how soon each way notices that a group has filled up to a threshold."""
    rows = [["way", "MiB/s wanted", "MiB/s reached", "noticed", "ms from the crossing"]]
    with Server("device", memnotify(options.python), directory) as server:
        for rate in RATES_MIB_S:
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            reached: list[float] = []
            for number in range(options.rounds):
                for way in WAYS[:: 1 if number % 2 == 0 else -1]:
                    latency_ms, mib_s = _noticed(options, way, rate * MIB, server)
                    reached.append(mib_s)
                    if latency_ms is not None:
                        found[way].append(latency_ms)
                progress(f"latency at {rate} MiB/s: round {number + 1} of {options.rounds}")
            for way in WAYS:
                times = found[way]
                rows.append(
                    [
                        way,
                        str(rate),
                        f"{statistics.median(reached):.0f}",
                        f"{len(times)} of {options.rounds}",
                        spread(times, 1) if times else "never",
                    ]
                )
    print(f"\n{table(rows)}\nthreshold {DISTANCE // MIB} MiB away; median (min to max)\n", flush=True)


def _noticed(options: argparse.Namespace, way: str, rate: int, server: Server) -> tuple[float | None, float]:
    """Return the ms that a way took to notice, None if it did not, and the MiB/s that the group grew by."""
    with Group("memnotify-bench-latency", max=LIMIT) as group, program(_FILL, group) as filler:
        level = str(group.current + DISTANCE)
        with program(_WATCH, group, way, str(server.path), level) as watcher:
            level_now = int(level) - group.current
            if watcher.line(options.quiet) is not None:
                raise BenchmarkError(f"{way} noticed something before any memory was taken")
            filler.send(f"{DISTANCE + 32 * MIB} {rate} {level_now}")
            crossed_ns, bytes_s = map(int, filler.answer())
            line = watcher.line(_NOTICE_S)
            return None if line is None else (int(line) - crossed_ns) / 1e6, bytes_s / MIB


def kill(options: argparse.Namespace, directory: Path) -> None:
    """Print how many crossings are delivered before a group that fills up at 100 MB/s is killed."""
    percents = (50, 80, 90, 95)
    delivered = dict.fromkeys(percents, 0)
    with Server("device", memnotify(options.python), directory) as server:
        for number in range(options.kills):
            with Group("memnotify-bench-kill", max=256 * MIB) as group, program(_FILL, group) as filler:
                fds = {_subscribe(server, group, f"cgroup {percent}%"): percent for percent in percents}
                end = os.pidfd_open(filler.pid)
                poller = select.poll()
                for fd in (*fds, end):
                    poller.register(fd, select.POLLIN)
                filler.send(f"{1024 * MIB} 100000000 0")
                killed = False
                while not killed:
                    ready = [fd for fd, _ in poller.poll(DEADLINE_S * 1000)]
                    for fd in fds.keys() & set(ready):
                        delivered[fds[fd]] += 1
                        poller.unregister(fd)
                    killed = end in ready or not ready
                for fd in (*fds, end):
                    os.close(fd)
            progress(f"kill: {number + 1} of {options.kills}")
    rows = [["crossing", "delivered before the kill"]]
    rows += [[f"{percent} %", f"{count} of {options.kills}"] for percent, count in delivered.items()]
    print(f"\n{table([[*row, ''] for row in rows])}\n", flush=True)


def _subscribe(server: Server, group: Group, text: str) -> int:
    fd = os.open(server.path, os.O_RDWR | os.O_CLOEXEC)
    with group.entered():
        os.write(fd, text.encode())
    return fd


def idle(options: argparse.Namespace, directory: Path) -> None:
    """Print what idle groups cost the daemon, and one idle group each other way."""
    rows = [["watched", "CPU, ms/s", "wake-ups in a minute"]]
    with ExitStack() as groups, Server("device", memnotify(options.python), directory) as server:
        fd = os.open(server.path, os.O_RDWR)
        os.write(fd, b"used 99%")
        rows.append(["memnotify, used 99 %", *_cost(server.pid)])
        fds = [fd]
        for number in range(options.groups):
            group = groups.enter_context(Group(f"memnotify-bench-idle{number}", max=LIMIT))
            fds.append(_subscribe(server, group, "cgroup 90%"))
            if number + 1 in (1, options.groups):
                rows.append([f"memnotify, and {number + 1} groups", *_cost(server.pid)])
        for fd in fds:
            os.close(fd)
    for way in WAYS[1:]:
        with (
            Group("memnotify-bench-idle", max=LIMIT) as group,
            program(_WATCH, group, way, "", str(LIMIT // 2)) as watcher,
        ):
            rows.append([f"{way}, 1 group", *_cost(watcher.pid, 1.0)])
    print(f"\n{table(rows)}\n{_WINDOW_S:g} s each, the daemon's after {_REST_S:g} s of rest\n", flush=True)


def _cost(pid: int, rest_s: float = _REST_S) -> tuple[str, str]:
    """Wait until a process rests, and return its CPU time in ms/s and its wake-ups in a minute."""
    time.sleep(rest_s)
    cpu, wakes, begun = cpu_ns(pid), wake_ups(pid), time.monotonic()
    time.sleep(_WINDOW_S)
    check_running(pid, "the program")
    elapsed = time.monotonic() - begun
    progress(f"idle: process {pid} measured")
    return f"{(cpu_ns(pid) - cpu) / 1e6 / elapsed:.3f}", f"{(wake_ups(pid) - wakes) * 60 / elapsed:.0f}"


def cache(options: argparse.Namespace, directory: Path) -> None:
    """Print what each way says when a group is full of files that were read."""
    limit = 128 * MIB
    file = options.directory / "memnotify-bench-file"
    rows = [["way", "events", "memory.current then, MiB"]]
    with Server("device", memnotify(options.python), directory) as server:
        for way in WAYS:
            with file.open("wb") as made:
                made.truncate(400 * MIB)
            try:
                with (
                    Group("memnotify-bench-cache", max=limit) as group,
                    program(_WATCH, group, way, str(server.path), str(limit * 8 // 10)) as watcher,
                ):
                    enter = f'echo $$ >{group.path}/cgroup.procs; exec cat "$0"'
                    for _ in range(2):
                        subprocess.run(["sh", "-c", enter, str(file)], check=True, stdout=subprocess.DEVNULL)
                    events, current = 0, group.current
                    while watcher.line(0.6) is not None and events < 1000:
                        events += 1
                    rows.append([way, str(events), f"{current / MIB:.0f}"])
            finally:
                file.unlink()
    print(
        f"\n{table(rows)}\n400 MiB of a file read twice in a group of 128 MiB, threshold 80 %\n", flush=True
    )


def main() -> int:
    """Measure here, or in a guest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="measure these alone")
    parser.add_argument("--rounds", type=positive, default=21, help="of each rate and way (default: 21)")
    parser.add_argument("--quiet", type=float, default=1.0, help="seconds before each round (default: 1)")
    parser.add_argument("--kills", type=positive, default=50, help="groups to kill (default: 50)")
    parser.add_argument("--groups", type=positive, default=1000, help="idle groups (default: 1000)")
    parser.add_argument("--directory", type=Path, default=Path.home(), help="on a disk (default: ~)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has memnotify")
    parser.add_argument(
        "--guest", action="store_true", help="in a guest, as the guest tests (tools/setup test)"
    )
    options = parser.parse_args()
    if options.guest:
        return _in_guest()

    def work(directory: Path) -> None:
        if not (ROOT / "cgroup.controllers").exists():
            raise BenchmarkError("there is no cgroup v2 at /sys/fs/cgroup: --guest measures in a guest")
        measures: dict[str, Callable[[argparse.Namespace, Path], None]] = {
            "floor": floor, "latency": latency, "kill": kill, "idle": idle, "cache": cache,
        }  # fmt: skip
        for name in options.only:
            measures[name](options, directory)

    return run("cgroup.py", work)


def _in_guest() -> int:
    here = Path(__file__).resolve()
    sys.path.insert(0, str(here.parent.parent / "tests"))
    from guest.kernel import GuestUnavailable  # noqa: PLC0415 - the tests' directory is not on the path
    from guest.vm import GuestLost  # noqa: PLC0415 - the same
    from guest.vm import run as run_guest  # noqa: PLC0415 - the same

    # The guest's own files lie in tmpfs, whose page cache counts as shared memory.
    arguments = " ".join(word for word in sys.argv[1:] if word != "--guest")
    script = (
        "modprobe -a fuse loop ext4 && truncate -s 600M /run/disk && mkfs.ext4 -q -E nodiscard /run/disk &&"
        " mkdir -p /run/mnt && mount -o loop /run/disk /run/mnt &&"
        f" {sys.executable} {here} --directory /run/mnt {arguments}"
    )
    try:
        result = run_guest(script, timeout_s=_GUEST_S, memory="2G", cwd=Path("/"))
    except (GuestLost, GuestUnavailable) as error:
        print(f"cgroup.py: {error}", file=sys.stderr)
        return 1
    print(result.output)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
