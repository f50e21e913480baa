# SPDX-License-Identifier: MIT
"""A trial use of the device, in a child process: a daemon that is stopped hangs each client.

If the daemon has taken the child's request, the child cannot even be killed, so the parent abandons it.
"""

import contextlib
import errno
import json
import mmap
import os
import re
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from memnotify.client import PAGE_SIZE, Figures, ThresholdError

# Private: the probe writes thresholds of its own and needs no event loop, but the errors' advice.
from memnotify.client._device_file import DeviceFile

# More than other processes are likely to free within the same quarter of a second.
_TAKEN_BYTES = 4 << 20
# A killed process ends at once, except where it waits for the daemon uninterruptibly.
_KILL_S = 1.0
# How far a figure may differ from this process's own reading, as a share of total: memory moves in between.
_NEAR = 0.1
_DEFECT = "check that memnotify serves it, in this version"
_FIELDS = {"MemTotal", "MemFree", "SwapTotal", "SwapFree", "Active"}
_KIB = re.compile(r"^(\w+): +([0-9]+) kB$", re.MULTILINE)

Step = Callable[[str], None]


class Attempt(NamedTuple):
    """How far a child process came."""

    step: str
    """The last step that it began."""
    result: Any
    """The result of its function; None if it did not return."""
    left_pid: int
    """The child, if it hangs and cannot be killed: it ends when the daemon answers. Else 0."""


def attempt(work: Callable[[Step], Any], timeout_s: float) -> Attempt:
    """Run ``work`` in a child process that may take ``timeout_s`` for each step that it reports.

    The result must be JSON. The caller must be single-threaded, because of the fork.
    Raises RuntimeError if ``work`` raises, ChildProcessError if the child is killed.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _work(work, read_fd, write_fd)
        finally:
            os._exit(1)
    os.close(write_fd)
    step, result, text = "", None, b""
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)
    try:
        while poller.poll(timeout_s * 1000):
            more = os.read(read_fd, 65536)
            if not more:
                if result is None:
                    raise ChildProcessError(f"the process that uses the device was ended in step {step!r}")
                break
            text += more
            *lines, text = text.split(b"\n")
            for kind, value in map(json.loads, lines):
                if kind == "step":
                    step = value
                elif kind == "result":
                    result = value
                else:
                    raise RuntimeError(f"in step {step!r}: {value}")
    finally:
        os.close(read_fd)
        left = not _killed(pid)
    return Attempt(step, result, pid if left else 0)


def _work(work: Callable[[Step], Any], read_fd: int, write_fd: int) -> None:
    os.close(read_fd)
    # A child that hangs must not hold the parent's output: a reader at its other end would wait too.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)

    def send(kind: str, value: Any) -> None:
        os.write(write_fd, json.dumps([kind, value]).encode() + b"\n")

    try:
        send("result", work(lambda step: send("step", step)))
    except Exception as error:  # noqa: BLE001 - a defect, raised again by the parent
        send("defect", repr(error))


def _killed(pid: int) -> bool:
    """Kill the child, which has usually ended; return True if it is gone."""
    os.kill(pid, signal.SIGKILL)
    end = os.pidfd_open(pid)
    try:
        gone = bool(select.select([end], [], [], _KILL_S)[0])
    finally:
        os.close(end)
    if gone:
        os.waitpid(pid, 0)
    return gone


class UnexpectedError(Exception):
    """The device behaves wrongly: the text says how, ``advice`` what to do next."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


def round_trip(path: str, meminfo: str, timeout_s: float, step: Step) -> tuple[str, str]:
    """Use the device as a client does; return what was found, and advice if something is wrong.

    Show that the daemon answers open, read, write, poll and close with this machine's figures, refuses a
    write that is no threshold, samples by itself and wakes a waiting client. Two observers have their
    thresholds at ``used`` and one page above. Memory is allocated and freed, so ``used`` moves by at least
    a page and one of the two crosses.
    """
    try:
        step("open")
        with contextlib.closing(DeviceFile(path)) as falls, contextlib.closing(DeviceFile(path)) as rises:
            step("read")
            figures = falls.read()
            _check_figures(figures, meminfo)
            step("poll")
            if _ready((falls,), 0):
                raise UnexpectedError("poll reports an event without a threshold", _DEFECT)
            step("write")
            falls.write(b"used 100%")
            _check_refusal(falls)
            event_ms = 1000 * _event_s(falls, rises, timeout_s, step)
            step("acknowledge")
            for device_file in (falls, rises):
                device_file.write(b"used 0")
            if _ready((falls, rises), 0):
                raise UnexpectedError("an event stays after its acknowledgement", _DEFECT)
            step("close")
    except UnexpectedError as unexpected:
        return str(unexpected), unexpected.advice
    except OSError as error:
        found, _, advice = (error.strerror or str(error)).partition("; ")
        return found, advice or "read the daemon's log"
    return f"read, write, a refused write, poll: used {figures.used}, an event after {event_ms:.0f} ms", ""


def read_kib(meminfo: str) -> dict[str, int]:
    """Return the fields of /proc/meminfo that are in KiB, at least _FIELDS. Raises OSError."""
    with open(meminfo, encoding="utf-8") as file:
        found = {name: int(kib) for name, kib in _KIB.findall(file.read())}
    missing = sorted(_FIELDS - found.keys())
    if missing:
        raise OSError(errno.ENODATA, f"{meminfo} has no {missing[0]}; remove the mount that hides it")
    return found


def _check_figures(figures: Figures, meminfo: str) -> None:
    pages = {name: kib * 1024 // PAGE_SIZE for name, kib in read_kib(meminfo).items()}
    total = pages["MemTotal"] + pages["SwapTotal"]
    near = int(total * _NEAR)
    most = total - pages["MemFree"] - pages["SwapFree"] + near
    if (
        abs(figures.total - total) > near
        or figures.used > most
        or abs(figures.active - pages["Active"]) > near
    ):
        raise UnexpectedError(
            f"the figures ({figures}) differ from {meminfo} (total {total}, used at most {most},"
            f" active about {pages['Active']})",
            "a container may have a /proc/meminfo of its own: run the daemon and doctor in the same one",
        )


def _check_refusal(device_file: DeviceFile) -> None:
    try:
        device_file.write(b"used nothing")
    except ThresholdError:
        return
    raise UnexpectedError("the device accepts a write that is no threshold", _DEFECT)


def _event_s(falls: DeviceFile, rises: DeviceFile, timeout_s: float, step: Step) -> float:
    """Return the seconds from moving memory until a poll was ready."""
    begin_s = time.monotonic()
    # Repeat: memory may have moved, and been sampled, between the read and the second write.
    for _ in range(4):
        step("wait for an event")
        used = falls.read().used
        falls.write(b"used %d" % used)
        rises.write(b"used %d" % (used + 1))
        with mmap.mmap(-1, _TAKEN_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
            if _ready((falls, rises), timeout_s / 4):
                return time.monotonic() - begin_s
    raise UnexpectedError(
        f"no event within {timeout_s:g} s, although memory moved",
        "if update_period is longer, use a longer --timeout; else read the daemon's log and restart it",
    )


def _ready(device_files: tuple[DeviceFile, ...], timeout_s: float) -> bool:
    poller = select.poll()
    for device_file in device_files:
        poller.register(device_file, select.POLLIN)
    events = poller.poll(timeout_s * 1000)
    if any(event & select.POLLERR for _, event in events):
        raise UnexpectedError("POLLERR", "its daemon has ended: start 'memnotify serve' again")
    return bool(events)
