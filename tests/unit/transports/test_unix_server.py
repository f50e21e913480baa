# SPDX-License-Identifier: MIT
"""The socket server with real sockets and a fake memory, without a sampler thread."""

import fcntl
import logging
import os
import random
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bench import Bench, sampling
from support.fakes import FakeClock, FakeReader
from support.waiting import DEADLINE_S, eventually

from memnotify.abi.figures import NAMES
from memnotify.engine.sampler import Timing
from memnotify.engine.table import Limits, Sample
from memnotify.kernel.meminfo import MemInfoError
from memnotify.transports import unix_server
from memnotify.transports.kept_connections import KeptConnectionsError, read, write
from memnotify.transports.unix_server import SILENCE_S, SocketServer

LINE = re.compile(rb"total 10000 used ([0-9]+) active 50\n")


class Client:
    """A client of the socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.settimeout(DEADLINE_S)

    def read(self) -> bytes:
        """Return the next line; fail if there is none in time."""
        line = b""
        while not line.endswith(b"\n"):
            more = self.socket.recv(1)
            assert more, f"the connection was closed after {line!r}"
            line += more
        return line

    def used(self) -> int:
        """Return the ``used`` of the next line."""
        line = self.read()
        found = LINE.fullmatch(line)
        assert found, line
        return int(found[1])

    @property
    def unread(self) -> int:
        """The number of unread bytes."""
        count = array("i", [0])
        fcntl.ioctl(self.socket, termios.FIONREAD, count)
        return count[0]


class ServerBench(Bench[FakeReader]):
    """A server and what it serves. ``memory`` moves it; ``client`` connects."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, *, start: bool = True
    ) -> None:
        super().__init__(FakeReader(), sampling(0.000001, 3600), timing=Timing())
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(128)
        self.server = SocketServer(self.table, self.sampler, self.listener, clock=clock)
        self.failures: list[str] = []
        self.clients: list[Client] = []
        if start:
            self.server.worker.start(lambda: self.failures.append("failed"))

    def memory(self, used: int) -> None:
        """Change the memory, and take a sample."""
        self.reader.use(used)
        self.sampler.sample()

    def client(self, text: bytes = b"") -> Client:
        """Return a client with an observer, after its write of ``text`` was accepted."""
        before = len(self.table)
        client = Client(self.path)
        self.clients.append(client)
        eventually(lambda: len(self.table) > before, "the observer is there")
        if text:
            self.write(client, text)
        return client

    def write(self, client: Client, text: bytes) -> None:
        """Let a client write, and wait until its observer's thresholds have changed."""
        observer = list(self.table._observers.values())[self.clients.index(client)]
        before = observer.thresholds
        client.socket.sendall(text)
        eventually(lambda: observer.thresholds is not before, f"{text!r} is understood")

    def close(self) -> None:
        """End it all."""
        for client in self.clients:
            client.socket.close()
        self.server.stop()
        assert len(self.table) == 0
        self.sampler.stop()
        self.server.close()
        self.listener.close()


@pytest.fixture
def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[ServerBench]:
    """Yield a bench, and close it at the end."""
    bench = ServerBench(tmp_path / "socket")
    yield bench
    bench.close()
    assert bench.failures == []
    assert not any(record.exc_info for record in caplog.get_records("call"))


def pages(bench: ServerBench) -> list[list[int]]:
    """Return the thresholds of each observer."""
    return [[wanted.pages for wanted in one.thresholds] for one in bench.table._observers.values()]


# An event


def test_a_line_for_each_crossing(bench: ServerBench) -> None:
    """Each crossing, up or down, causes one line; nothing else does."""
    client = bench.client(b"used 500\n")
    for used in (600, 100, 900, 499):
        bench.memory(used)
        assert client.used() == used
    bench.memory(300)
    bench.memory(600)
    assert client.used() == 600
    assert client.unread == 0


def test_a_client_that_has_not_read_is_not_woken_again(bench: ServerBench) -> None:
    """It has one line however much crosses; after reading it, it gets one more with the current figures."""
    slow, quick = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    bench.memory(600)
    assert quick.used() == 600
    eventually(lambda: slow.unread, "the line is there")
    length = slow.unread
    for used in (100, 700, 200, 800, 300):
        bench.memory(used)
        assert quick.used() == used
        assert slow.unread == length
    slow.socket.recv(length - 1)
    # Another connection's event has its turn after what a partial read could have set off.
    bench.memory(900)
    assert quick.used() == 900
    assert slow.unread == 1
    assert slow.socket.recv(1) == b"\n"
    assert slow.used() == 900
    assert quick.unread == slow.unread == 0


def test_a_peek_is_no_read(bench: ServerBench) -> None:
    """A line that was only peeked at (MSG_PEEK) is still unread."""
    client, other = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    for used in (600, 100):
        bench.memory(used)
        assert client.socket.recv(4096, socket.MSG_PEEK)
        assert other.used() == used
    length = client.unread
    assert [client.used(), client.used()] == [600, 100]
    assert length == len(b"total 10000 used 600 active 50\n")


def test_a_write_acknowledges(bench: ServerBench) -> None:
    """As on the device: no line follows for earlier crossings, unless it was sent already."""
    client, other = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    bench.memory(600)
    eventually(lambda: client.unread, "its line is on its way")
    assert other.used() == 600
    bench.memory(100)
    assert other.used() == 100
    bench.write(client, b"used 400\n")
    assert client.used() == 600
    assert client.unread == 0
    bench.memory(450)
    assert client.used() == 450
    assert other.unread == 0


def test_a_write_acknowledges_what_waits_behind_a_refusal(bench: ServerBench) -> None:
    """A pending line of the old thresholds is not sent after the refusal."""
    client, other = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    connection = next(iter(bench.server._connections.values()))
    bench.memory(600)
    eventually(lambda: client.unread, "its line is on its way")
    assert other.used() == 600
    client.socket.send(b"usd 5\n")
    eventually(lambda: connection.refusal, "it is refused")
    bench.memory(100)
    assert client.used() == 600
    eventually(lambda: connection.event, "it is noted, behind the refusal")
    bench.write(client, b"used 400\n")
    assert client.read().startswith(b"error ")
    bench.memory(450)
    assert client.used() == 450
    assert client.unread == 0


def test_no_crossing_is_lost_to_a_reader(bench: ServerBench) -> None:
    """Whenever a client reads, its last line has the side on which memory has stopped."""
    client = bench.client(b"used 500\n")
    seen = [100]
    ended = threading.Event()

    def read() -> None:
        random_s = random.Random(1)  # noqa: S311 - no secret
        while not ended.is_set():
            if select.select([client.socket], [], [], 0.01)[0]:
                seen.append(client.used())
                # Some time of its own now and then, so that it is both too slow and quick enough.
                ended.wait(random_s.choice([0, 0, 0.0005]))

    reader = threading.Thread(target=read)
    reader.start()
    crossings = 0
    for turn in range(300):
        for used in (600 + turn, 100 + turn // 4) * (1 + turn % 3):
            bench.memory(used)
            crossings += 1
        if turn % 2:
            bench.memory(700 + turn)
            crossings += 1
        eventually(lambda: seen[-1] == bench.reader.figures.used, f"the last word of turn {turn}")
    ended.set()
    reader.join()
    assert len(seen) - 1 <= crossings


def test_a_read_is_known_when_the_kernel_tells() -> None:
    """When the edge is reported nothing counts as unread, although the kernel may still count a byte."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    read = "import os, sys\nwhile os.read(int(sys.argv[1]), 4096): pass"
    reader = subprocess.Popen([sys.executable, "-c", read, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    with ours, select.epoll() as edges:
        edges.register(ours, unix_server._EVENTS)
        edges.poll(0)
        for _ in range(20_000):
            ours.send(b"total 10000 used 600 active 50\n")
            assert edges.poll(DEADLINE_S)
            assert not unix_server._unread(ours)
    assert reader.wait(DEADLINE_S) == 0


# What is a write


@pytest.mark.parametrize(
    "pieces",
    [
        [b"used 500\n"],
        [b"used 500\0"],
        [b"used 500"],
        [b"us", b"ed ", b"500\n"],
        [b"us", b"ed 500"],
        [b"used 500\n\0"],
        [b"\n\n\0used 500\r\n\n"],
        [b"used 7\nused 9 active 4\nused 500\n"],
        [b"  used=500 ", b"active 0\0"],
        # As much as is received at once, and the longest there is.
        [b"used 500".rjust(4096)],
        [b"used 500\n".rjust(4097)],
        [b"used 7\n" * 1000 + b"used 500"],
        [b"used 7\n" * 1000 + b"used 500\n"],
    ],
)
def test_where_a_write_ends(bench: ServerBench, pieces: list[bytes]) -> None:
    """A write ends at a newline, a NUL or a silence; pieces are joined, empty lines ignored."""
    client = bench.client()
    for piece in pieces:
        client.socket.send(piece)
        # Time for it to be received alone, and much less than what ends a write.
        eventually(lambda: _queued(client.socket) <= 1, "received")
    eventually(lambda: pages(bench) == [[500]], "all of it is understood")
    bench.memory(600)
    assert client.used() == 600
    assert client.unread == 0


def test_how_long_silence_is(tmp_path: Path) -> None:
    """Each piece restarts its client's silence. A write with an end is complete at once."""
    clock = FakeClock()
    bench = ServerBench(tmp_path / "socket", clock, start=False)
    slow, ended, silent = (Client(bench.path) for _ in range(3))
    bench.clients += [slow, ended, silent]
    for client in bench.clients:
        client.socket.send(b"used 5")
    for _ in range(4):  # as many to accept them, and one to receive from the last
        bench.server.turn()
    for _ in range(5):
        clock.tick(SILENCE_S * 0.9)
        for client in (slow, ended):
            client.socket.send(b"0")
        bench.server.turn()
    assert pages(bench) == [[], [], [5]]
    ended.socket.shutdown(socket.SHUT_WR)
    bench.server.turn()
    assert pages(bench) == [[], [500_000], [5]]
    clock.tick(SILENCE_S * 1.01)
    bench.server.turn()
    assert pages(bench) == [[500_000], [500_000], [5]]
    bench.close()


def test_a_client_that_has_written_all(bench: ServerBench) -> None:
    """A client that shuts its side down ends its write at once, and still gets its lines."""
    client = bench.client()
    client.socket.send(b"used 7\n" * 1000 + b"used 500".rjust(4096))
    client.socket.shutdown(socket.SHUT_WR)
    eventually(lambda: pages(bench) == [[500]], "understood")
    for used in (600, 100):
        bench.memory(used)
        assert client.used() == used


def test_two_writes_with_a_pause_between_them(bench: ServerBench) -> None:
    """Silence ends a write, so that the next write is not appended to it."""
    client = bench.client(b"used 500")
    bench.write(client, b"used 400")
    assert pages(bench) == [[400]]
    assert SILENCE_S < 1


@pytest.mark.parametrize("end", [b"\n", b"\0", b""])
def test_a_refused_write(bench: ServerBench, end: bytes) -> None:
    """The reason is a line; thresholds and connection stay."""
    client = bench.client(b"used 500\n")
    client.socket.send(b"used 600 usd 5" + end)
    line = client.read()
    assert line.startswith(b"error ")
    assert b"'usd'" in line
    assert pages(bench) == [[500]]
    bench.memory(700)
    assert client.used() == 700


@pytest.mark.parametrize("text", [b"used 5 ", b""])
@pytest.mark.parametrize("size", [4097, 8192, 100_000])
def test_a_write_that_is_too_long(bench: ServerBench, size: int, text: bytes) -> None:
    """It is refused once and dropped; the next write is separate."""
    client = bench.client(b"used 500\n")
    # Blanks alone are no write at all, unless something follows that would be lost.
    client.socket.sendall(text.ljust(size, b"x" if text else b" ") + b"\nused 400\n")
    assert b"at most 4096" in client.read()
    eventually(lambda: pages(bench) == [[400]], "the next write is understood")
    bench.memory(600)
    assert client.used() == 600
    client.socket.sendall(b"usd 5\n")
    assert b"'usd'" in client.read()


def test_refusals_to_a_client_that_does_not_read(bench: ServerBench) -> None:
    """Refusals behind an unread line do not accumulate: the last one is sent."""
    client, other = bench.client(), bench.client(b"used 500\n")
    client.socket.send(b"first 1\n")
    eventually(lambda: client.unread, "the first is told")
    length = client.unread
    for number in range(2000):
        client.socket.sendall(b"name%d 1\n" % number)
    client.socket.sendall(b"used 500\n")
    eventually(lambda: pages(bench) == [[500], [500]], "all is received")
    bench.memory(600)
    assert other.used() == 600
    assert client.unread == length
    assert b"'first'" in client.read()
    assert b"'name1999'" in client.read()
    assert client.used() == 600
    assert client.unread == 0


# A request for the figures


def test_a_read_is_answered(bench: ServerBench) -> None:
    """Each, by one line of its own; the thresholds stay."""
    client = bench.client(b"used 500\n")
    client.socket.sendall(b"read\n")
    assert client.read() == b"read total 10000 used 100 active 50\n"
    client.socket.sendall(b"read\nread\0read")
    assert [client.read() for _ in range(3)] == [b"read total 10000 used 100 active 50\n"] * 3
    bench.memory(600)
    assert client.used() == 600
    assert client.unread == 0


def test_a_read_acknowledges_the_event(bench: ServerBench) -> None:
    """The line of an event that was sent before is older than the answer; after it comes no other."""
    client, other = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    bench.memory(600)
    eventually(lambda: client.unread, "the line of the event")
    bench.memory(700)
    bench.memory(300)
    bench.memory(800)
    client.socket.sendall(b"read\n")
    assert client.used() == 600
    assert client.read() == b"read total 10000 used 800 active 50\n"
    bench.memory(100)
    assert client.used() == 100
    assert other.used() == 600
    assert client.unread == 0


def test_a_refusal_comes_before_the_answer(bench: ServerBench) -> None:
    client = bench.client()
    client.socket.sendall(b"usd 500\nread\n")
    assert client.read().startswith(b"error 'usd' is not understood")
    assert client.read() == b"read total 10000 used 100 active 50\n"


def test_figures_that_cannot_be_read_are_answered(
    bench: ServerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one line each, whatever the reason; the next answer has the figures."""
    client = bench.client(b"used 500\n")

    def fail(*_: object) -> int:
        raise MemInfoError("it reads:\nMemTotal: x\n")

    with monkeypatch.context() as patch:
        patch.setattr(bench.server.device, "read", fail)
        patch.setattr(bench.server.device, "write", fail)
        client.socket.sendall(b"read\nused 400\n")
        assert sorted(client.read() for _ in range(2)) == [
            b"error the daemon cannot read the figures, see its log\n",
            b"read error the daemon cannot read the figures, see its log\n",
        ]
    client.socket.sendall(b"read\n")
    assert client.read() == b"read total 10000 used 100 active 50\n"


def test_figures_that_cannot_be_read(
    bench: ServerBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged and sent to the client; a delayed event is sent later."""
    monkeypatch.setattr(unix_server, "_AGAIN_S", 0.05)
    client, other = bench.client(b"used 500\n"), bench.client()

    def fail() -> None:
        raise RuntimeError("no figures")

    bench.reader.after.append(fail)
    client.socket.send(b"used 400\n")
    assert client.read().startswith(b"error the daemon")
    assert pages(bench) == [[500], []]
    # Served after what the first has read, which so is no reason any more to look at it.
    other.socket.send(b"usd\n")
    assert b"usd" in other.read()
    bench.reader.pcp_pages = 1  # so that the sample is not exact, and a read takes one of its own
    bench.reader.after += [lambda: None, lambda: None, fail]
    bench.memory(600)
    assert client.used() == 600
    assert caplog.text.count("RuntimeError: no figures") == 2
    caplog.clear()


# Clients among others


def test_a_stuck_client_delays_no_other_client(bench: ServerBench) -> None:
    """A client that writes all the time and never reads delays no other client either."""
    stuck = bench.client(b"used 500\n")
    stuck.socket.settimeout(None)
    ended = threading.Event()

    def flood() -> None:
        stuck.socket.settimeout(0.01)
        while not ended.is_set():
            try:
                stuck.socket.send(b"used 500 nonsense\n" * 500)
            except TimeoutError:
                continue

    flooding = threading.Thread(target=flood)
    flooding.start()
    clients = [bench.client(b"used 500\n") for _ in range(20)]
    for used in (600, 100) * 10:
        bench.memory(used)
        assert [client.used() for client in clients] == [used] * 20
    ended.set()
    flooding.join()
    assert stuck.unread < 200


@pytest.mark.parametrize("unread", [False, True])
def test_a_client_that_goes(bench: ServerBench, *, unread: bool) -> None:
    """Its observer is removed, whether it had something to read or not."""
    client, other = bench.client(b"used 500\n"), bench.client(b"used 500\n")
    before = len(os.listdir("/proc/self/fd"))
    if unread:
        bench.memory(600)
        assert other.used() == 600
    client.socket.send(b"used 4")
    client.socket.close()
    eventually(lambda: len(bench.table) == 1, "the observer has gone")
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before - 2, "its descriptors are closed")
    bench.memory(50)
    bench.memory(700)
    assert other.read()


def test_no_descriptors(
    bench: ServerBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that cannot be served waits, without a busy loop, until a descriptor is free."""
    monkeypatch.setattr(unix_server, "_AGAIN_S", 0.05)
    tries: list[float] = []
    accept = bench.server._accept

    def counted() -> None:
        tries.append(time.monotonic())
        accept()

    monkeypatch.setattr(bench.server, "_accept", counted)
    first = bench.client(b"used 500\n")
    tries.clear()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
    try:
        waiting.connect(str(bench.path))
        eventually(lambda: len(tries) > 3, "it is tried again")
        assert tries[3] - tries[0] > 3 * 0.04
        assert caplog.text.count("no further client") == 1
        bench.memory(600)
        assert first.used() == 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: len(bench.table) == 2, "the second is served")
    waiting.close()


def test_the_log_names_the_peer(bench: ServerBench, caplog: pytest.LogCaptureFixture) -> None:
    """At debug level the log has the process of each observer."""
    with caplog.at_level(logging.DEBUG):
        bench.client()
        peer = f"process {os.getpid()} of user {os.geteuid()}, group {os.getegid()}"
        eventually(lambda: peer in caplog.text, "the peer is logged")


def test_a_defect_is_told(
    bench: ServerBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the thread fails, the daemon is notified."""

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(bench.server, "_accept", fail)
    client = Client(bench.path)
    eventually(lambda: bench.failures, "told")
    client.socket.close()
    assert "a defect" in caplog.text
    bench.failures.clear()
    caplog.clear()


def test_woken_for_a_client_that_has_gone(bench: ServerBench) -> None:
    """A wake-up that comes after the end of its connection has no effect."""
    client = bench.client(b"used 500\n")
    bench.server.wake(array("Q", [999]), 1)
    bench.memory(600)
    assert client.used() == 600


def test_wake_after_stop(tmp_path: Path) -> None:
    """The sampler may end later than the server."""
    bench = ServerBench(tmp_path / "socket")
    client = bench.client(b"used 500\n")
    bench.server.stop()
    bench.server.wake(array("Q", [1]), 1)
    assert client.socket.recv(1) == b""
    bench.close()


def _queued(connected: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, b"\0\0\0\0"))
    return int(count)


def test_a_wake_allocates_nothing_for_each_client(tmp_path: Path) -> None:
    """To wake 50 clients takes no more memory than to wake one; each is served once, in order."""
    bench = ServerBench(tmp_path / "socket", start=False)
    for _ in range(50):
        client = Client(bench.path)
        bench.clients.append(client)
        bench.server.turn()
    handles = array("Q", bench.server._by_fh)
    taken = []
    for count in (1, 50):
        tracemalloc.start(1)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        bench.server.wake(handles, count)
        taken.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    assert taken[1] <= taken[0] + 100
    woken = iter(bench.server._take_woken, None)
    assert [connection.fh for connection in woken] == list(handles)
    bench.close()


def test_a_descriptor_that_a_client_passes_does_not_arrive(bench: ServerBench) -> None:
    """It could hang the thread when it is closed there. Before Linux 6.16 it is closed unseen."""
    client = bench.client()
    refuses = bench.listener.getsockopt(socket.SOL_SOCKET, 83) == 0 if _has_passrights() else False
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    try:
        socket.send_fds(client.socket, [b"used 500\n"], [write])
    except PermissionError:
        assert refuses
        bench.write(client, b"used 500\n")
    else:
        assert not refuses
    eventually(lambda: pages(bench) == [[500]], "the write is understood")
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_descriptors_are_left_for_the_daemon_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload and the log work while clients have all descriptors that they may have."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (67, 67))
    bench = ServerBench(tmp_path / "socket")
    refused = Client(bench.path)
    assert refused.socket.recv(1) == b""
    eventually(lambda: "no further client" in caplog.text, "it is logged")
    bench.server._fd_limit = 1 << 20
    client = bench.client(b"used 500\n")
    bench.memory(600)
    assert client.used() == 600
    refused.socket.close()
    bench.close()


def test_a_user_has_so_many_connections_and_no_more(bench: ServerBench) -> None:
    """One more is closed at once, and the others go on."""
    bench.table.limits = Limits(observers=2)
    first = bench.client(b"used 500\n")
    bench.client()
    refused = Client(bench.path)
    assert refused.socket.recv(1) == b""
    refused.socket.close()
    bench.memory(600)
    assert first.used() == 600


def _has_passrights() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.getsockopt(socket.SOL_SOCKET, 83)
        except OSError:
            return False
    return True


# The next daemon


def test_what_the_next_daemon_goes_on_with(tmp_path: Path) -> None:
    """Half a write is completed, and an event told; thresholds of figures that are gone are left out."""
    with ExitStack() as closed:
        benches = [ServerBench(tmp_path / name, start=name == "first") for name in ("first", "next")]
        for bench in benches:
            closed.callback(bench.close)
        first, anew = benches
        told, half = first.client(b"used 500 active 5"), first.client(b"used 700\n")
        first.server.worker.stop()
        half.socket.sendall(b"used 6")
        first.memory(600)
        # The clock of a write without an end begins again.
        for connection in first.server._connections.values():
            first.server._receive(connection)
        fd = write(first.server.left().values(), NAMES)
        kept = {connection.inode: connection for connection in read(fd, ["total", "used"])}
        os.close(fd)
        anew.reader.use(600)
        passed = {os.dup(old): kept[os.fstat(old).st_ino] for old in first.server.left()}

        def adopt(sample: Sample) -> None:
            for fd, connection in passed.items():
                anew.server.adopt(fd, connection, sample, {})

        anew.sampler.refresh(adopt)
        half.socket.sendall(b"00\n")
        anew.server.worker.start(lambda: anew.failures.append("failed"))
        assert told.used() == 600
        eventually(lambda: sorted(pages(anew)) == [[500], [600]], "the write is understood")
        anew.clients = first.clients
        first.clients = []


@pytest.mark.parametrize(
    "text", ["", "[]", "[[], [[1]]]", '[["total"], [[1, [1], "", 0, "", 0, 0]]]', "\\0", "[[], [[]]]", "7"]
)
def test_what_is_no_connection(text: str) -> None:
    """A file that another version wrote is refused."""
    fd = os.memfd_create("test")
    os.write(fd, text.encode())
    with pytest.raises(KeptConnectionsError):
        read(fd, NAMES)
    os.close(fd)
