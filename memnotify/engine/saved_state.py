# SPDX-License-Identifier: MIT
"""The observers' state in memory that outlives the process, for the process that takes over its clients.

The memory is a file without a name (memfd_create(2)). Its first page says what is served. After it come slots
of 64-bit words, one for each observer:

    fh | kh | pending | number of thresholds | opener | cgroup | for each threshold: figure, value, armed

Each word is stored at once: if the process is killed, a word is either the old or the new one. The armed
direction and the value at the last event are one word. A client's write needs several words; the number of
thresholds is 0 meanwhile. The request is unanswered then, and the kernel sends it again to the next process.
"""

import json
import logging
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

from memnotify.abi.thresholds import VALUE_MAX, Level

log = logging.getLogger(__name__)

KH, PENDING, OPENER = -1, 0, 2
"""Where the kernel's handle, the pending event and the opener are, from the place of an observer."""
NO_PLACE = 2
"""The place of an observer that is not saved; nothing reads what is stored there."""

_FH, _COUNT, _GROUP, _THRESHOLDS = -2, 1, 3, 4
_THRESHOLD_WORDS = 3
ARMED, EACH = _THRESHOLDS + 2, _THRESHOLD_WORDS
"""Where the armed word of the first threshold is, and how far apart those of two are."""
_FIRST_WORDS = _THRESHOLDS - _FH + _THRESHOLD_WORDS
_HEADER = mmap.PAGESIZE
_GROWTH = 16 * mmap.PAGESIZE
_MAGIC = int.from_bytes(b"memntfy\x02", "little")
# Words of the header: the magic number, those that the shim keeps (shim.h), the length of the description.
_KEPT, _LENGTH = 1, 7
_DESCRIPTION = 64
_DESCRIPTION_MAX = _HEADER - _DESCRIPTION - 8
# The header's last word: how often slots were used whose memory was given back.
_USES = _HEADER // 8 - 1
_USES_MAX = 1 << 26
# A free slot keeps its last fh, since none is used twice: the upper half counts the uses of the slot.
_FREE = 1 << 63
_USE = 1 << 32
_SLOT = _USE - 1
_OF_TOTAL = 1 << 8
_DENOMINATOR_BIT = 16
_DENOMINATOR_MAX = (1 << 47) - 1
_NOT_WHOLE = "the saved state is not whole, or another version wrote it"
_CANNOT_SAVE = "the clients' state cannot be saved (%s): a restart will lose them"


class SavedStateError(Exception):
    """The memory does not hold the state of a daemon; the text says why."""


class Armed(NamedTuple):
    """A saved threshold: its figure's index, its level, the direction in which it is armed, its value."""

    figure: int
    level: Level
    sign: int
    value: int


class Record(NamedTuple):
    """A saved observer. ``place`` is where its next changes are stored."""

    fh: int
    place: int
    kh: int
    pending: bool
    opener: int
    group: int
    """The number of the cgroup of its threshold on one; 0 is the root, or that there is none."""
    thresholds: list[Armed]


class SavedState:
    """The saved observers of one device. Threads: the table calls it under its lock.

    If the file cannot grow, the state goes on in ordinary memory, and no process can take it over.
    """

    def __init__(self, figures: int, fd: int = -1) -> None:
        """Save for so many ``figures`` in the file ``fd``, and continue what is there; -1 is plain memory."""
        # One more: on the writer's cgroup.
        self._stride = 6 + _THRESHOLD_WORDS * (figures + 1)
        self._figures = figures
        self._slots = 0
        self._next_free = 0
        self.fd = fd
        """The file, or -1 if there is none any more."""
        self._header = self._map_header()
        self.words = memoryview(b"")
        """All slots."""
        size = os.fstat(self.fd).st_size if self.fd >= 0 else 0
        self._map(max(size, 2 * _HEADER) - _HEADER)
        self._find_slots()

    @classmethod
    def create(cls, figures: int) -> Self:
        """Return an empty state in a file of its own, if there can be one."""
        try:
            return cls(figures, os.memfd_create("memnotify", os.MFD_CLOEXEC))
        except OSError as error:
            log.warning(_CANNOT_SAVE, error.strerror)
            return cls(figures)

    @classmethod
    def take_over(cls, fd: int) -> tuple[Self, dict[str, Any]]:
        """Return the state in a file and its description. Raises SavedStateError."""
        try:
            with mmap.mmap(fd, _HEADER, prot=mmap.PROT_READ) as header:
                words = memoryview(header).cast("Q")
                magic, length = words[0], words[_LENGTH]
                words.release()
                text = header[_DESCRIPTION : _DESCRIPTION + length]
        except (OSError, ValueError) as error:
            raise SavedStateError(f"the saved state cannot be read: {error}") from error
        if magic != _MAGIC or not 0 < length <= _DESCRIPTION_MAX:
            raise SavedStateError(_NOT_WHOLE)
        try:
            description = json.loads(text)
            saved = cls(len(description["figures"]), fd)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SavedStateError(_NOT_WHOLE) from error
        saved._check()
        return saved, description

    @property
    def kept(self) -> memoryview:
        """The words that the shim keeps; they stay where they are."""
        return self._header[_KEPT:_LENGTH]

    def describe(self, description: dict[str, Any]) -> None:
        """Make the state complete: say what is served."""
        text = json.dumps(description).encode()
        if len(text) > _DESCRIPTION_MAX:
            raise SavedStateError(f"its description has {len(text)} bytes")
        self._header[_LENGTH] = 0
        self._header.cast("B")[_DESCRIPTION : _DESCRIPTION + len(text)] = text
        self._header[0] = _MAGIC
        self._header[_LENGTH] = len(text)

    @property
    def slots(self) -> int:
        """How many slots are kept, the free ones included. Any thread."""
        return self._slots

    def converted(self, figures: Sequence[int]) -> Self:
        """Return a copy for other figures: each is given by its index here, or is -1 if it is new.

        The thresholds of figures that are no more are left out.
        """
        other = type(self).create(len(figures))
        # The last one is the writer's cgroup.
        figures = [*figures, self._figures]
        fhs = [self.words[self._place(slot) + _FH] for slot in range(1, self._slots + 1)]
        other.reserve(fhs)
        for record in self.records():
            kept = [armed for armed in record.thresholds if armed.figure in figures]
            changed = [armed._replace(figure=figures.index(armed.figure)) for armed in kept]
            other.put(record._replace(thresholds=changed))
        other.kept[:] = self.kept
        other._header[_USES] = self._header[_USES]  # noqa: SLF001 - another of this class
        return other

    def reserve(self, fhs: Sequence[int]) -> None:
        """Take the slots of an empty state into use with these fhs; the free ones are marked as such."""
        for slot, fh in enumerate(fhs, start=1):
            while self._place(slot) + self._stride > len(self.words):
                self._grow()
            self.words[self._place(slot) + _FH] = fh
        self._find_slots()

    def put(self, record: Record) -> None:
        """Save an observer whose slot is reserved."""
        place = self._place(record.fh & _SLOT)
        self.words[place + KH], self.words[place + PENDING] = record.kh, record.pending
        self.words[place + OPENER] = record.opener
        self.set_thresholds(place, record.thresholds, record.group)

    def open(self, opener: int = 0) -> tuple[int, int]:
        """Return the fh and the place of a new observer of the process ``opener``."""
        words, slot = self.words, self._next_free
        if slot:
            place = slot * self._stride + NO_PLACE
            self._next_free = words[place + KH]
            fh = (words[place + _FH] & ~_FREE) + _USE
            words[place + KH] = words[place + PENDING] = words[place + _COUNT] = 0
        else:
            slot = self._slots + 1
            place = slot * self._stride + NO_PLACE
            if place + self._stride > len(words):
                self._grow()
                words = self.words
            self._slots = slot
            # Memory that was never used, or was given back, is zero.
            fh = self._header[_USES] << 32 | slot
        words[place + OPENER] = opener
        words[place + _FH] = fh
        return fh, place

    def opener(self, place: int) -> int:
        """Return the process that opened an observer."""
        return self.words[place + OPENER]

    def close(self, place: int) -> None:
        """Forget an observer."""
        words = self.words
        if place != NO_PLACE:
            fh = words[place + _FH]
            words[place + _FH] = fh | _FREE
            words[place + KH] = self._next_free
            self._next_free = fh & _SLOT

    def forget_thresholds(self, place: int) -> None:
        """Save that an observer has no threshold and no event."""
        words = self.words
        words[place + _COUNT] = 0
        words[place + PENDING] = 0

    def set_thresholds(
        self, place: int, thresholds: Sequence[Armed | tuple[int, Level, int, int]], group: int = 0
    ) -> None:
        """Save an observer's thresholds, and the number of their cgroup, after ``forget_thresholds``."""
        if place == NO_PLACE:
            return
        words = self.words
        at = place + _THRESHOLDS
        for figure, level, sign, value in thresholds:
            pages, denominator, of_total = level
            if of_total:
                words[at], words[at + 1] = _pack(figure, level)
            else:
                words[at] = figure
                words[at + 1] = pages if denominator == 1 else level.pages(0)
            words[at + 2] = value + 1 << 1 | (sign > 0)  # armed_word(), without a call
            at += _THRESHOLD_WORDS
        words[place + _GROUP] = group
        words[place + _COUNT] = len(thresholds)

    def records(self) -> Iterator[Record]:
        """Return the saved observers."""
        words, stride = self.words, self._stride
        # At once, up to the first threshold: 0.2 us for each slot, and 0.5 word by word.
        row = struct.Struct(f"={_FIRST_WORDS}Q{8 * (stride - _FIRST_WORDS)}x")
        slots = words.cast("B")[8 * stride : 8 * stride * (self._slots + 1)]
        place = NO_PLACE
        last_head, last_value, last = -1, -1, (0, Level(0, 1, of_total=False))
        for fh, kh, pending, count, opener, group, head, value, armed in row.iter_unpack(slots):
            place += stride
            if fh & _FREE:
                continue
            thresholds = []
            if count:
                # Most clients have one threshold, and many the same.
                if head != last_head or value != last_value:
                    last_head, last_value, last = head, value, _unpack(head, value)
                thresholds.append(_armed(last, armed))
                at = place + _THRESHOLDS
                for _ in range(1, count):
                    at += _THRESHOLD_WORDS
                    thresholds.append(_armed(_unpack(words[at], words[at + 1]), words[at + 2]))
            yield Record(fh, place, kh, bool(pending), opener, group, thresholds)

    def groups(self) -> set[int]:
        """Return the numbers of the observers' cgroups."""
        columns = zip(self._column(_GROUP), self._column(_FH), self._column(_COUNT), strict=True)
        # A slot that was used again may have an old number, but no threshold.
        return {group for group, fh, count in columns if group and count and not fh & _FREE}

    def shrink(self) -> None:
        """Give back the memory of the free slots at the end. If there is no memory for that, keep it."""
        used, uses = self._slots, 0
        while used and self.words[self._place(used) + _FH] & _FREE:
            uses = max(uses, (self.words[self._place(used) + _FH] & ~_FREE) >> 32)
            used -= 1
        end = (used + 1) * self._stride
        size = max(-(-end * 8 // _GROWTH) * _GROWTH, _HEADER)
        if size >= len(self.words) * 8 or uses >= _USES_MAX:
            return
        try:
            if self.fd >= 0:
                words = memoryview(mmap.mmap(self.fd, size, offset=_HEADER)).cast("Q")
            else:
                words = memoryview(mmap.mmap(-1, size)).cast("Q")
                words[:end] = self.words[:end]
        except OSError:
            return
        # First: a slot that is zero must have no fh of before.
        self._header[_USES] = max(self._header[_USES], uses + 1)
        words[end:] = memoryview(bytes(size - end * 8)).cast("Q")
        self.words = words
        if self.fd >= 0:
            os.ftruncate(self.fd, _HEADER + size)
        self._slots = self._next_free = 0
        self._find_slots()

    def _check(self) -> None:
        """Raise SavedStateError if a slot holds what no daemon has written."""
        fhs = self._column(_FH)
        whole = self._header[_USES] <= _USES_MAX and all(
            fh & _SLOT == slot for slot, fh in enumerate(fhs, start=1)
        )
        counts = [0 if fh & _FREE else count for fh, count in zip(fhs, self._column(_COUNT), strict=True)]
        whole = whole and max(counts, default=0) <= self._figures + 1
        for position in range(max(counts, default=0) if whole else 0):
            heads = self._column(_THRESHOLDS + _THRESHOLD_WORDS * position)
            for count, head in zip(counts, heads, strict=True):
                if count > position:
                    followed = not head & _OF_TOTAL or head >> _DENOMINATOR_BIT
                    whole = whole and head & 0xFF <= self._figures and bool(followed)
        if not whole:
            raise SavedStateError(_NOT_WHOLE)

    def _column(self, at: int) -> list[int]:
        """Return one word of each slot that was ever in use. A word alone takes four times as long."""
        first = self._place(1) + at
        return self.words[first : first + self._slots * self._stride : self._stride].tolist()

    def _place(self, slot: int) -> int:
        return slot * self._stride + NO_PLACE

    def _find_slots(self) -> None:
        """Find the slots that were in use, and the free ones between them."""
        self._slots = max(0, len(self.words) // self._stride - 1)
        for slot, fh in enumerate(self._column(_FH), start=1):
            if not fh:
                self._slots = slot - 1
                return
            if fh & _FREE:
                self.words[self._place(slot) + KH] = self._next_free
                self._next_free = slot

    def _grow(self) -> None:
        size = len(self.words) * 8
        self._map(size + max(_GROWTH, size // 16 // _HEADER * _HEADER))

    def _map_header(self) -> memoryview:
        if self.fd >= 0:
            try:
                # Now: a page that is missing later would be a SIGBUS.
                os.posix_fallocate(self.fd, 0, _HEADER)
                return memoryview(mmap.mmap(self.fd, _HEADER)).cast("Q")
            except OSError as error:
                self._give_up(error)
        return memoryview(mmap.mmap(-1, _HEADER)).cast("Q")

    def _map(self, size: int) -> None:
        """Map so many bytes of slots, those before included."""
        if self.fd >= 0:
            try:
                os.posix_fallocate(self.fd, _HEADER, size)
                self.words = memoryview(mmap.mmap(self.fd, size, offset=_HEADER)).cast("Q")
            except OSError as error:
                # A process that finds the file must not take it for the state.
                self._header[_LENGTH] = 0
                self._give_up(error)
            else:
                return
        words = memoryview(mmap.mmap(-1, size)).cast("Q")
        words[: len(self.words)] = self.words if len(self.words) else words[:0]
        self.words = words

    def _give_up(self, error: OSError) -> None:
        log.warning(_CANNOT_SAVE, error.strerror)
        os.close(self.fd)
        self.fd = -1


def _pack(figure: int, level: Level) -> tuple[int, int]:
    """Return a figure's level in percent in two words: a fraction of total, to 47 bits at least."""
    # In lowest terms, as the grammar leaves it.
    numerator, denominator, _ = level
    if denominator > _DENOMINATOR_MAX:
        # Not by fractions.Fraction: the user that root has become may not be able to import it.
        numerator = (2 * numerator * _DENOMINATOR_MAX + denominator) // (2 * denominator)
        denominator = _DENOMINATOR_MAX
    if numerator > VALUE_MAX:
        # It is beyond every total.
        numerator, denominator = VALUE_MAX, 1
    return figure | _OF_TOTAL | denominator << _DENOMINATOR_BIT, numerator


def armed_word(sign: int, value: int) -> int:
    """Return the word of the direction in which a threshold is armed, and of its value."""
    return value + 1 << 1 | (sign > 0)


def _armed(followed: tuple[int, Level], word: int) -> Armed:
    return Armed(*followed, 1 if word & 1 else -1, (word >> 1) - 1)


def _unpack(head: int, value: int) -> tuple[int, Level]:
    figure, of_total = head & 0xFF, bool(head & _OF_TOTAL)
    return figure, Level(value, head >> _DENOMINATOR_BIT if of_total else 1, of_total)
