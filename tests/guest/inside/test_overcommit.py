# SPDX-License-Identifier: MIT
"""The machine is at its commit limit (vm.overcommit_memory=2) while a client with many open files ends."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import QUICK
from support.fake_memory import FakeMemory
from support.kept import Service, clients_of
from support.program import Program
from support.waiting import eventually

from memnotify.kernel.syscalls import OUT_OF_MEMORY

ROUNDS = int(os.environ.get("MEMNOTIFY_COMMIT_ROUNDS", "2"))
FILES = 600
LIMITS = {
    "overcommit_memory": "2",
    "overcommit_ratio": "60",
    # Nothing is kept back: neither for root nor for small processes.
    "admin_reserve_kbytes": "0",
    "user_reserve_kbytes": "0",
}
CLIENT = """
import os, signal, sys
path, count = sys.argv[1], int(sys.argv[2])
fds = [os.open(path, os.O_RDWR) for _ in range(count)]
for number, fd in enumerate(fds):
    os.write(fd, b"used 60%% total %d" % (10_000_000 + number))
print("opened", flush=True)
signal.pause()
"""
# Takes what is left down to the last page, again and again, until the client has ended and the daemon has
# answered a read: all that the client had open was released by then.
TAKER = """
import ctypes, os, select, signal, sys
path, pid = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
FAILED, READ_WRITE, PRIVATE_ANONYMOUS = ctypes.c_void_p(-1).value, 3, 0x22

def take():
    size = 64 << 20
    while size >= 4096:
        if libc.mmap(None, size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0) == FAILED:
            size //= 2

device, client = os.open(path, os.O_RDWR), os.pidfd_open(pid)
figures = ctypes.create_string_buffer(256)
poller = select.poll()
poller.register(client, select.POLLIN)
take()
os.kill(pid, signal.SIGKILL)
while True:
    try:
        take()
        if poller.poll(0):
            break
    except MemoryError:
        pass
take()
libc.read(device, figures, 256)
take()
os._exit(0)
"""


@pytest.fixture
def limited() -> Iterator[None]:
    """Let no memory be promised beyond the commit limit."""
    vm = Path("/proc/sys/vm")
    before = {name: (vm / name).read_text() for name in LIMITS}
    for name, value in LIMITS.items():
        (vm / name).write_text(value)
    yield
    for name, value in before.items():
        (vm / name).write_text(value)


class Rounds:
    """Ends of a client at the commit limit, one after the other; a daemon that has ended is started again."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.alive = 0
        self.restarts_s: list[float] = []

    def play(self) -> None:
        """Let one client end."""
        path = self._service.daemon.path
        with Program(sys.executable, "-c", CLIENT, path, str(FILES)) as client:
            client.hear("opened")
            taker = subprocess.Popen([sys.executable, "-c", TAKER, path, str(client.process.pid)])
            try:
                daemon = self._service.daemon.process
                eventually(
                    lambda: taker.poll() is not None or daemon.poll() is not None, "it has answered or ended"
                )
            finally:
                taker.kill()
                taken = taker.wait() == 0
        if daemon.poll() is None:
            assert taken
            self.alive += 1
            return
        assert daemon.returncode == OUT_OF_MEMORY, self._service.daemon.log
        begun_s = time.monotonic()
        self._service.start()
        self.restarts_s.append(time.monotonic() - begun_s)


def test_clients_that_remain_are_told_of_what_is_crossed_afterwards(
    limited: None, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The daemon lives, or has ended at once and serves again with the same clients."""
    memory = FakeMemory(tmp_path)
    with ExitStack() as stack:
        service = Service(memory.program, tmp_path, *QUICK, *memory.ARGUMENTS, name="memnotify-commit")
        stack.callback(service.close)
        clients = stack.enter_context(clients_of(service.daemon, 20))
        rounds = Rounds(service)
        for number in range(ROUNDS):
            rounds.play()
            assert "are lost" not in service.daemon.log, service.daemon.log
            memory.use(50 if number % 2 else 70)
            assert clients.told()
    record_property("rounds in which the daemon lived", f"{rounds.alive} of {ROUNDS}")
    record_property("restarts, s", [round(restart_s, 2) for restart_s in rounds.restarts_s])
