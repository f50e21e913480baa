# SPDX-License-Identifier: MIT
"""The end of a process that has no memory, as a thread of the daemon and a request cause it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from memnotify.kernel.syscalls import OUT_OF_MEMORY
from memnotify.worker import Worker, stop_all

LINE = "<2>memnotify: no memory is left: the daemon ends, to be started again\n"
_THREAD = """
import threading
from memnotify.worker import Worker
def turn():
    raise MemoryError
Worker("test", turn).start(lambda: print("failed", flush=True))
threading.Event().wait()
"""
_REQUEST = """
import sys
sys.path.insert(0, sys.argv[1])
from support.fake_kernel import serving
class Operations:
    def open(self, uid):
        raise MemoryError
with serving(Operations()) as (kernel, _):
    kernel.open()
"""
_SOCKET = """
import sys
sys.path.insert(0, sys.argv[1])
import socket, threading
from support.bench import Bench
from support.fakes import FakeReader
from memnotify.transports.unix_server import SocketServer
bench = Bench(FakeReader())
listener = socket.socket(socket.AF_UNIX)
listener.bind(b"")
listener.listen()
server = SocketServer(bench.table, bench.sampler, listener)
def write(*_):
    raise MemoryError
server.device.write = write
server.worker.start(lambda: print("failed", flush=True))
client = socket.socket(socket.AF_UNIX)
client.connect(listener.getsockname())
client.send(b"used 5\\n")
threading.Event().wait()
"""


@pytest.mark.parametrize("program", [_THREAD, _REQUEST, _SOCKET], ids=["thread", "request", "socket"])
def test_a_memory_error_ends_the_process_with_one_line(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parents[1])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == OUT_OF_MEMORY
    assert done.stderr == LINE
    assert done.stdout == ""


def test_a_full_pipe_does_not_hold_the_end() -> None:
    program = """
import fcntl, os
from memnotify.kernel.syscalls import end_without_memory
read, write = os.pipe()
os.dup2(write, 2)
os.set_blocking(2, False)
try:
    while True:
        os.write(2, bytes(4096))
except BlockingIOError:
    os.set_blocking(2, True)
end_without_memory()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == OUT_OF_MEMORY


def test_a_thread_that_hangs_does_not_hold_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("memnotify.worker.STOP_S", 0.05)
    go_on = threading.Event()
    worker = Worker("hanging", go_on.wait)
    worker.start(lambda: None)
    worker.stop()
    assert "the thread hanging hangs" in caplog.text
    go_on.set()


def test_threads_that_hang_hold_the_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once each."""
    stop_s = 0.2
    monkeypatch.setattr("memnotify.worker.STOP_S", stop_s)
    go_on = threading.Event()
    workers = [Worker(f"hanging-{number}", go_on.wait) for number in range(20)]
    for worker in workers:
        worker.start(lambda: None)
    begun_s = time.monotonic()
    stop_all(workers)
    took_s = time.monotonic() - begun_s
    go_on.set()
    assert stop_s <= took_s < len(workers) * stop_s
