# SPDX-License-Identifier: MIT
"""The memnotify command: what it prints and how it ends, on files that stand in for the device."""

import json
import os
import re
import select
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import DEADLINE_S

from memnotify import __version__
from memnotify.cli import main
from memnotify.client import PAGE_SIZE, Memnotify

LINE = b"total 1000 used 250 active 7\n"

# How it is told


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["read", "--fly"],
        ["read", "extra"],
        ["wait"],
        ["wait", "used 5", "extra"],
        ["wait", "used 5", "--timeout", "soon"],
        ["wait", "used 5", "--timeout", "-1"],
        ["wait", "used 5", "--timeout", "nan"],
        ["wait", "used 5", "--timeout", "2000001"],
        ["serve", "--transport", "pigeon"],
        ["serve", "--update-period", "fast"],
        ["serve", "--update-period", "1.5"],
        ["serve", "--log-level", "loud"],
        ["serve", "/dev/memnotify"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and how it is meant, on stderr."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: memnotify")
    assert "error: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update-period", "0"], "update_period is 0 ms"),
        (["--update-period", "20000"], "15000 ms"),
        (["--max-update-period", "100"], "update_period is 250 ms"),
        (["--max-update-period", "86400001"], "a day"),
        (["--min-update-period", "0"], "min_update_period is 0 ms"),
        (["--fill-rate", "0"], "fill_rate is 0 MiB/s"),
        (["--update-space", "-1"], "update_space is -1 kB"),
    ],
)
def test_parameters_out_of_bounds(
    arguments: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A parameter out of its bounds is a wrong argument too, said in one line of the log."""
    assert main(["serve", *arguments]) == 2
    assert message in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        ([], ["serve", "read", "wait", "used 80%", "--version"]),
        (
            ["serve"],
            ["CUSE", "FUSE", "/dev/NAME", "250 ms", "15000 ms", "SIGTERM", "0 asked", "1 the", "2 wrong"],
        ),
        (["read"], ["pages", "percent", "JSON", "/dev/memnotify", "0 figures", "2 no device"]),
        (["wait"], ["used 80%", "6G", "0 crossed", "1 the daemon", "2 thresholds", "3 time-out"]),
    ],
)
def test_help_teaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], taught: list[str]
) -> None:
    """The help of each command says what it does, its defaults and its exit codes, in 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in [*taught, *(["exit codes: "] if command else [])]:
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"memnotify {__version__}\n"


# read


@pytest.fixture
def device(tmp_path: Path) -> str:
    """Return the path of a file that reads like the device."""
    path = tmp_path / "device"
    path.write_bytes(LINE)
    return str(path)


def test_read_prints_a_table(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each figure: pages, human units, percent of total."""
    assert main(["read", "--path", device]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["total", "1000", "pages"],
        ["used", "250", "pages"],
        ["active", "7", "pages"],
    ]
    assert [row[-2:] for row in rows] == [["100.0", "%"], ["25.0", "%"], ["0.7", "%"]]
    assert rows[1][3:5] == [f"{250 * PAGE_SIZE / 1024:.1f}", "KiB"]


@pytest.mark.parametrize(
    ("pages", "human"),
    [
        (0, "0.0 B"),
        (1, f"{PAGE_SIZE / 1024:.1f} KiB"),
        (2**20 // PAGE_SIZE, "1.0 MiB"),
        (3 * 2**29 // PAGE_SIZE, "1.5 GiB"),
        (2**50 // PAGE_SIZE, "1024.0 TiB"),
    ],
)
def test_human_units(tmp_path: Path, capsys: pytest.CaptureFixture[str], pages: int, human: str) -> None:
    """The unit fits the size; a total of 0 is no division."""
    (tmp_path / "device").write_text(f"total 0 used {pages} active 0\n")
    assert main(["read", "--path", str(tmp_path / "device")]) == 0
    total, used, _ = capsys.readouterr().out.splitlines()
    assert human in re.sub(" +", " ", used)
    assert total.endswith(" 0.0 %")


def test_read_prints_json(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on one line, in pages, bytes and percent."""
    assert main(["read", "--json", "--path", device]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "page_size": PAGE_SIZE,
        "total": {"pages": 1000, "bytes": 1000 * PAGE_SIZE, "percent": 100.0},
        "used": {"pages": 250, "bytes": 250 * PAGE_SIZE, "percent": 25.0},
        "active": {"pages": 7, "bytes": 7 * PAGE_SIZE, "percent": 0.7},
    }


def test_read_takes_further_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A later device may say more, behind the three."""
    (tmp_path / "device").write_bytes(LINE[:-1] + b" swap 3 odd\n")
    assert main(["read", "--path", str(tmp_path / "device")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("command", [["read"], ["read", "--json"], ["wait", "used 80%"]])
@pytest.mark.parametrize(
    ("path", "said"),
    [("none", "No such file or directory; start 'memnotify serve'"), ("folder", "Is a directory")],
)
def test_no_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], path: str, said: str
) -> None:
    """Exit code 2, and what to do about it."""
    (tmp_path / "folder").mkdir()
    assert main([*command, "--path", str(tmp_path / path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"memnotify {command[0]}: {tmp_path / path}: {said}\n"


@pytest.mark.parametrize("text", [b"", b"total 5\n", b"used 1 active 2 total many\n", b"\xff\x00" * 3000])
def test_read_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    """A file that is no device is said to be none, whatever is in it."""
    (tmp_path / "file").write_bytes(text)
    assert main(["read", "--path", str(tmp_path / "file")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no line of a memnotify device" in err
    assert len(err) < 600 + len(str(tmp_path))


def test_read_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe with nothing in it is an error, not a wait; with a line in it, it is as good as the device."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert main(["read", "--path", str(path)]) == 2
    assert "temporarily unavailable" in capsys.readouterr().err
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, LINE)
    assert main(["read", "--path", str(path)]) == 0
    os.close(fd)


# wait


def test_wait_reads_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What reads like no device is not written to."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert main(["wait", "used 80%", "--path", str(path)]) == 2
    assert path.read_bytes() == b""
    assert "no line of a memnotify device" in capsys.readouterr().err


class Terminal:
    """A device played by hand: what is written to it is seen, and it is not ready before it is told to be."""

    def __init__(self) -> None:
        self.near, far = os.openpty()
        tty.setraw(far)
        self.far: int | None = far
        self.path = os.ttyname(far)

    def wait(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``memnotify wait`` on it: a process of its own, as a terminal may become its master's."""
        command = [sys.executable, "-m", "memnotify", "wait", "used 80%", "--path", self.path, *arguments]
        os.write(self.near, LINE)  # it looks first whether this is the device
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert select.select([self.near], [], [], DEADLINE_S)[0]
        assert os.read(self.near, 100) == b"used 80%"
        return process

    def hang_up(self) -> None:
        """End the device, as a daemon's end does."""
        if self.far is not None:
            os.close(self.far)
            os.close(self.near)
            self.far = None


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Return a terminal, and close it."""
    terminal = Terminal()
    yield terminal
    terminal.hang_up()


def test_wait_until_it_crosses(terminal: Terminal) -> None:
    """It subscribes, waits, and prints the line when the device becomes ready."""
    process = terminal.wait("--timeout", "2000000")
    assert process.poll() is None
    os.write(terminal.near, LINE)
    assert process.communicate(timeout=DEADLINE_S) == (LINE.decode(), "")
    assert process.returncode == 0


@pytest.mark.parametrize("seconds", ["0", "0.01"])
def test_wait_times_out(terminal: Terminal, seconds: str) -> None:
    """Exit code 3, and silence, when nothing has happened in time."""
    process = terminal.wait("--timeout", seconds)
    assert process.communicate(timeout=DEADLINE_S) == ("", "")
    assert process.returncode == 3


def test_wait_ends_with_the_daemon(terminal: Terminal) -> None:
    """Exit code 1 when the device goes away."""
    process = terminal.wait()
    terminal.hang_up()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (out, process.returncode) == ("", 1)
    assert err.startswith(f"memnotify wait: {terminal.path}: ")


# The client library beneath


def test_the_client_s_life(device: str) -> None:
    """It has a descriptor to poll, reads, and closes more than once without harm."""
    with Memnotify(device) as client:
        assert not os.get_inheritable(client.fileno())
        assert client.read() == (1000, 250, 7)
        fd = client.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    client.close()
    assert client.fileno() == -1


def test_the_client_writes_one_byte_at_least(device: str) -> None:
    """The kernel would keep an empty write to itself: nothing would be cleared."""
    with Memnotify(device) as client:
        client.subscribe("")
        client.subscribe("used 5")
    assert Path(device).read_bytes().startswith(b"\nused 5")
