# SPDX-License-Identifier: MIT
"""``memnotify run`` against a served device, whose memory the test moves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, ready
from support.fake_memory import FakeMemory
from support.program import count_sleeps, settle
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Memnotify

NAME = "memnotify-run"
SAY = ("sh", "-c", "echo $MEMNOTIFY_EVENT $MEMNOTIFY_NAME ${MEMNOTIFY_USED_PERCENT%.*}")


@pytest.fixture
def daemon(serve: Callable[[str], Daemon]) -> Iterator[Daemon]:
    """Return a daemon whose memory the test moves."""
    with serve(NAME) as daemon:
        yield daemon


class Run:
    """``memnotify run``, which waits for events when the constructor returns."""

    def __init__(self, path: str, *arguments: str) -> None:
        # A session of its own, so that the whole group can be killed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "memnotify", "run", "--path", path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._ahead = b""
        self.pid = self._process.pid
        settle(self.pid)

    @property
    def helper(self) -> str:
        """The pid of the process that starts the command."""
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return child

    def line(self) -> str:
        """Return the next line of the command's output."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._ahead:
            assert ready(fd), "silent"
            # Not by readline(), whose buffer would take the lines that follow.
            self._ahead += os.read(fd, 4096)
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.decode()

    def silent(self) -> bool:
        """Return True if the command prints nothing for 0.2 seconds."""
        assert self._process.stdout is not None
        return not self._ahead and not ready(self._process.stdout.fileno(), timeout_s=0.2)

    def end(self, number: int = 0) -> tuple[int, str, str]:
        """Send a signal, unless it is 0. Return the exit code and the rest of both outputs."""
        if number:
            self._process.send_signal(number)
        out, err = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode, self._ahead.decode() + out, err

    def kill(self) -> None:
        """Kill the command and its children, if they still run."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.communicate(timeout=DEADLINE_S)


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts ``memnotify run``. Processes of a failed test are killed at the end."""
    runs: list[Run] = []

    def start(path: str, *arguments: str) -> Run:
        runs.append(Run(path, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.mark.representative
def test_up_and_down_with_the_figures(start: Start, daemon: Daemon, memory: FakeMemory) -> None:
    run = start(daemon.path, "--when", "used 80%", "--when-below", "used 60%", "--", *SAY)
    for _ in range(2):
        memory.use(90)
        assert run.line() == "up used 90"
        memory.use(70)
        assert run.silent()
        memory.use(50)
        assert run.line() == "down used 50"
    assert run.end(signal.SIGINT) == (130, "", "")


def test_a_threshold_exceeded_at_the_start_is_no_event(
    start: Start, daemon: Daemon, memory: FakeMemory
) -> None:
    run = start(daemon.path, "--when", "used 40%", "--when-below", "used 60%", "--", *SAY)
    assert run.silent()
    status, out, err = run.end(signal.SIGTERM)
    assert (status, out) == (-signal.SIGTERM, "")
    assert re.fullmatch(r"memnotify run: used 40\.0 % \(.*\) is exceeded already: .*\n", err)


def test_what_holds_at_the_start_counts_if_asked_for(
    start: Start, daemon: Daemon, memory: FakeMemory
) -> None:
    for option, thresholds, said in (
        ("--when", "used 40%", "up used 50"),
        ("--when-below", "used 60%", "down used 50"),
    ):
        run = start(daemon.path, "--now", option, thresholds, "--", *SAY)
        assert run.line() == said
        assert run.silent()


def test_each_of_several_options_counts(start: Start, daemon: Daemon, memory: FakeMemory) -> None:
    """The first of two thresholds of one figure is not dropped."""
    run = start(daemon.path, "--when", "used 70%", "--when", "used 90%", "--", *SAY)
    for used_percent in (80, 90):
        memory.use(used_percent)
        assert run.line() == f"up used {used_percent}"


def test_runs_alternate(start: Start, daemon: Daemon, memory: FakeMemory) -> None:
    """Between the two thresholds a figure may move to and fro."""
    run = start(daemon.path, "--when", "used 80%", "--until", "used 60%", "--for", "0.01s", "--", *SAY)
    memory.use(90)
    assert run.line() == "up used 90"
    for used_percent in (70, 90, 70):
        memory.use(used_percent)
        assert run.silent()
    memory.use(50)
    assert run.line() == "down used 50"
    memory.use(90)
    assert run.line() == "up used 90"


@pytest.mark.parametrize(
    ("when", "until", "said"),
    [
        ("used 80%", "active 60%", "no threshold of used"),
        ("used 60%", "used 80%", "lower threshold"),
        ("used 80%", "used 60% active 10%", "no threshold of active"),
    ],
)
def test_runs_that_could_not_alternate_are_refused(daemon: Daemon, when: str, until: str, said: str) -> None:
    """With these, no second run would follow the first."""
    command = [sys.executable, "-m", "memnotify", "run", "--path", daemon.path, "--now"]
    done = subprocess.run(
        [*command, "--when", when, "--until", until, "--", *SAY],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_one_at_a_time(start: Start, daemon: Daemon, memory: FakeMemory, tmp_path: Path) -> None:
    """Crossings while the command runs cause one more run, or none if the figure has gone back."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = start(daemon.path, "--when", "used 80%", "--", "sh", "-c", f"echo begun; cat {gate}; echo ended")

    def let_end() -> None:
        gate.write_text("")
        assert run.line() == "ended"

    with Memnotify(daemon.path) as witness:
        witness.subscribe(used="80%")

        def move(*useds_percent: int) -> None:
            for used_percent in useds_percent:
                sleeps = count_sleeps(run.pid)
                memory.use(used_percent)
                assert witness.wait(DEADLINE_S) is not None
                # The same call wakes ``run``, which must have read the figures before the next change.
                eventually(lambda sleeps=sleeps: count_sleeps(run.pid) > sleeps, "run was woken")  # type: ignore[misc] # mypy infers no type for a default
                settle(run.pid)

        move(90)
        assert run.line() == "begun"
        move(50, 90, 50, 90)
        assert run.silent()
        let_end()
        assert run.line() == "begun"
        move(50, 90, 50)
        let_end()
        assert run.silent()
        move(90)
        assert run.line() == "begun"
        let_end()
        assert run.silent()
    assert run.end(signal.SIGINT) == (130, "", "")


def test_not_more_often_than_allowed(start: Start, daemon: Daemon, memory: FakeMemory) -> None:
    arguments = ("--when", "used 80%", "--when-below", "used 60%", "--min-interval", "0.5", "--count", "2")
    run = start(daemon.path, *arguments, "--", "date", "+%s.%N")
    memory.use(90)
    first = run.line()
    memory.use(50)
    second = run.line()
    assert float(second) - float(first) >= 0.45
    assert run.end() == (0, "", "")


@pytest.mark.parametrize(
    ("script", "said"),
    [("exit 3", "ended with 3"), ("kill -KILL $$", "ended by signal 9, Killed")],
)
def test_a_failure_is_reported(
    start: Start, daemon: Daemon, memory: FakeMemory, script: str, said: str
) -> None:
    run = start(daemon.path, "--when", "used 80%", "--count", "1", "--", "sh", "-c", f"echo out; {script}")
    memory.use(90)
    assert run.end() == (1, "out\n", f"memnotify run: sh: {said}\n")


def test_a_command_that_cannot_be_started(
    start: Start, daemon: Daemon, memory: FakeMemory, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    run = start(daemon.path, "--when", "used 80%", "--count", "1", "--", str(program))
    memory.use(90)
    assert run.end() == (1, "", f"memnotify run: {program}: No such file or directory\n")


@pytest.mark.representative
def test_crossings_without_a_daemon_are_found_by_the_next(
    start: Start, serve: Callable[[str], Daemon], memory: FakeMemory
) -> None:
    old = serve(NAME)
    run = start(old.path, "--when", "used 80%", "--count", "1", "--", *SAY)
    old.end(signal.SIGKILL)
    memory.use(90)
    with serve(NAME):
        code, out, err = run.end()
    assert (code, out) == (0, "up used 90\n")
    assert [line.rpartition(": ")[2] for line in err.splitlines()] == [
        "the device is no longer served",
        "the device is served again",
    ]


def test_the_command_starts_from_a_process_that_was_there(
    start: Start, daemon: Daemon, memory: FakeMemory
) -> None:
    script = "echo $PPID; ls /proc/self/fd | wc -l; grep SigIgn /proc/self/status"
    run = start(daemon.path, "--when", "used 80%", "--", "sh", "-c", script)
    helper = run.helper
    memory.use(90)
    assert run.line() == helper
    assert run.line() == "4"  # three, and the directory itself: none of ours
    ignored = int(run.line().split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        assert not ignored & 1 << (number - 1)
    run.end(signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{helper}"), "the helper ends, too")


def test_a_helper_that_is_killed(start: Start, daemon: Daemon) -> None:
    run = start(daemon.path, "--when", "used 80%", "--", *SAY)
    os.kill(int(run.helper), signal.SIGKILL)
    assert run.end() == (1, "", "memnotify run: sh: the process that starts the command has ended\n")
