# SPDX-License-Identifier: MIT
"""The code in docs/clients.md, run: it prints what stands there."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemon import QUICK, Daemon
from support.fake_memory import FakeMemory
from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Memnotify

TEXT = (Path(__file__).parents[2] / "docs/clients.md").read_text()
WAITS = {"7", "232", "271", "281"}
"""poll, epoll_wait, ppoll and epoll_pwait, as /proc/PID/syscall says on x86-64."""
# A block, and the block of what it prints
_CODE = re.compile(r"(?ms)^```(sh|c|python)\n(.*?)^```\n\n```text\n(.*?)^```")
_CONTROL_FILE = re.compile(r"(?ms)`/etc/memnotify/([a-z]+\.mn)`:\n\n```ini\n(.*?)^```")
_LOOKS = 20
"""So often in a row, 2 ms apart, a process is found waiting that waits for memory to move."""


class Example(NamedTuple):
    """A piece of code, and what it prints."""

    section: str
    language: str
    code: str
    printed: str


def _examples() -> Iterator[Example]:
    for section in TEXT.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for language, code, printed in re.findall(_CODE, section):
            yield Example(title, language, code, printed)


EXAMPLES = list(_examples())


def test_every_piece_of_code_is_run() -> None:
    blocks = re.findall(r"^```([a-z]+)$", TEXT, re.MULTILINE)
    assert blocks.count("text") == len(EXAMPLES)
    assert len(blocks) == 2 * len(EXAMPLES) + blocks.count("ini")


@pytest.fixture
def memory(tmp_path: Path) -> FakeMemory:
    """Return the memory of the daemon, half of it used."""
    return FakeMemory(tmp_path)


@pytest.fixture
def daemon(_can_mount: None, memory: FakeMemory) -> Iterator[Daemon]:
    """Return a daemon of that memory, where examples look for it."""
    with Daemon(*QUICK, *memory.ARGUMENTS, name="memnotify", program=memory.program) as daemon:
        yield daemon


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with the commands, and with the control files of the page."""
    for name, text in re.findall(_CONTROL_FILE, TEXT):
        (tmp_path / name).write_text(text)
    return os.environ | {
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
        "PYTHONUNBUFFERED": "1",
        "MEMNOTIFY": f"config={tmp_path}",
    }


def _command(example: Example, folder: Path) -> list[str]:
    if example.language == "python":
        return [sys.executable, "-c", example.code]
    if example.language == "sh":
        return ["sh", "-euc", example.code]
    if shutil.which("gcc") is None:
        unavailable("gcc is not installed: apt install gcc libc6-dev")
    (folder / "example.c").write_text(example.code)
    program = str(folder / "example")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", program, f"{program}.c"], check=True)
    return [program]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.section} in {example.language}")
def test_it_prints_what_stands_there(
    daemon: Daemon, memory: FakeMemory, environment: dict[str, str], tmp_path: Path, example: Example
) -> None:
    command = _command(example, tmp_path)
    with open(tmp_path / "printed", "w+") as printed, Memnotify(daemon.path) as witness:
        witness.subscribe(used="80%")
        process = subprocess.Popen(command, stdout=printed, env=environment, start_new_session=True)

        looks = 0

        def settled() -> bool:
            nonlocal looks
            looks = looks + 1 if _waits(process.pid) else 0
            return process.poll() is not None or looks >= _LOOKS

        def has_printed() -> str:
            printed.seek(0)
            return printed.read()

        try:
            for used_percent in (90, 50):
                eventually(settled, "it waits or has ended")
                memory.use(used_percent)
                # Whoever waits is woken by the same call, and waits no longer.
                assert witness.wait(DEADLINE_S) is not None
                looks = 0
            eventually(settled, "it waits or has ended")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(DEADLINE_S)
        assert has_printed() == example.printed
        assert process.returncode in (0, -signal.SIGTERM)


def _waits(pid: int) -> bool:
    """Whether a thread of the process, or of one that it has started, waits for a descriptor."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        if any((task / "syscall").read_text().split()[0] in WAITS for task in tasks):
            return True
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(_waits(int(child)) for child in children)
