# SPDX-License-Identifier: MIT
"""The commands and the code in docs/clients/ run and print what the pages show."""

import contextlib
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
from support.bus import Bus
from support.program import waits_for_descriptor
from support.require import unavailable
from support.terminal import Terminal
from support.waiting import DEADLINE_S, eventually

from memnotify.testing import SimulatedDevice

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "docs/README.md", *sorted(REPOSITORY.glob("docs/clients/*.md"))]
TEXT = {page.stem: page.read_text() for page in PAGES}
# A block of code, and the block of its output, if there is one
_CODE = re.compile(r"(?ms)^```(sh|c|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?")
_CONTROL_FILE = re.compile(r"(?ms)`/etc/memnotify/([a-z]+\.mn)`:\n\n```ini\n(.*?)^```")
_TIME = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2} )?[0-9]{2}:[0-9]{2}:[0-9]{2}")
# Its number in /proc/PID/syscall on x86-64
_RECVFROM = "45"
_PICTURE = "╭"
_OF_MEMORY = re.compile(r"(?m)^│ (?:stalls|swap|no swap).*│$")
_OF_PROCESS = re.compile(r"(?m)^│ +(?:[0-9.]+ (?:KiB|MiB|GiB) \S.*)?│$")
# What dbus.service does when it is reloaded
_SYSTEMCTL = """\
#!/bin/sh
[ "$*" = "reload dbus" ] && exec dbus-send --system --print-reply=literal \\
    --dest=org.freedesktop.DBus / org.freedesktop.DBus.ReloadConfig
"""
IN_GUEST = ("shell", "c", "asyncio", "trio", "control-files")
"""The pages of which the last piece of code is run in a guest as well."""
_LOOKS = 20
"""A process waits for memory to move if it is found waiting this often in a row, 2 ms apart."""


class Example(NamedTuple):
    """A piece of code and its output."""

    page: str
    language: str
    code: str
    printed: str

    @property
    def is_picture(self) -> bool:
        """Return True if the command uses the whole terminal."""
        return self.printed.startswith(_PICTURE)


EXAMPLES = [Example(page, *found) for page, text in TEXT.items() for found in _CODE.findall(text)]


@pytest.mark.parametrize("page", TEXT)
def test_every_block_is_run(page: str) -> None:
    """A block with a language is an example; every other block is the output of one, or a control file."""
    blocks = re.findall(r"^ *(?:```|~~~)(.*)$", TEXT[page], re.MULTILINE)
    assert blocks[1::2] == [""] * (len(blocks) // 2)
    examples = [example for example in EXAMPLES if example.page == page]
    told = [word for example in examples for word in (example.language, "text")[: 1 + bool(example.printed)]]
    assert [block for block in blocks[::2] if block != "ini"] == told
    assert blocks[::2].count("ini") == len(_CONTROL_FILE.findall(TEXT[page]))


def test_every_page_is_listed() -> None:
    linked = re.findall(r"\]\(clients/(.*?)\)", TEXT["README"])
    assert sorted(set(linked)) == [page.name for page in PAGES[1:]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with the commands, and with the control files of the pages."""
    for name, text in _CONTROL_FILE.findall("".join(TEXT.values())):
        (tmp_path / name).write_text(text)
    return os.environ | {
        "PATH": os.pathsep.join((str(tmp_path), os.path.dirname(sys.executable), os.environ["PATH"])),
        "PYTHONUNBUFFERED": "1",
        "MEMNOTIFY": f"config={tmp_path}",
    }


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """Return a bus without the policy of the page."""
    (tmp_path / "systemctl").write_text(_SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    bus = Bus(tmp_path / "bus")
    with bus.program:
        yield bus


def _command(example: Example, directory: Path) -> list[str]:
    if example.language == "python":
        return [sys.executable, "-c", example.code]
    if example.language == "sh":
        return ["sh", "-euc", example.code]
    if shutil.which("gcc") is None:
        unavailable("gcc is not installed: apt install gcc libc6-dev")
    (directory / "example.c").write_text(example.code)
    program = str(directory / "example")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", program, f"{program}.c"], check=True)
    return [program]


def _prints(command: list[str], environment: dict[str, str], device: SimulatedDevice, directory: Path) -> str:
    """Return the output of a command while memory moves each time the command waits."""
    with open(directory / "printed", "w+") as printed:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            env=environment,
            start_new_session=True,
        )
        looks = 0

        def settled() -> bool:
            nonlocal looks
            looks = looks + 1 if _waits(process.pid) else 0
            return process.poll() is not None or looks >= _LOOKS

        try:
            for used in ("90%", "50%"):
                eventually(settled, "it waits or has ended")
                # When this returns, the process is notified: it does not wait any more.
                device.set(used=used)
                looks = 0
            eventually(settled, "it waits or has ended")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(DEADLINE_S)
        assert process.returncode in (0, -signal.SIGTERM)
        printed.seek(0)
        return printed.read()


def _timeless(text: str) -> str:
    return _TIME.sub("TIME", text)


def _parameters() -> Iterator[pytest.ParameterSet]:
    last = {example.page: example for example in EXAMPLES}
    for example in EXAMPLES:
        if example.page != "desktop" and not example.is_picture:
            in_guest = example.page in IN_GUEST and example is last[example.page]
            marks = [pytest.mark.representative] if in_guest else []
            yield pytest.param(example, marks=marks, id=f"{example.page} in {example.language}")


@pytest.mark.parametrize("example", list(_parameters()))
def test_output_is_that_of_the_page(
    device: SimulatedDevice, environment: dict[str, str], tmp_path: Path, example: Example
) -> None:
    printed = _prints(_command(example, tmp_path), environment, device, tmp_path)
    assert _timeless(printed) == _timeless(example.printed)


@pytest.mark.parametrize(
    "example", [each for each in EXAMPLES if each.is_picture], ids=lambda each: each.page
)
def test_picture_is_that_of_the_page(
    device: SimulatedDevice, environment: dict[str, str], example: Example
) -> None:
    """Compare the picture, except for the lengths of time, and what is of the real machine."""

    def drawn(picture: str) -> str:
        for line, kind in ((_OF_MEMORY, "swap"), (_OF_PROCESS, "process")):
            picture = line.sub(kind, picture)
        return re.sub(r"(.)\1+", r"\1", _timeless(picture))

    with Terminal("sh", "-euc", example.code, environment=environment) as terminal:
        terminal.shows("50.0 %    4.8 GiB")
        terminal.shows("none yet")
        for used in ("90.0 %    8.6 GiB", "50.0 %    4.8 GiB"):
            device.set(used=f"{used[:2]}%")
            terminal.shows(used)
        eventually(lambda: drawn("\n".join(terminal.frame) + "\n") == drawn(example.printed), example.printed)
        terminal.press(b"q")
        assert terminal.end() == 0


def test_the_service_on_the_bus(
    device: SimulatedDevice, environment: dict[str, str], bus: Bus, tmp_path: Path
) -> None:
    """Run the page's commands in their order: the first one gives the others the right to the name."""
    page = [example for example in EXAMPLES if example.page == "desktop"]
    assert len(page) > 1
    for example in page:
        assert example.language == "sh"
        code = example.code.replace("/etc/dbus-1", str(tmp_path / "bus"))
        command = ["sh", "-euc", code]
        printed = _prints(command, environment | bus.environment, device, tmp_path)
        assert printed == example.printed


def _waits(pid: int) -> bool:
    """Return True if a process, or one that it has started, waits for a descriptor, and none runs a command.

    ``run`` waits in poll() too while its command runs, which is a child of its helper. An idle helper reads
    its socket, the end of a pipeline its pipe.
    """
    waiting = running = False
    pids = [pid]
    while pids:
        directory = Path(f"/proc/{pids.pop()}/task")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            tasks = list(directory.iterdir())
            children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
            pids += children
            waits = any(map(waits_for_descriptor, tasks))
            waiting = waiting or waits
            reads = (directory.parent / "syscall").read_text().split()[0] == _RECVFROM
            reads = reads or (directory.parent / "wchan").read_text().endswith("pipe_read")
            running = running or not (children or waits or reads)
    return waiting and not running
