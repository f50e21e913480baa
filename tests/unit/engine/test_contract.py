# SPDX-License-Identifier: MIT
"""The contract beyond single crossings: damping, reads that bind, percentages, failures."""

import errno
import os
import random
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import ClassVar

import pytest
from support.bench import Bench
from support.fakes import FakeReader

from memnotify.abi.figures import NAMES, USED
from memnotify.abi.thresholds import parse
from memnotify.kernel.meminfo import MemInfoError

WALKS = int(os.environ.get("MEMNOTIFY_WALKS", "200"))
MAX_UPDATE_PERIOD_S = 15.0
MIN_UPDATE_PERIOD_S = 0.02


class Client:
    """A client that reads and polls by the rules, with one threshold on ``used``."""

    made: ClassVar[list["Client"]] = []

    def __init__(self, text: bytes, *, used: int = 100, total: int = 10_000) -> None:
        self.reader = FakeReader(used, total=total)
        self.bench: Bench[FakeReader] = Bench(self.reader)
        self.level = parse(text, NAMES)[USED]
        self.fh = self.bench.device.open()
        self.bench.device.write(self.fh, text)
        self.told_above = self.read() >= self.threshold
        self.made.append(self)

    @property
    def threshold(self) -> int:
        """Where the threshold is, in pages."""
        return self.level.pages(self.reader.figures.total)

    def move(self, used: int) -> None:
        """Move memory, some time after the last reading."""
        self.bench.clock.tick(1)
        self.reader.use(used)

    def sample(self, used: int | None = None) -> bool:
        """Let memory move and be sampled; return True if the client then has an event."""
        if used is not None:
            self.move(used)
        self.bench.sampler.sample()
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether a poll reports an event."""
        return bool(self.bench.device.poll(self.fh, select.POLLIN, 0) & select.POLLIN)

    def read(self) -> int:
        """Read the line; return ``used``, and remember on which side of the threshold it was."""
        words = self.bench.device.read(self.fh).split()
        self.told_above = int(words[3]) >= self.level.pages(int(words[1]))
        return int(words[3])

    def error(self, granularity_pages: int) -> tuple[int, int]:
        """Return by how many pages the client is wrong about its threshold, and the allowed d."""
        used, threshold = self.reader.figures.used, self.threshold
        damping = min(granularity_pages, threshold // 8)
        if self.told_above == (used >= threshold):
            return 0, damping
        return abs(used - threshold), damping


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Close what each walk has open: a thousand would leave no descriptor that select(2) takes."""
    yield
    while Client.made:
        Client.made.pop().bench.sampler.stop()


@pytest.fixture
def client() -> Callable[..., Client]:
    """Return a function that makes a client."""
    return Client


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # g is 10,000 / 128 = 78; T / 8 is 62: up at 500, down below min(500, 500 + 1 - 62) = 439
        (b"used 500", [(500, True), (439, False), (438, True)]),
        # T / 8 is 5: down below 36, up from 35 + 5 = 40
        (b"used 40", [(30, True), (39, False), (40, True), (36, False), (35, True)]),
        # T / 8 is 0: a threshold of few pages is not damped
        (b"used 7", [(6, True), (7, True), (6, True)]),
        # g decides: down below 5,000 + 1 - 78
        (b"used 5000", [(5000, True), (4923, False), (4922, True)]),
    ],
)
def test_damping(client: Callable[..., Client], text: bytes, steps: list[tuple[int, bool]]) -> None:
    """The damping is min(g, T / 8), so a small threshold fires in both directions on a large machine."""
    one = client(text)
    for used, event in steps:
        assert one.sample(used) is event, used
        if event:
            one.read()


def test_what_a_read_told_binds(client: Callable[..., Client]) -> None:
    """A client that read the other side without an event is notified when the figure comes back."""
    one = client(b"used 5000")
    assert one.sample(5000)
    assert one.read() == 5000
    # Damped: below the threshold, above 4,923.
    assert not one.sample(4990)
    assert one.read() == 4990
    # Armed for the way up again, at 4,990 + 78, and then for the way down.
    assert not one.sample(5067)
    assert one.sample(5068)


def test_what_a_read_told_binds_in_the_other_direction(client: Callable[..., Client]) -> None:
    one = client(b"used 5000", used=5100)
    assert one.sample(4999)
    assert one.read() == 4999
    assert not one.sample(5010)
    assert one.read() == 5010
    # Armed for the way down again: below min(5,000, 5,010 + 1 - 78).
    assert not one.sample(4933)
    assert one.sample(4932)


def test_a_line_beyond_the_level_is_an_event_all_the_same(client: Callable[..., Client]) -> None:
    """A client's reading counts as a sample: a crossing that only it saw is an event as well."""
    one = client(b"used 5000")
    one.move(6000)
    assert one.read() == 6000
    assert one.pending
    assert one.read() == 6000
    assert not one.pending
    # Memory went back before the sampler looked.
    assert one.sample(100)


def test_a_read_that_crosses_notifies_the_others() -> None:
    one = Client(b"used 5000")
    other = one.bench.device.open()
    one.bench.device.write(other, b"used 5500")
    one.bench.device.poll(other, select.POLLIN, 77)
    one.move(6000)
    one.read()
    assert one.bench.notified == [77]


@pytest.mark.parametrize("seed", range(WALKS))
def test_no_client_is_wrong_by_more_than_the_damping(seed: int) -> None:
    """After any history of reads, writes, totals and bad samples, this holds at the next sample."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    percent = chance.random() < 0.5
    text = b"used %d%%" % chance.randrange(1, 100) if percent else b"used %d" % chance.randrange(1, 1000)
    one = Client(text, total=1000)
    for _ in range(300):
        one.bench.clock.tick(chance.choice((0.01, 0.1, 0.3, 1)))
        total = one.reader.figures.total
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                near = one.threshold + chance.randrange(-12, 13)
                used = chance.choice((near, chance.randrange(total + 1)))
                one.reader.use(max(0, min(total, used)))
            case 4 if percent:
                total = chance.choice((100, 700, 1000, 1300))
                used = min(one.reader.figures.used, total)
                one.reader.figures = one.reader.figures._replace(total=total, used=used)
            case 5:
                one.read()
            case 6 if chance.random() < 0.2:
                one.bench.device.write(one.fh, text)
                one.read()
            case 6:
                # A bad sample, or a bad reading for a client, which then gets the last good figures.
                one.reader.before = [fail]
                with suppress(MemInfoError):
                    chance.choice((one.sample, one.read))()
                one.reader.before = []
                one.bench.clock.tick(MIN_UPDATE_PERIOD_S * 2)
            case _:
                event = one.sample()
                if not event:
                    error, damping = one.error(one.bench.sampler._parameters.granularity_pages(total))
                    assert error <= damping
                elif chance.random() < 0.7:
                    one.read()


def test_percentages_follow_total(client: Callable[..., Client]) -> None:
    """80 % of 24 GiB is more than 8 GiB: when swap goes, the threshold goes with it."""
    gib = 2**30 // 4096
    one = client(b"used 80%", used=7 * gib, total=24 * gib)
    pages = client(b"used 6G", used=5 * gib, total=24 * gib)
    one.reader.figures = one.reader.figures._replace(total=8 * gib, used=int(7.9 * gib))
    one.bench.clock.tick(1)
    assert one.sample()
    one.read()
    one.reader.figures = one.reader.figures._replace(total=24 * gib)
    one.bench.clock.tick(1)
    assert one.sample()
    # A threshold in pages stays where it is.
    pages.reader.figures = pages.reader.figures._replace(total=8 * gib)
    pages.bench.clock.tick(1)
    assert not pages.sample()


def test_a_subscription_between_two_totals() -> None:
    """A percentage that is set by the figures of another total than the others' follows as they do."""
    one = Client(b"used 50%", used=100, total=1000)
    latest = one.bench.table.latest
    other = one.bench.device.open()
    passing = latest._replace(figures=latest.figures._replace(total=100_000))
    one.bench.table.subscribe(other, parse(b"used 50%", NAMES), passing)
    assert one.sample(600)
    assert one.bench.device.poll(other, select.POLLIN, 0) & select.POLLIN


def fail() -> None:
    """Fail a reading."""
    raise MemInfoError("broken")


def test_a_reading_that_fails_is_no_news(client: Callable[..., Client]) -> None:
    """No threshold crosses, the next attempt follows after min_update_period, and no event is lost."""
    one = client(b"used 5000")
    one.move(6000)
    one.reader.before = [fail]
    with pytest.raises(MemInfoError):
        one.bench.sampler.sample()
    assert not one.pending
    reads = one.reader.plain_reads
    with pytest.raises(MemInfoError):
        one.bench.sampler.sample()
    assert one.reader.plain_reads == reads
    one.bench.clock.tick(1.01 * MIN_UPDATE_PERIOD_S)
    assert one.sample()


def test_reads_go_on_with_the_last_good_figures(client: Callable[..., Client]) -> None:
    """For max_update_period after the first failure; then EIO, which costs the client no event."""
    one = client(b"used 5000")
    assert one.sample(6000)
    # The interval may be as long as that, so the last good reading is no measure.
    one.bench.clock.tick(MAX_UPDATE_PERIOD_S + 1)
    one.reader.use(7000)
    started_s = one.bench.clock()
    while one.bench.clock() - started_s <= MAX_UPDATE_PERIOD_S:
        one.reader.before = [fail]
        assert one.read() == 6000
        one.bench.clock.tick(1)
    assert not one.pending
    one.reader.before = [fail]
    with pytest.raises(OSError, match="broken") as caught:
        one.read()
    assert caught.value.errno == errno.EIO
    one.bench.clock.tick(1)
    assert one.read() == 7000
    # The next failure is a first one again.
    one.bench.clock.tick(1)
    one.reader.before = [fail]
    assert one.read() == 7000


def test_figures_of_any_age_are_not_good(client: Callable[..., Client]) -> None:
    """If no observer has a threshold, no sample is taken, and the last one may be of yesterday."""
    one = client(b"used 5000")
    one.bench.device.write(one.fh, b"")
    one.bench.clock.tick(MAX_UPDATE_PERIOD_S + 1)
    one.reader.before = [fail]
    with pytest.raises(OSError, match="broken"):
        one.read()


def test_the_last_good_figures_may_be_of_a_plain_sample(client: Callable[..., Client]) -> None:
    """An exact reading is taken rarely, and is older than max_update_period in most daemons."""
    one = client(b"used 5000")
    one.bench.clock.tick(MAX_UPDATE_PERIOD_S)
    assert not one.sample(4000)
    one.bench.clock.tick(MAX_UPDATE_PERIOD_S / 2)
    one.reader.before = [fail]
    assert one.read() == 4000


def _break_for_good(one: Client) -> None:
    """Let reading fail for longer than the last good figures are used."""
    one.reader.before = [fail]
    with pytest.raises(MemInfoError):
        one.bench.sampler.sample()
    one.bench.clock.tick(MAX_UPDATE_PERIOD_S + 1)
    one.reader.before = [fail]


def test_a_read_that_fails_gives_the_event_back(client: Callable[..., Client]) -> None:
    one = client(b"used 5000")
    assert one.sample(6000)
    _break_for_good(one)
    with pytest.raises(OSError, match="broken"):
        one.read()
    assert one.pending


def test_a_write_that_fails_keeps_the_thresholds(client: Callable[..., Client]) -> None:
    one = client(b"used 5000")
    _break_for_good(one)
    with pytest.raises(OSError, match="broken"):
        one.bench.device.write(one.fh, b"used 7000")
    one.bench.clock.tick(1)
    assert one.sample(6000)
