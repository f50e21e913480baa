# SPDX-License-Identifier: MIT
"""The programs in examples/, with a daemon whose memory the test moves."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.program import Program
from support.require import unavailable
from support.simulated import KIND, TOTAL
from support.waiting import eventually

from memnotify.testing import SimulatedDevice

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
ENVIRONMENT = {
    "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
    # GLib's bindings are those of Debian's own Python, which has no memnotify.
    "PYTHONPATH": str(REPOSITORY),
}
HIGH = "total 2500000 used 2250000 active 250000"
LOW = "total 2500000 used 1250000 active 250000"
# The output at the start, at 90 % used, and at 50 % again.
SAID = {
    "wait.c": (["watching used 80%", f"below: {LOW}"], [f"reached: {HIGH}"], [f"below: {LOW}"]),
    "epoll.c": (
        [
            "watching used 60%",
            f"used 60%: below: {LOW}",
            "watching used 80%",
            f"used 80%: below: {LOW}",
        ],
        [f"used 60%: reached: {HIGH}", f"used 80%: reached: {HIGH}"],
        [f"used 60%: below: {LOW}", f"used 80%: below: {LOW}"],
    ),
    "drop_cache.py": (
        ["watching used 80%"],
        ["90 % used: dropped the cache"],
        ["50 % used: enough memory again"],
    ),
    "with_asyncio.py": (
        ["watching used 80%"],
        ["90 % used: no new work"],
        ["50 % used: work goes on"],
    ),
    "with_trio.py": (
        ["watching used 80%"],
        ["the job frees its memory"],
        ["50 % used: the job starts again"],
    ),
    "with_glib.py": (
        ["watching used 80%"],
        ["used went up: 90 % used"],
        ["used went down: 50 % used"],
    ),
}


def _served() -> SimulatedDevice:
    """Return a device at the path that the examples use, half of whose memory is used."""
    return SimulatedDevice(kind=KIND, path="/dev/memnotify", total=TOTAL)


@pytest.fixture
def device(_can_serve: None) -> Iterator[SimulatedDevice]:
    """Return such a device of this test's own."""
    with _served() as device:
        yield device


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the command of each example, compiled if it is C."""
    if shutil.which("gcc") is None:
        unavailable("gcc is not installed: apt install gcc libc6-dev")
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import gi"], check=False, capture_output=True).returncode:
        unavailable("GLib's bindings are not installed: apt install python3-gi")
    directory = tmp_path_factory.mktemp("examples")
    commands: dict[str, list[str]] = {}
    for name in SAID:
        source, binary = str(EXAMPLES / name), str(directory / name.removesuffix(".c"))
        if name.endswith(".c"):
            subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", binary, source], check=True)
            commands[name] = [binary]
        else:
            commands[name] = [python if name == "with_glib.py" else sys.executable, source]
    return commands


def test_every_example_is_run() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert programs == {*SAID, "pause.sh"}
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"| `{name}` |" in listed for name in programs)


@pytest.mark.parametrize("name", SAID)
def test_output_at_each_crossing(device: SimulatedDevice, commands: dict[str, list[str]], name: str) -> None:
    first, high, low = SAID[name]
    with Program(*commands[name], environment=ENVIRONMENT) as program:
        assert [program.line() for _ in first] == first
        for _ in range(2):
            device.set(used="90%")
            assert sorted(program.line() for _ in high) == high
            device.set(used="50%")
            assert sorted(program.line() for _ in low) == low


@pytest.mark.parametrize("name", ["wait.c", "epoll.c"])
def test_a_bare_file_ends_a_c_example(commands: dict[str, list[str]], name: str) -> None:
    """What a daemon may leave at the path is no device: nothing is written to it, and nothing spins."""
    script = 'mount -t tmpfs test /dev && : >/dev/memnotify && "$0"; echo "$? $(stat -c %s /dev/memnotify)"'
    command = ["unshare", "--mount", "sh", "-c", script, *commands[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr.strip()[-23:]) == ("1 0\n", "Operation not permitted")


@pytest.mark.representative
@pytest.mark.parametrize(
    "name", ["epoll.c", "drop_cache.py", "with_asyncio.py", "with_trio.py", "with_glib.py"]
)
def test_a_new_daemon_is_found(commands: dict[str, list[str]], name: str) -> None:
    first, high, _ = SAID[name]
    with ExitStack() as old:
        old.enter_context(_served())
        with Program(*commands[name], environment=ENVIRONMENT) as program:
            assert [program.line() for _ in first] == first
            old.close()
            with _served() as device:
                if name == "epoll.c":
                    assert sorted(program.line() for _ in first) == sorted(first)
                device.set(used="90%")
                program.hear(high[0])


@pytest.mark.parametrize("name", ["wait.c", "epoll.c"])
def test_what_is_exceeded_at_the_start(
    device: SimulatedDevice, commands: dict[str, list[str]], name: str
) -> None:
    """That is no event: the programs compare the figures with the threshold."""
    device.set(used="90%")
    with Program(*commands[name], "used 90%", environment=ENVIRONMENT) as program:
        assert program.hear(HIGH).removeprefix("used 90%: ") == f"reached: {HIGH}"
        device.set(used="50%")
        assert program.hear(LOW).removeprefix("used 90%: ") == f"below: {LOW}"
    with Program(*commands[name], "used 6G", environment=ENVIRONMENT) as program:
        assert program.hear(LOW).removeprefix("used 6G: ") == LOW


@pytest.mark.parametrize("name", [*SAID])
def test_other_thresholds(device: SimulatedDevice, commands: dict[str, list[str]], name: str) -> None:
    with Program(*commands[name], "used 95%", environment=ENVIRONMENT) as program:
        assert program.line() == "watching used 95%"
        device.set(used="100%")
        assert program.line()


def test_a_process_is_paused(device: SimulatedDevice) -> None:
    with (
        Program("sleep", "infinity") as sleeper,
        Program(str(EXAMPLES / "pause.sh"), str(sleeper.process.pid), environment=ENVIRONMENT) as program,
    ):
        program.settle()

        def sleeper_state() -> str:
            return Path(f"/proc/{sleeper.process.pid}/stat").read_text().split()[2]

        for used_percent, said, state in ((90, "stopped", "T"), (50, "continued", "S")):
            device.set(used=f"{used_percent}%")
            assert program.line() == f"{said} {sleeper.process.pid}"
            eventually(lambda: sleeper_state() == state, said)  # noqa: B023 - awaited at once
