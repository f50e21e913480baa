# SPDX-License-Identifier: MIT
"""The whole device over the wire against the model: every event told, every notification, and no other."""

import errno
import itertools
import os
import random
import select
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from support import fake_kernel
from support.bench import Bench, sampling
from support.fake_kernel import FakeKernel, serving, write_body
from support.fakes import WIDE, FakeReader
from support.model import ModelObserver, granularity_of, understood
from support.strategies import granularities, small_figures, small_pages, small_writes

from memnotify.abi.figures import NAMES, PAGE_SIZE, Figures
from memnotify.engine.table import ObserverTable, Sample
from memnotify.kernel.meminfo import MemInfoError

PERIOD_S = 0.25
MIN_S, MAX_S = 0.02, 15.0
EXTRA_FIGURES = WIDE._fields[len(NAMES) :]
IN, PRI = select.POLLIN, select.POLLPRI
SELECT_WRITE = 0x32E
IDLE = select.POLLOUT | select.POLLWRNORM
EVENT = IDLE | IN | PRI | select.POLLRDNORM
# poll and epoll for POLLIN, epoll for EPOLLPRI alone, select for reading, writing and exceptional conditions,
# and what asks for no event
EVENTS = (0x19, IN | PRI, PRI, 0x1A, 0xFB, SELECT_WRITE, 0x22, select.POLLOUT, 0)


class ModelBench(Bench[FakeReader]):
    """A device behind a session that serves ``kernel``, with its sampler in the test's hands."""

    kernel: FakeKernel


@contextmanager
def benched(*, pcp_is_free: bool = True, update_space_kib: int = 0) -> Iterator[ModelBench]:
    """Give a bench, and clear it away."""

    def notify(handles: "array[int]", count: int) -> None:
        session.notify(handles, count)

    bench = ModelBench(
        FakeReader(extra=EXTRA_FIGURES, pcp_is_free=pcp_is_free),
        sampling(PERIOD_S, update_space_kib=update_space_kib),
        table=ObserverTable(len(WIDE._fields)),
        notify=notify,
    )
    with serving(bench.device) as (bench.kernel, session):
        yield bench
    bench.sampler.stop()


def _update_space_kib(granularity: int) -> int:
    # Less than two pages is no granularity; 0 would be the automatic one.
    return 2 * granularity * PAGE_SIZE // 1024 or 1


class DeviceMachine(RuleBasedStateMachine):
    """Drive clients, a memory and a sampler at random; each reply and notification must be the model's."""

    files: Bundle[int] = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.ending = ExitStack()
        self.model: dict[int, ModelObserver] = {}

    @initialize(granularity=granularities, pcp_is_free=st.booleans(), poll_acknowledges=st.booleans())
    def begin(self, granularity: int, *, pcp_is_free: bool, poll_acknowledges: bool) -> None:
        """Start a device."""
        self.granularity = granularity
        self.poll_acknowledges = poll_acknowledges
        self.bench = self.ending.enter_context(
            benched(
                pcp_is_free=pcp_is_free,
                update_space_kib=_update_space_kib(granularity),
            )
        )
        self.bench.device.poll_acknowledges = poll_acknowledges
        self.kernel = self.bench.kernel
        self.bench.reader.figures = WIDE(*(0 for _ in WIDE._fields))
        self.counted_s = 0.0

    def teardown(self) -> None:
        """End it."""
        self.ending.close()

    @property
    def served(self) -> Sample | None:
        """Return the sample that a read uses now; None if the read fails with EIO."""
        latest = self.bench.table.latest
        if latest.exact and self.bench.clock() - latest.taken_s <= PERIOD_S:
            return latest
        if not self.bench.reader.fails:
            return self.bench.table.latest._replace(taken_s=self.bench.clock(), figures=self.figures())
        # The last good figures, none from before an event, for a time from the first failure.
        now_s = self.bench.clock()
        if now_s - self.bench.sampler._failing_s > MAX_S:
            return None
        good = self.bench.table.latest_exact
        good = good if good.taken_s >= max(self.bench.table.event_s, now_s - MAX_S) else latest
        # Without thresholds no sample is taken, and they may be of any age.
        return good if self.bench.table.watching or now_s - good.taken_s <= MAX_S else None

    def used(self, figures: Figures) -> None:
        """Count the figures of the last read in the model, if they were read for it."""
        latest = self.bench.table.latest
        if latest.taken_s != self.bench.clock() or self.counted_s == latest.taken_s:
            assert self.woken() == []
            return
        assert latest.exact
        assert latest.figures == self.figures() == figures
        self._sampled_now()

    def woken(self) -> list[int]:
        """Return the clients that were notified."""
        return sorted(self.kernel.notified())

    @precondition(lambda self: len(self.model) < 3)
    @rule(target=files)
    def open(self) -> int:
        """Open a file; only a few, so that much happens to each."""
        fh = self.kernel.open()
        assert fh not in self.model
        self.model[fh] = ModelObserver()
        return fh

    @rule(fh=consumes(files))
    def close(self, fh: int) -> None:
        """Close a file, and make one more request: the reply to a release comes before its effect."""
        self.kernel.release(fh)
        self.kernel.ask(fake_kernel.GETATTR)
        del self.model[fh]

    @rule(fh=files, text=small_writes, separator=st.sampled_from((b" ", b"=", b" = ")))
    def write(self, fh: int, text: bytes, separator: bytes) -> None:
        """Write thresholds; on EIO they do not change."""
        wanted = understood(text, WIDE._fields)
        assert wanted is not None
        pairs = text.split()
        text = b" ".join(a + separator + b for a, b in zip(pairs[::2], pairs[1::2], strict=True))
        served = self.served
        if served is None:
            assert self.kernel.ask(fake_kernel.WRITE, write_body(fh, text)).error == -errno.EIO
            return
        assert self.kernel.write(fh, text) == len(text)
        # A reading that was taken for the write counts for the thresholds of before.
        self.used(served.figures)
        self.model[fh].write(wanted, served.figures)

    @rule(fh=files, text=st.sampled_from((b"used", b"used 5 foo 7", b"used 5 used 6", b"\xff", b" " * 4097)))
    def write_nonsense(self, fh: int, text: bytes) -> None:
        """Write what is refused: no figures are read, and no threshold changes."""
        assert self.kernel.ask(fake_kernel.WRITE, write_body(fh, text)).error == -errno.EINVAL

    @rule(fh=files, size=st.sampled_from((4096, 8192, 10, 1)))
    def read(self, fh: int, size: int) -> None:
        """Read the line, which acknowledges the event unless the figures cannot be read."""
        served = self.served
        if served is None:
            body = fake_kernel.READ_IN.pack(fh, 0, size, 0, 0, 0, 0)
            assert self.kernel.ask(fake_kernel.READ, body).error == -errno.EIO
            return
        assert self.kernel.read(fh, size) == served.figures.line[:size]
        for observer in self.model.values():
            observer.follow(served.figures.total, self.granularity)
        self.model[fh].read(served.figures, self.granularity)
        self.used(served.figures)

    @rule(fh=files, events=st.sampled_from(EVENTS), waits=st.booleans())
    def poll(self, fh: int, events: int, *, waits: bool) -> None:
        """Poll, with or without a handle."""
        kh = 1000 + fh
        pending, _ = self.model[fh].poll(kh if waits else 0)
        assert self.kernel.poll(fh, events, kh if waits else None) == (EVENT if pending else IDLE)
        # select for writing asks for POLLPRI unasked.
        asked = events & (IN | PRI | select.POLLRDNORM) if events != SELECT_WRITE else 0
        if asked == PRI or (asked and self.poll_acknowledges):
            self.model[fh].pending = False

    @rule(figures=small_figures, pcp_pages=small_pages, seconds=st.sampled_from((0.001, 0.1, 1)))
    def move(self, figures: Figures, pcp_pages: int, seconds: float) -> None:
        """Change the memory, and the pages on the per-CPU lists."""
        self.bench.clock.tick(seconds)
        self.bench.reader.figures = figures
        self.bench.reader.pcp_pages = pcp_pages

    def figures(self) -> Figures:
        """Return the contract's figures: without pcp_is_free the pages on the lists are used."""
        reader = self.bench.reader
        if reader.pcp_is_free:
            return reader.figures
        return reader.figures._replace(used=reader.figures.used + reader.pcp_pages)

    @rule(granularity=granularities, poll_acknowledges=st.booleans())
    def reload(self, granularity: int, *, poll_acknowledges: bool) -> None:
        """Change the parameters: a sample follows at once if any observer has thresholds."""
        self.bench.device.poll_acknowledges = self.poll_acknowledges = poll_acknowledges
        self.granularity = granularity
        self.bench.sampler.set_parameters(sampling(PERIOD_S, update_space_kib=_update_space_kib(granularity)))
        self.bench.sampler.turn()
        if self.bench.table.watching and not self.bench.reader.fails:
            self._sampled_now()

    @rule(
        fh=files,
        text=small_writes,
        memories=st.lists(st.tuples(small_figures, small_pages), min_size=1, max_size=3),
        events=st.sampled_from(EVENTS),
        reads=st.booleans(),
    )
    def live(
        self,
        *,
        fh: int,
        text: bytes,
        memories: list[tuple[Figures, int]],
        events: int,
        reads: bool,
    ) -> None:
        """Do what most clients do: write, wait, perhaps read, wait again."""
        self.write(fh, text, b" ")
        for _ in range(2):
            self.poll(fh, events, waits=True)
            for figures, pcp_pages in memories:
                self.move(figures, pcp_pages, 0.001)
                self.sample(0)
            self.poll(fh, events, waits=False)
            if reads:
                self.read(fh, 4096)

    @rule(seconds=st.sampled_from((0, 0.1)))
    def sample(self, seconds: float) -> None:
        """Take a sample: each waiting observer that crossed is notified once."""
        self.bench.clock.tick(seconds)
        if self.bench.reader.fails:
            with pytest.raises(MemInfoError):
                self.bench.sampler.sample()
            assert self.woken() == []
            return
        self.bench.sampler.sample()
        self._sampled_now()

    def _sampled_now(self) -> None:
        self.counted_s = self.bench.table.latest.taken_s
        self.bench.clock.tick(1e-6)
        woken = {observer.see(self.figures(), self.granularity) for observer in self.model.values()} - {0}
        assert self.woken() == sorted(woken)

    @rule(seconds=st.sampled_from((0, 1, 16)))
    def fail(self, seconds: float) -> None:
        """Let readings fail, sometimes for longer than the last good figures may be used."""
        self.bench.reader.fails = True
        self.bench.clock.tick(seconds)

    @rule()
    def mend(self) -> None:
        """Let readings succeed again from the next attempt on."""
        self.bench.reader.fails = False
        self.bench.clock.tick(MIN_S * 1.01)

    @invariant()
    def nothing_else(self) -> None:
        """No other notification arrives, and the pending events are the model's."""
        for fh, observer in self.model.items():
            assert self.kernel.poll(fh, 0) == (EVENT if observer.pending else IDLE)
        if self.model:
            assert self.kernel.silent()


TestDevice = DeviceMachine.TestCase
TestDevice.settings = settings(
    max_examples=int(os.environ.get("MEMNOTIFY_EXAMPLES", "250")), stateful_step_count=40
)


class Scribe:
    """Random writes, valid or nearly valid."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def text(self) -> bytes:
        """Return a write."""
        r = self._random
        names = r.sample(WIDE._fields, r.randint(0, 3))
        text = " ".join(f"{name}{r.choice((' ', '  ', '=', ' = ', chr(9)))}{self._value()}" for name in names)
        text += r.choice(("", "", "\n", "\0", " "))
        if r.random() < 0.4 and text:
            place = r.randrange(len(text))
            text = (
                text[:place] + r.choice(("", "x", "-", " ", "=", "used 7", "9" * 19, "%")) + text[place + 1 :]
            )
        return text.encode()

    def figures(self, total: int) -> Figures:
        """Return a memory near the thresholds."""
        return WIDE(total, *(self._random.randint(0, 9999) for _ in WIDE._fields[1:]))

    def _value(self) -> str:
        r = self._random
        return r.choice(
            (
                str(r.randint(0, 9999)),
                f"{r.randint(0, 120)}%",
                f"{r.randint(0, 99)}.{r.randint(0, 999)}%",
                f"{r.randint(0, 39)}M",
                f"{r.randint(0, 39)}.{r.randint(0, 99)}M",
                f"{r.randint(0, 39999)}K",
                f"0.0{r.randint(0, 39)}G",
                "00042",
            )
        )


def test_a_hundred_thousand_writes() -> None:
    """Each reply is the reference's; moving the memory shows which thresholds hold in the end."""
    scribe, total = Scribe(seed=2012), 10_000
    answers = {0: 0, -errno.EINVAL: 0}
    events = 0
    with benched() as bench:
        kernel, sampler, reader, clock = bench.kernel, bench.sampler, bench.reader, bench.clock
        fhs = [kernel.open() for _ in range(4)]
        model = {fh: ModelObserver() for fh in fhs}
        writers = itertools.cycle(fhs)
        for _ in range(2500):
            clock.tick(1)
            reader.figures = scribe.figures(total)
            # Some at once, for speed; few, as a socket holds few.
            for _ in range(5):
                batch = [(next(writers), scribe.text()) for _ in range(8)]
                sent = [kernel.send(fake_kernel.WRITE, write_body(fh, text)) for fh, text in batch]
                for unique, (fh, text) in zip(sent, batch, strict=True):
                    wanted = understood(text, WIDE._fields)
                    _, error, body = kernel.reply_to(unique)
                    if wanted is None:
                        assert error == -errno.EINVAL, text
                    else:
                        assert (error, body) == (0, fake_kernel.WRITE_OUT.pack(len(text), 0)), text
                        model[fh].write(wanted, reader.figures)
                    answers[error] += 1
            for _ in range(2):
                clock.tick(1)
                reader.figures = scribe.figures(total)
                sampler.sample()
                for fh in fhs:
                    model[fh].see(reader.figures, granularity_of(total))
                    assert kernel.poll(fh, 0x19) == (EVENT if model[fh].pending else IDLE)
                    events += model[fh].pending
        assert kernel.silent()
    # The test is worth something: of each kind there are many.
    assert sum(answers.values()) == 100_000
    assert min(answers.values()) > 20_000
    assert 4000 < events < 16_000
