# SPDX-License-Identifier: MIT
"""The device's operations, on a fake memory and without a session."""

import errno
import itertools
import logging
import math
import re
import select
import sys
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from support.bench import Bench, sampling
from support.fakes import FakeReader
from support.waiting import eventually

from memnotify.abi.figures import NAMES, Figures
from memnotify.engine import device as device_module
from memnotify.engine.device import Device
from memnotify.engine.observer import NO_HANDLE
from memnotify.engine.sampler import Timing
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable, Sample

IN, PRI, OUT = select.POLLIN, select.POLLPRI, select.POLLOUT
RDNORM, WRNORM = select.POLLRDNORM, select.POLLWRNORM
IDLE = OUT | WRNORM
EVENT = IDLE | IN | RDNORM | PRI
PERIOD_S = 0.25


class DeviceBench(Bench[FakeReader]):
    """A device with everything below it, and one open file."""

    def __init__(self, parameters: SamplingParameters | None = None, *, timing: Timing | None = None) -> None:
        super().__init__(FakeReader(), parameters, timing=timing)
        self.fh = self.device.open()

    def memory(self, used: int) -> None:
        """Change the memory, and take a sample a second later."""
        self.clock.tick(1)
        self.reader.use(used)
        self.sampler.sample()

    def event(self) -> None:
        """Make an event pending: used goes above the threshold of 500."""
        self.memory(100)
        self.device.write(self.fh, b"used 500")
        self.memory(600)
        assert self.pending

    @property
    def pending(self) -> bool:
        """Whether an event is pending, by a poll that changes nothing."""
        return self.device.poll(self.fh, 0, NO_HANDLE) == EVENT


@pytest.fixture
def bench() -> Iterator[DeviceBench]:
    """Yield a bench, and close it at the end."""
    bench = DeviceBench()
    yield bench
    bench.sampler.stop()


def test_read_gives_the_line(bench: DeviceBench) -> None:
    """Every read returns the whole line, with figures at most update_period old."""
    line = b"total 10000 used 100 active 50\n"
    assert bench.device.read(bench.fh) == line
    bench.reader.use(101, active=51)
    assert bench.device.read(bench.fh) == line
    bench.clock.tick(PERIOD_S + 0.001)
    assert bench.device.read(bench.fh) == b"total 10000 used 101 active 51\n"
    assert bench.device.read(bench.device.open()) == b"total 10000 used 101 active 51\n"


@pytest.mark.parametrize("acknowledge", [b"read", b"used 500", b"", b"active 7"])
def test_read_and_write_acknowledge(bench: DeviceBench, acknowledge: bytes) -> None:
    """Either of them clears a pending event, of its own file only."""
    other = bench.device.open()
    bench.device.write(other, b"used 300")
    bench.event()
    if acknowledge == b"read":
        bench.device.read(bench.fh)
    else:
        assert bench.device.write(bench.fh, acknowledge) == len(acknowledge)
    assert not bench.pending
    assert bench.device.poll(other, IN, NO_HANDLE) == EVENT


@pytest.mark.parametrize("by", ["read", "poll"])
def test_an_event_whose_reply_failed_is_given_back(bench: DeviceBench, by: str) -> None:
    """It is pending again, once, and a client that polls meanwhile is to be notified."""
    bench.event()
    if by == "read":
        bench.device.read(bench.fh)
    else:
        bench.device.poll(bench.fh, PRI, NO_HANDLE)
    assert not bench.table.poll(bench.fh, 9)
    assert bench.device.give_back(bench.fh) == 9
    assert bench.device.give_back(bench.fh) == NO_HANDLE
    assert bench.pending
    bench.device.read(bench.fh)
    assert not bench.pending


def test_a_read_that_acknowledged_nothing_gives_nothing_back(bench: DeviceBench) -> None:
    bench.event()
    bench.device.read(bench.fh)
    bench.device.read(bench.fh)
    assert bench.device.give_back(bench.fh) == NO_HANDLE
    bench.device.poll(bench.fh, IN, NO_HANDLE)
    assert bench.device.give_back(bench.fh) == NO_HANDLE
    assert not bench.pending


def test_an_event_of_a_file_that_was_closed_is_not_given_back(bench: DeviceBench) -> None:
    bench.event()
    bench.device.read(bench.fh)
    bench.device.release(bench.fh)
    assert bench.device.give_back(bench.fh) == NO_HANDLE


def test_a_crossing_during_a_read_stays_pending(bench: DeviceBench) -> None:
    """A crossing that the read itself finds is the client's next event; the read does not acknowledge it."""
    bench.device.write(bench.fh, b"used 500")
    bench.clock.tick(1)
    bench.reader.before = [lambda: bench.reader.use(600)]
    assert b"used 600" in bench.device.read(bench.fh)
    assert bench.pending


@pytest.mark.parametrize("used", [499, 500, 501])
def test_the_state_at_the_write(bench: DeviceBench, used: int) -> None:
    """A threshold that is exceeded at the write is no event; leaving it is."""
    bench.memory(100 if used >= 500 else 600)
    bench.clock.tick(1)
    bench.reader.use(used)
    bench.device.write(bench.fh, b"used 500")
    bench.memory(used)
    assert not bench.pending
    bench.memory(499 if used >= 500 else 500)
    assert bench.pending


def test_write_replaces(bench: DeviceBench) -> None:
    """A name that is left out is not watched any more; an empty write watches nothing."""
    bench.device.write(bench.fh, b"used 500 active 500")
    assert bench.device.write(bench.fh, b"active 500\n") == 11
    bench.memory(600)
    assert not bench.pending
    bench.device.write(bench.fh, b"used 700")
    bench.device.write(bench.fh, b"")
    assert not bench.table.watching
    bench.memory(800)
    assert not bench.pending


@pytest.mark.parametrize("text", [b"foo 5", b"used 5 active x", b"used", b" " * 4097])
def test_a_refused_write_changes_nothing(bench: DeviceBench, text: bytes) -> None:
    """EINVAL: the thresholds stay as they were, and so does a pending event."""
    bench.event()
    with pytest.raises(OSError, match=r".") as refusal:
        bench.device.write(bench.fh, text)
    assert refusal.value.errno == errno.EINVAL
    assert bench.pending
    bench.device.read(bench.fh)
    bench.memory(100)
    assert bench.pending


def test_the_same_write_again(bench: DeviceBench) -> None:
    """What was written last is not parsed again; it means the same, also after a write that was refused."""
    other = bench.table.open()
    bench.device.write(bench.fh, b"used 60%")
    for _ in range(2):
        with pytest.raises(OSError, match="not understood"):
            bench.device.write(bench.fh, b"used 60% foo 5")
    bench.device.write(other, b"used 60%")
    bench.device.write(bench.fh, b"")
    bench.device.write(bench.fh, b"")
    assert bench.table.record(bench.fh).thresholds == []
    bench.device.write(bench.fh, b"used 60%")
    assert bench.table.record(bench.fh).thresholds == bench.table.record(other).thresholds != []


def test_percent_is_of_total(bench: DeviceBench) -> None:
    """A percentage is of the total at the time of the write."""
    bench.device.write(bench.fh, b"used 6%")
    bench.memory(599)
    assert not bench.pending
    bench.memory(600)
    assert bench.pending


@pytest.mark.parametrize(
    ("events", "clears"),
    [
        (PRI, True),
        (PRI | OUT, True),
        (PRI | select.POLLERR | select.POLLHUP, True),  # what an epoll for EPOLLPRI asks for
        (IN, False),
        (IN | PRI, False),
        (RDNORM, False),
        (RDNORM | PRI, False),
        (IN | RDNORM | PRI, False),
        (0xFB, False),  # a select for reading
        (0x32E, False),  # a select for writing, which asks for POLLPRI unasked
        (0x22, True),  # a select for exceptional conditions
        (0x3FF, False),  # a select for everything
        (OUT, False),
        (0, False),
    ],
)
def test_poll_is_level(bench: DeviceBench, events: int, *, clears: bool) -> None:
    """A poll leaves an event pending, unless it asks for POLLPRI without POLLIN."""
    assert bench.device.poll(bench.fh, events, NO_HANDLE) == IDLE
    bench.event()
    assert bench.device.poll(bench.fh, events, NO_HANDLE) == EVENT
    assert bench.device.poll(bench.fh, events, NO_HANDLE) == (IDLE if clears else EVENT)


@pytest.mark.parametrize(
    ("events", "clears"),
    [
        (PRI, True),
        (IN, True),
        (RDNORM, True),
        (IN | PRI, True),
        (0xFB, True),
        (0x22, True),
        (0x3FF, True),
        (0x32E, False),
        (OUT, False),
        (0, False),
    ],
)
def test_poll_acknowledges(events: int, *, clears: bool) -> None:
    """With poll_acknowledges a poll that reports the event clears it, as in the original."""
    bench = DeviceBench()
    bench.device.poll_acknowledges = True
    bench.event()
    assert bench.device.poll(bench.fh, events, NO_HANDLE) == EVENT
    assert bench.device.poll(bench.fh, events, NO_HANDLE) == (IDLE if clears else EVENT)
    bench.sampler.stop()


def test_poll_keeps_one_handle(bench: DeviceBench) -> None:
    """The first handle is kept until an event uses it; then the next one is kept."""
    poll = bench.device.poll
    bench.device.write(bench.fh, b"used 500")
    assert poll(bench.fh, IN, 7) == IDLE
    assert poll(bench.fh, IN, 8) == IDLE
    bench.memory(600)
    assert bench.notified == [7]
    assert poll(bench.fh, IN, 9) == EVENT
    # Not acknowledged: it is not woken again.
    bench.memory(100)
    bench.memory(600)
    assert bench.notified == [7]
    bench.device.read(bench.fh)
    bench.memory(100)
    assert bench.notified == [7, 9]


def test_release_forgets_the_handle(bench: DeviceBench) -> None:
    """No client waits on a closed file."""
    bench.device.write(bench.fh, b"used 500")
    bench.device.poll(bench.fh, IN, 7)
    bench.device.release(bench.fh)
    assert not bench.table.watching
    bench.memory(600)
    assert bench.notified == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda device, fh: device.read(fh),
        lambda device, fh: device.write(fh, b"used 5"),
        lambda device, fh: device.poll(fh, IN, 7),
        lambda device, fh: device.poll(fh, PRI, NO_HANDLE),
    ],
)
def test_a_file_that_is_not_open(bench: DeviceBench, operation: Callable[[Device, int], object]) -> None:
    """EBADF, and no handle is kept."""
    bench.device.release(bench.fh)
    for fh in (bench.fh, 0, 12345, 2**64 - 1):
        with pytest.raises(OSError, match="not open") as refusal:
            operation(bench.device, fh)
        assert refusal.value.errno == errno.EBADF
    bench.device.release(bench.fh)
    assert len(bench.table) == 0


def test_a_write_wakes_the_sampler() -> None:
    """The first thresholds end the sampler's sleep."""
    bench = DeviceBench(sampling(0.001), timing=Timing())
    bench.sampler.worker.start(lambda: None)
    bench.device.write(bench.fh, b"used 500")
    bench.reader.use(600)
    eventually(lambda: bench.pending, "the crossing is noticed")
    bench.sampler.stop()


@pytest.mark.parametrize("ending", [b"", None])
def test_the_last_thresholds_let_the_sampler_sleep(ending: bytes | None) -> None:
    """A write of nothing, or the release of the last file with thresholds, ends the waiting for a sample."""
    bench = DeviceBench(sampling(3600, 3600), timing=Timing())
    bench.sampler.worker.start(lambda: None)
    bench.device.write(bench.fh, b"used 500")
    eventually(lambda: bench.sampler._published_due_s < math.inf, "the sampler waits for its next sample")
    if ending is None:
        bench.device.release(bench.fh)
    else:
        bench.device.write(bench.fh, ending)
    eventually(lambda: bench.sampler._published_due_s == math.inf, "the sampler waits for nothing")
    bench.sampler.stop()


def refuse(bench: DeviceBench, text: bytes, times: int = 1) -> None:
    """Write what is refused."""
    for _ in range(times):
        with pytest.raises(OSError, match=r"."):
            bench.device.write(bench.fh, text)


def test_refusals_are_explained(bench: DeviceBench, caplog: pytest.LogCaptureFixture) -> None:
    """At debug level each EINVAL is explained, within the log's limit."""
    caplog.set_level(logging.DEBUG)
    for text in (b"foo 5", b"used x", b"total\xff 1"):
        refuse(bench, text)
    said = [re.fullmatch(r"EINVAL: ('.*?') is not understood: .*", r.getMessage()) for r in caplog.records]
    assert [match and match[1] for match in said] == ["'foo'", "'x'", r"'total\xff'"]
    assert {(record.levelno, vars(record)["limited"]) for record in caplog.records} == {(logging.DEBUG, True)}


def test_refusals_are_not_explained_above_debug(bench: DeviceBench, caplog: pytest.LogCaptureFixture) -> None:
    """At the default level a client's mistakes are not logged."""
    caplog.set_level(logging.INFO)
    refuse(bench, b"foo 5", 3)
    assert caplog.records == []


def between_lines(call: Callable[[], object], number: int, then: Callable[[], object]) -> bool:
    """Call ``then`` before a line of the device's code, as another thread may; return whether it came."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != device_module.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                then()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines >= number


@pytest.mark.parametrize("first", [0, 1])
def test_two_threads_of_one_device(first: int) -> None:
    """memnotify.testing has one for all threads: what the device keeps is of one request, whole."""
    samples = [Sample(when_s, Figures(1000, int(when_s) * 100, 0), exact=True) for when_s in (1.0, 2.0)]
    texts = [b"used 300", b"used 400"]
    for number in itertools.count(1):
        table, current = ObserverTable(), samples[0]
        sampler: Any = SimpleNamespace(names=NAMES, cached=lambda: current)  # noqa: B023 - called in this turn
        device = Device(table, sampler)
        fhs = device.open(), device.open()

        def use(which: int) -> None:
            nonlocal current
            current = samples[which]
            assert device.read(fhs[which]) == current.figures.line  # noqa: B023 - as above
            device.write(fhs[which], texts[which])  # noqa: B023 - as above
            (state,) = table.describe([fhs[which]])  # noqa: B023 - as above
            assert [pages for _, pages, *_ in state[-1]] == [300 + 100 * which]

        def ask() -> None:
            device.read(fhs[0])  # noqa: B023 - as above
            device.write(fhs[0], texts[0])  # noqa: B023 - as above

        came = between_lines(ask, number, lambda: use(1))
        use(first)
        use(1 - first)
        if not came:
            break
    assert number > 10
