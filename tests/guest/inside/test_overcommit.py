# SPDX-License-Identifier: MIT
"""The machine is at its commit limit (vm.overcommit_memory=2) while a client with many open files ends."""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.daemon import QUICK
from support.fake_memory import FakeMemory
from support.kept import Service, clients_of
from support.waiting import DEADLINE_S

from memnotify.kernel.syscalls import OUT_OF_MEMORY

ROUNDS = int(os.environ.get("MEMNOTIFY_COMMIT_ROUNDS", "2"))
BLOCK = 10
"""Of rounds, a test: after 120 s faulthandler shows its stacks, and may crash while its threads run."""
FILES = 600
LIMITS = {
    "overcommit_memory": "2",
    "overcommit_ratio": "60",
    # Nothing is kept back: neither for root nor for small processes.
    "admin_reserve_kbytes": "0",
    "user_reserve_kbytes": "0",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build what takes all memory and ends a client."""
    program = tmp_path_factory.mktemp("program") / "commit_limit"
    source = Path(__file__).with_name("commit_limit.c")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, source], check=True)
    return program


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


@contextmanager
def _ends(*pids: int) -> Iterator[select.poll]:
    """Give what polls ready once one of several processes has ended."""
    poller = select.poll()
    with ExitStack() as stack:
        for pid in pids:
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            poller.register(fd, select.POLLIN)
        yield poller


class Rounds:
    """Ends of a client at the commit limit, one after the other; a daemon that has ended is started again."""

    def __init__(self, service: Service, program: Path) -> None:
        self._service = service
        self._program = program
        self.alive = 0
        self.restarts_s: list[float] = []

    def play(self) -> None:
        """Let one client end."""
        daemon = self._service.daemon.process
        taker = subprocess.Popen(
            [self._program, self._service.daemon.path, str(FILES)], stdin=subprocess.PIPE, bufsize=0
        )
        assert taker.stdin is not None
        try:
            with _ends(taker.pid, daemon.pid) as ends:
                taker.stdin.write(b"\n")
                # One call without allocations, as there is no memory for this process either.
                assert ends.poll(DEADLINE_S * 1000), "neither the read was answered, nor has the daemon ended"
        finally:
            taker.kill()
            taken = taker.wait() == 0
            taker.stdin.close()
        if daemon.poll() is None:
            assert taken
            self.alive += 1
            return
        assert daemon.returncode == OUT_OF_MEMORY, self._service.daemon.log
        begun_s = time.monotonic()
        self._service.start()
        self.restarts_s.append(time.monotonic() - begun_s)


@pytest.mark.parametrize("count", [min(BLOCK, ROUNDS - before) for before in range(0, ROUNDS, BLOCK)])
def test_clients_that_remain_are_told_of_what_is_crossed_afterwards(
    limited: None,
    program: Path,
    tmp_path: Path,
    count: int,
    record_property: Callable[[str, object], None],
) -> None:
    """The daemon lives, or has ended at once and serves again with the same clients."""
    memory = FakeMemory(tmp_path)
    with ExitStack() as stack:
        service = Service(memory.program, tmp_path, *QUICK, *memory.ARGUMENTS, name="memnotify-commit")
        stack.callback(service.close)
        clients = stack.enter_context(clients_of(service.daemon, 20))
        rounds = Rounds(service, program)
        for number in range(count):
            rounds.play()
            assert "are lost" not in service.daemon.log, service.daemon.log
            memory.use(50 if number % 2 else 70)
            assert clients.told()
    record_property("rounds in which the daemon lived", f"{rounds.alive} of {count}")
    record_property("restarts, s", [round(restart_s, 2) for restart_s in rounds.restarts_s])
