# SPDX-License-Identifier: MIT
"""Using the device for a trial, in a child process: a daemon that is stopped hangs whoever asks it.

Such a process cannot even be killed if the daemon has taken its request, so the one that waits for it
gives it up.
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

from memnotify.client import PAGE_SIZE, Figures, ThresholdError, device_error
from memnotify.client._device_file import DeviceFile

# More than anything else is likely to give back in the same quarter of a second.
_TAKEN_BYTES = 4 << 20
# To die takes no time; a process that has not is one that cannot.
_KILL_S = 1.0
# How far a figure may be from this process's own reading, as a share of total: memory moves in between.
_NEAR = 0.1
_DEFECT = "is it served by memnotify, and by this version?"
_KIB = re.compile(r"^(\w+): +([0-9]+) kB$", re.MULTILINE)

Step = Callable[[str], None]


class Attempt(NamedTuple):
    """How far a child process came."""

    step: str
    """What it began last."""
    result: Any
    """What its function returned; None if it did not."""
    left_pid: int
    """The process, if it hangs and could not be killed; it ends when the daemon answers. Else 0."""


def attempt(work: Callable[[Step], Any], timeout_s: float) -> Attempt:
    """Run ``work`` in a child process that may take ``timeout_s`` for each step that it tells.

    What it returns must be JSON. Single-threaded callers only, as it forks.
    """
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _work(work, heard, told)
        finally:
            os._exit(1)
    os.close(told)
    step, result, text = "", None, b""
    poller = select.poll()
    poller.register(heard, select.POLLIN)
    try:
        while poller.poll(timeout_s * 1000):
            more = os.read(heard, 65536)
            if not more:
                if result is None:
                    raise ChildProcessError(f"the process that asks it was ended in step {step!r}")
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
        os.close(heard)
        left = not _killed(pid)
    return Attempt(step, result, pid if left else 0)


def _work(work: Callable[[Step], Any], heard: int, told: int) -> None:
    os.close(heard)
    # Were they kept by a process that hangs, whoever reads what the parent prints would wait for it too.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)

    def tell(kind: str, value: Any) -> None:
        os.write(told, json.dumps([kind, value]).encode() + b"\n")

    try:
        tell("result", work(lambda step: tell("step", step)))
    except Exception as error:  # noqa: BLE001 - a defect, raised again where it can be seen
        tell("defect", repr(error))


def _killed(pid: int) -> bool:
    """Kill the child, which as a rule has ended; return whether it is gone."""
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
    """The device does not do what it should: what it does, and what to do next."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


def round_trip(path: str, meminfo: str, timeout_s: float, step: Step) -> tuple[str, str]:
    """Use the device as a client does; return what was found, and advice if that is not as it should be.

    Proves that the daemon answers open, read, write, poll and close, with figures that are this machine's,
    that it refuses what is no threshold, and that it looks at memory by itself and wakes who waits for it.
    Two observers have their thresholds where ``used`` is and one page above: if it moves by a page, either
    way, one of them crosses. It does move: memory is taken, and given back.
    """
    try:
        step("open")
        with contextlib.closing(DeviceFile(path)) as falls, contextlib.closing(DeviceFile(path)) as rises:
            step("read")
            figures = falls.read()
            _check_figures(figures, meminfo)
            step("poll")
            if _ready((falls,), 0):
                raise UnexpectedError("poll reports an event where nothing is watched", _DEFECT)
            step("write")
            falls.write(b"used 100%")
            _check_refusal(falls)
            event_ms = 1000 * _event_s(falls, rises, timeout_s, step)
            step("acknowledge")
            for link in (falls, rises):
                link.write(b"used 0")
            if _ready((falls, rises), 0):
                raise UnexpectedError("an event stays after it was acknowledged", _DEFECT)
            step("close")
    except UnexpectedError as unexpected:
        return str(unexpected), unexpected.advice
    except OSError as error:
        found, _, advice = (error.strerror or str(error)).partition("; ")
        return found, advice or "look into the daemon's log"
    return f"read, write, a refused write, poll: used {figures.used}, an event after {event_ms:.0f} ms", ""


def _check_figures(figures: Figures, meminfo: str) -> None:
    with open(meminfo, encoding="utf-8") as file:
        pages = {name: int(kib) * 1024 // PAGE_SIZE for name, kib in _KIB.findall(file.read())}
    total = pages["MemTotal"] + pages["SwapTotal"]
    near = int(total * _NEAR)
    most = total - pages["MemFree"] - pages["SwapFree"] + near
    if (
        abs(figures.total - total) > near
        or figures.used > most
        or abs(figures.active - pages["Active"]) > near
    ):
        raise UnexpectedError(
            f"the figures ({figures}) are not those of {meminfo} (total {total}, used at most {most},"
            f" active about {pages['Active']})",
            "is the daemon, or this, in a container with figures of its own? Compare with 'memnotify read'",
        )


def _check_refusal(link: DeviceFile) -> None:
    try:
        link.write(b"used nothing")
    except ThresholdError:
        return
    raise UnexpectedError("a write that is no threshold is not refused", _DEFECT)


def _event_s(falls: DeviceFile, rises: DeviceFile, timeout_s: float, step: Step) -> float:
    """Return how many seconds it took until memory that moved made a poll ready."""
    begin_s = time.monotonic()
    # Anew a few times, as memory may have moved, and have been seen to, before both were subscribed.
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
        "if its update_period is longer, use --timeout; else look into its log, and start it again",
    )


def _ready(links: tuple[DeviceFile, ...], timeout_s: float) -> bool:
    poller = select.poll()
    for link in links:
        poller.register(link, select.POLLIN)
    events = poller.poll(timeout_s * 1000)
    if any(event & select.POLLERR for _, event in events):
        raise device_error(errno.ENOTCONN, links[0].path)
    return bool(events)
