# SPDX-License-Identifier: MIT
"""What bytes from outside reach: each target takes any bytes, and raises if the code does what it must not.

``tools/fuzz`` fuzzes them. ``corpus/NAME`` has inputs that reached all of a target's code, each as a Python
literal on a line of its own.
"""

import ast
import logging
import os
import tomllib
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.bench import Bench
from support.fake_kernel import POLL, READ, RELEASE, WRITE, FakeKernel
from support.fakes import WIDE, FakeReader
from support.levels import in_pages
from support.model import understood_pages
from support.sender import Sender
from support.strategies import Frame
from support.zoneinfo import zoneinfo

from memnotify.abi.figures import Figures
from memnotify.abi.thresholds import WRITE_MAX, parse
from memnotify.config import files
from memnotify.config.settings import ConfigError, configure
from memnotify.engine.observer import Group
from memnotify.engine.saved_state import _MAGIC as MAGIC
from memnotify.engine.saved_state import SavedState, SavedStateError
from memnotify.engine.table import ObserverTable, Sample
from memnotify.kernel.meminfo import MemInfoError, MemInfoReader
from memnotify.simulation.script import Course, ScriptError, read_recording, read_script
from memnotify.transports.kept_connections import KeptConnectionsError, read
from memnotify.transports.session import Session

CORPUS = Path(__file__).parent / "corpus"
_TOTAL = 10_000


def grammar(data: bytes) -> None:
    """Check that a write has the thresholds that the model of the grammar finds, or is refused."""
    wanted = understood_pages(data, _TOTAL, WIDE._fields)
    try:
        levels = parse(data, WIDE._fields)
    except ValueError:
        assert wanted is None or max(wanted.values(), default=0) >= 2**63 - 1
    else:
        assert in_pages(levels, _TOTAL) == wanted


class _Served:
    """A session in this process, whose log must stay without a defect."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.bench = Bench(FakeReader(), notify=self._notify)
        self._session = Session.cuse("fuzzed", self.bench.device)
        self._session.attach(f"/dev/fd/{self.kernel.fd}")
        self.defects: list[str] = []
        logging.basicConfig(handlers=[_Defects(self.defects)], level=logging.ERROR, force=True)
        _thread(self._serve)
        self.kernel.reply_to(self.kernel.hello())

    def _notify(self, handles: "array[int]", count: int) -> None:
        self._session.notify(handles, count)

    def _serve(self) -> None:
        self._session.handshake()
        while self._session.serve():
            pass

    def release_all(self) -> None:
        """Leave the next input the same table. No request is unanswered."""
        for fh in self.bench.table.fhs():
            self.bench.device.release(fh)


class _Defects(logging.Handler):
    def __init__(self, defects: list[str]) -> None:
        super().__init__()
        self._defects = defects

    def emit(self, record: logging.LogRecord) -> None:
        self._defects.append(self.format(record))


def _thread(serve: Callable[[], object]) -> None:
    # Here: threading is instrumented by no fuzzer.
    import threading  # noqa: PLC0415

    threading.Thread(target=serve, daemon=True).start()


@cache
def _served() -> _Served:
    return _Served()


def frames(data: bytes) -> None:
    """Check that each frame has one reply, and that the next request is served.

    A frame is six bytes and a body: the opcode (two), what is added to the header's length (one, signed), how
    much of it is sent (one; 255 is all), and the body's length (two). A body begins with the number of an
    open file.
    """
    served = _served()
    sender = Sender(served.kernel)
    fhs = [served.kernel.open(), served.kernel.open()]
    while len(data) > 6:
        opcode = int.from_bytes(data[:2], "little")
        off, keep, size = int.from_bytes(data[2:3], "little", signed=True), data[3], data[4:6]
        length = int.from_bytes(size, "little")
        body, data = data[6 : 6 + length], data[6 + length :]
        if opcode in {READ, WRITE, RELEASE, POLL} and len(body) >= 8 and body[0] < len(fhs):
            body = fhs[body[0]].to_bytes(8, "little") + body[8:]
        if opcode != 38:  # DESTROY, after which nothing but INIT is answered
            sender.send(Frame(opcode, body, off, None if keep == 255 else keep))
    served.release_all()
    assert not served.defects, served.defects


class _Files:
    """Two files in place of the kernel's, with a reader that has seen all earlier inputs."""

    def __init__(self) -> None:
        self.meminfo, self.zoneinfo = (os.memfd_create(name) for name in ("meminfo", "zoneinfo"))
        write(self.meminfo, MEMINFO)
        write(self.zoneinfo, ZONEINFO)
        self.old = self.reader()

    def reader(self) -> MemInfoReader:
        """Return a new reader."""
        return MemInfoReader(
            extra={"available": "MemAvailable"},
            meminfo=f"/proc/self/fd/{self.meminfo}",
            zoneinfo=f"/proc/self/fd/{self.zoneinfo}",
        )


def write(fd: int, data: bytes) -> None:
    """Replace a file's content."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)


@cache
def _files(_target: str) -> _Files:
    return _Files()


MEMINFO = b"".join(
    b"%b: %14d kB\n" % (name, kib)
    for name, kib in (
        (b"MemTotal", 1 << 24),
        *((name, 400_000) for name in (b"MemFree", b"MemAvailable", b"Buffers", b"Cached")),
        *((name, 20_000) for name in (b"SwapCached", b"Active", b"Active(file)", b"Inactive(file)")),
        *((name, 8) for name in (b"Mlocked", b"SwapTotal", b"SwapFree", b"Shmem", b"SReclaimable")),
    )
)
ZONEINFO = zoneinfo(cpus=2).text.encode()


def _figures(reader: MemInfoReader) -> tuple[Figures, int] | None:
    try:
        figures, pcp_pages = reader.read_exact()
    except MemInfoError:
        return None
    assert all(0 <= pages <= figures.total for pages in figures)
    assert 0 <= pcp_pages <= figures.total
    return figures, pcp_pages


def _read_both(file: int, data: bytes, files: _Files) -> None:
    """Check that the reading fails, or that its figures can be, the same for a reader of earlier texts.

    In a column that it knows, such a reader takes a number with blanks around it, which a new one refuses.
    """
    write(file, data)
    with files.reader() as new:
        seen = _figures(new)
    # Its error: the first reading after one opens the files again.
    again = _figures(files.old)
    if seen is not None:
        # `used` is the possible one nearest to the last reading.
        assert again is not None
        assert again[0].total == seen[0].total


def meminfo(data: bytes) -> None:
    """Check that a text of /proc/meminfo has figures that can be or is refused, and that the next is read."""
    files = _files("meminfo")
    _read_both(files.meminfo, data, files)
    write(files.meminfo, MEMINFO)
    assert _figures(files.old) is not None


def zones(data: bytes) -> None:
    """Do the same for /proc/zoneinfo."""
    files = _files("zoneinfo")
    _read_both(files.zoneinfo, data, files)
    write(files.zoneinfo, ZONEINFO)
    assert _figures(files.old) is not None


def configuration(data: bytes) -> None:
    """Check that a file is a configuration whose settings stand where it is said, or ConfigError."""
    text = data.decode(errors="replace")
    try:
        given = files.parse(text, "file")
        settings, origins = configure(given)
    except ConfigError as error:
        assert str(error)
        return
    values = tomllib.loads(text)
    assert given.keys() == values.keys()
    lines = text.split("\n")
    for name, (value, origin) in given.items():
        assert origins[name] == origin
        line = int(origin.removeprefix("file:"))
        begins = lines[line - 1].lstrip()
        assert begins.startswith((name, '"', "'")), (origin, name)
        assert value == (tuple(values[name]) if isinstance(values[name], list) else values[name])
    assert settings


def script(data: bytes) -> None:
    """Check that a text is a script, a recording, or ScriptError, and that a course goes on."""
    text = data.decode(errors="replace")
    for understand in (read_script, read_recording):
        try:
            course: Course = understand(text)
        except ScriptError as error:
            assert str(error)
            continue
        for when_s in (0.0, course.end_s / 3, course.end_s):
            figures = course.at(when_s)
            assert 0 <= figures.used <= figures.total
            assert course.next_s(when_s) > when_s


class _Groups(dict[int, Group]):
    """Every cgroup there may be, held."""

    def __init__(self, table: ObserverTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, key: int) -> Group:
        source: Any = SimpleNamespace(key=key)
        group = self[key] = self._table.groups[key] = Group(source, self._table.cgroup)
        # Held, as by ObserverTable.hold, whose lock is taken here.
        group.uses = 1
        return group


def _state(data: bytes) -> bytes:
    """Return a file whose first page has the length and the text of a description, the others slots."""
    if not data.startswith(b"S"):
        return data
    size = int.from_bytes(data[1:3], "little")
    header = MAGIC.to_bytes(8, "little") + bytes(48) + size.to_bytes(8, "little") + data[3 : 3 + size]
    return header.ljust(4096, b"\0") + data[3 + size :]


def saved_state(data: bytes) -> None:
    """Check that a file is the state of a daemon, with which another one goes on, or SavedStateError."""
    data = _state(data)
    fd = os.memfd_create("state")
    try:
        os.write(fd, data)
        with suppress(SavedStateError):
            _go_on(fd)
        write(fd, data)
        with suppress(KeptConnectionsError):
            read(fd, WIDE._fields)
    finally:
        os.close(fd)


def _go_on(fd: int) -> None:
    saved, description = SavedState.take_over(fd)
    if description["figures"] != list(WIDE._fields):
        names = description["figures"]
        saved = saved.converted([names.index(name) if name in names else -1 for name in WIDE._fields])
    table = ObserverTable(len(WIDE._fields), saved)
    for at, used in enumerate((5_000, 9_000, 1_000)):
        sample = Sample(float(at), WIDE(_TOTAL, *[used, used // 2, used]), exact=True)
        table.follow(_TOTAL, 10)
        if not at:
            table.restore(sample, _Groups(table))
        table.advance(sample, 10)
        table.rearm(sample, 0)
    table.open()
    for fh in table.fhs():
        table.subscribe(fh, parse(b"used 50% active 7", WIDE._fields), sample)
        table.close(fh)
    if saved.fd >= 0 and saved.fd != fd:
        os.close(saved.fd)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "grammar": grammar,
    "frames": frames,
    "meminfo": meminfo,
    "zoneinfo": zones,
    "configuration": configuration,
    "script": script,
    "saved_state": saved_state,
}
LONGEST = {"grammar": WRITE_MAX + 1, "frames": 2048}
"""The longest inputs of a target, in bytes; 4096 unless it is here."""


def kept(name: str) -> list[bytes]:
    """Return the kept inputs of a target."""
    return [ast.literal_eval(line) for line in (CORPUS / name).read_text().splitlines()]
