# SPDX-License-Identifier: MIT
"""The memnotify command: its output and exit codes, with files in place of the device."""

import base64
import errno
import functools
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_device import FakeDaemon

from memnotify import __version__
from memnotify.cli import COMMANDS, main, make_parser
from memnotify.cli.lowmem_bus import service
from memnotify.cli.run import announce, environment
from memnotify.client import PAGE_SIZE, Change, Figures, Lost, Pages, Restored

LINE = b"total 1000 used 250 active 7\n"
UNKNOWN = (
    "is not understood: the names are total, used, active, cgroup (others by 'memnotify serve --figures')"
)

# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["read", "--fly"],
        ["read", "extra"],
        ["wait"],
        ["wait", "used 5", "extra"],
        ["wait", "used 5", "--timeout", "soon"],
        ["wait", "used 5", "--timeout", "-1"],
        ["wait", "used 5", "--timeout", "nan"],
        ["wait", "used 5", "--timeout", "2000001"],
        ["wait", "used 5", "--count", "-1"],
        ["wait", "used 5", "--count", "two"],
        ["wait", "used 5", "--up", "--down"],
        ["run", "--when", "used 5"],
        ["run", "--until", "used 5", "--", "true"],
        ["run", "--when", "used 5", "--until", "used 4", "--when-below", "used 4", "--", "true"],
        ["run", "--", "true"],
        ["run", "--when", "used 5", "--min-interval", "-1", "--", "true"],
        ["run", "--when", "used 5", "--count", "-1", "--", "true"],
        ["watch", "used 80%"],
        ["watch", "--interval", "0.1"],
        ["watch", "--interval", "often"],
        ["lowmem-bus", "used 80%"],
        ["lowmem-bus", "--interval", "-1"],
        ["exporter", "--listen", "9012"],
        ["exporter", "--listen", ":9012"],
        ["exporter", "--listen", "::1:9012"],
        ["exporter", "--listen", "localhost:65536"],
        ["doctor", "/dev/memnotify"],
        ["doctor", "--timeout", "-1"],
        ["serve", "--transport", "pigeon"],
        ["serve", "--update-period", "fast"],
        ["serve", "--update-period", "1.5"],
        ["serve", "--log-level", "loud"],
        ["serve", "/dev/memnotify"],
        ["serve", "--socket"],
        ["serve", "--config"],
        ["check-config", "memnotify.toml"],
        ["check-config", "--fill-rate", "fast"],
        ["env"],
        ["env", "--when", "used 5", "--path", "memnotify"],
        ["env", "--when", "used 5", "--path", "/dev/../memnotify"],
        ["env", "--when", "used 5", "--socket", "/run//memnotify"],
        ["env", "--when", "used 5", "--socket", "/run/\n"],
        ["env", "--when", "used 5", "--socket", "/run/s", "--path", "/dev/memnotify"],
        ["env", "--when", "used 5", "--format", "toml"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the usage on stderr."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: memnotify")
    assert "error: " in err


def test_the_command_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit code of wrong arguments: a script that forgot the command must fail."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == make_parser(*COMMANDS).format_help()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update-period", "0"], "update_period is 0 ms"),
        (["--update-period", "20000"], "15000 ms"),
        (["--max-update-period", "100"], "update_period is 250 ms"),
        (["--max-update-period", "86400001"], "command line: max_update_period is 86400001 ms"),
        (["--min-update-period", "0"], "min_update_period is 0 ms"),
        (["--fill-rate", "0"], "fill_rate is 0 MiB/s"),
        (["--update-space", "-1"], "update_space is -1 kB"),
        (["--name", "a/b"], 'name is "a/b"'),
        (["--socket-mode", "rw"], "such as 660"),
    ],
)
def test_settings_out_of_bounds(arguments: list[str], message: str, caplog: pytest.LogCaptureFixture) -> None:
    """A setting out of its bounds is a wrong argument too: one line in the log says so."""
    assert main(["serve", *arguments]) == 2
    assert message in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        ([], ["serve", "read", "wait", "used 80%", "--version"]),
        (
            ["serve"],
            [
                "CUSE",
                "FUSE",
                "/dev/NAME",
                "250 ms",
                "15000 ms",
                "SIGTERM",
                "0 asked",
                "1 the",
                "2 invalid",
                "cp -r",
            ],
        ),
        (
            ["check-config"],
            ["250 ms", "/etc/memnotify/memnotify.toml", "FILE.d", "KEY = VALUE", "line", "0 valid", "2 not"],
        ),
        (
            ["run"],
            [
                "used 80%",
                "--when-below",
                "MEMNOTIFY_USED",
                "MEMNOTIFY_EVENT",
                "0 N runs",
                "1 the",
                "2 thresholds",
            ],
        ),
        (
            ["env"],
            [
                "MEMORY_PRESSURE_WATCH",
                "MEMORY_PRESSURE_WRITE",
                "base64",
                "used 80%",
                "--socket",
                "systemd",
                "drop-in",
                "0 printed",
                "2 thresholds",
            ],
        ),
        (
            ["watch"],
            ["used 80%", "several times", "--plain", "Ctrl-C", "0 asked", "1 a", "2 thresholds", "4 rich"],
        ),
        (
            ["lowmem-bus"],
            [
                "GMemoryMonitor",
                "used 80%",
                "used 95%",
                "send 255",
                "15",
                "0 asked",
                "1 no bus",
                "2 thresholds",
                "4 dbus-fast",
            ],
        ),
        (
            ["exporter"],
            [
                "127.0.0.1:9012",
                "--textfile",
                "node_exporter",
                "memnotify_up",
                "0 the file",
                "1 cannot",
                "2 wrong",
                "4 prometheus_client",
            ],
        ),
        (
            ["doctor"],
            [
                "round trip",
                "/proc/meminfo",
                "4 MiB",
                "--timeout",
                "JSON",
                '"healthy"',
                "0 no check",
                "1 a check failed",
            ],
        ),
        (["read"], ["pages", "percent", "JSON", "/dev/memnotify", "0 figures", "2 no device"]),
        (
            ["wait"],
            [
                "used 80%",
                "6G",
                "--up",
                "--down",
                "JSON",
                "0: never",
                "0 crossed",
                "1 the daemon",
                "2 thresholds",
                "3 time-out",
            ],
        ),
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


def test_the_daemon_is_not_burdened_with_the_other_commands() -> None:
    """The daemon keeps in memory what it imports, so it imports no other command."""
    code = (
        "import sys; from memnotify.cli import main; main(['serve', '--fill-rate', '0']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "memnotify.cli.serve" in imported
    burdens = ("memnotify.client", "json", "tomllib", "difflib", "shutil", "lzma")
    assert not [name for name in imported if name.startswith(burdens)]


@pytest.mark.parametrize(
    ("missing", "message", "remedy"),
    [
        ("memnotify._shim", "the compiled module is not installed", "the wheel for this platform"),
        ("_cffi_backend", "cffi is not installed", "pip install cffi"),
        ("memnotify.transports", "the daemon cannot be loaded: ", "apt install fuse3"),
    ],
)
def test_serve_where_it_cannot_be_loaded(missing: str, message: str, remedy: str) -> None:
    """Exit code 4, and one line that says what is missing and how to get it."""
    code = (
        "import sys; from memnotify.cli import main; sys.modules[sys.argv[1]] = None;"
        " sys.exit(main(['serve', '--config', '/dev/null']))"
    )
    done = subprocess.run([sys.executable, "-c", code, missing], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"memnotify: ERROR: {message}")
    assert remedy in line


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


def test_read_prints_extra_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A device may have more figures, after the three."""
    (tmp_path / "device").write_bytes(LINE[:-1] + b" swap 3\n")
    assert main(["read", "--path", str(tmp_path / "device")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["total", "used", "active", "swap"]


@pytest.mark.parametrize(
    "command",
    [
        ["read"],
        ["read", "--json"],
        ["wait", "used 80%"],
        ["run", "--when", "used 8%", "true"],
        ["watch"],
        ["lowmem-bus"],
    ],
)
@pytest.mark.parametrize(
    ("path", "said"),
    [("none", "No such file or directory; start 'memnotify serve'"), ("directory", "Is a directory")],
)
def test_no_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], path: str, said: str
) -> None:
    """Exit code 2, and a message that says what to do."""
    (tmp_path / "directory").mkdir()
    assert main([*command, "--path", str(tmp_path / path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"memnotify {command[0]}: {tmp_path / path}: {said}\n"


@pytest.mark.parametrize("text", [b"", b"total 5\n", b"used 1 active 2 total many\n", b"\xff\x00" * 3000])
def test_read_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    """The message says that a file is not a device, whatever it contains."""
    (tmp_path / "file").write_bytes(text)
    assert main(["read", "--path", str(tmp_path / "file")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no line of a memnotify device" in err
    assert len(err) < 600 + len(str(tmp_path))


def test_read_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty pipe is an error, and does not block; a pipe that contains a line is read like the device."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert main(["read", "--path", str(path)]) == 2
    assert "temporarily unavailable" in capsys.readouterr().err
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, LINE)
    assert main(["read", "--path", str(path)]) == 0
    os.close(fd)


# Output


@pytest.mark.parametrize("arguments", [["read"], ["env", "--when", "used 80%"], ["--version"], ["--help"]])
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        (">/dev/full", 1, "memnotify: [Errno 28] No space left on device\n"),
        ("", 141, ""),  # a pipe without a reader
    ],
)
def test_stdout_that_takes_nothing(
    device: str, arguments: list[str], redirection: str, code: int, said: str
) -> None:
    """The exit code depends on the cause, and there is no traceback."""
    path = ["--path", device] if arguments[0] == "read" else []
    command = [sys.executable, "-m", "memnotify", *arguments, *path]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        # argparse would ignore it silently.
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["read", "--path", "/none"], 2),
        (["wait", "used 80%", "--path", "/none"], 2),
        (["read", "--fly"], 2),
        (["run", "--when", "used 5", "--", "no-such-command"], 2),
        (["--version"], 1),
    ],
)
@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", ">/dev/full 2>&-", ">/dev/full"])
def test_stderr_that_takes_nothing(arguments: list[str], code: int, redirection: str) -> None:
    """The exit code is the same."""
    command = [sys.executable, "-m", "memnotify", *arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        stderr=write,  # without a reader
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        check=False,
    )
    os.close(write)
    assert done.returncode == code


def test_a_message_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that cannot be written ends neither a callback of the bus nor ``run``."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(sys, "stderr", Full())
    service._report("warned")
    figures = Figures.parse(LINE)
    lost: set[int] = set()
    for fd in (3, 4):
        announce(Lost(figures, OSError(errno.ENOTCONN, "ended")), "", fd, lost)
    for fd in (3, 4):
        announce(Restored(figures, figures, ()), "", fd, lost)


def test_ctrl_c_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C during the imports has the same result as later."""

    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("importlib.import_module", interrupt)
        code = main(["read"])
    assert code == 130
    assert capsys.readouterr() == ("", "")


# wait


def test_wait_reads_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not read like a device is not written to."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert main(["wait", "used 80%", "--path", str(path)]) == 2
    assert path.read_bytes() == b""
    assert "no line of a memnotify device" in capsys.readouterr().err


def _play(daemon: FakeDaemon, *useds: int) -> None:
    """Set used to each of the values, each as soon as the one before has been read."""
    daemon.after_read += [lambda: None, *(functools.partial(daemon.use, used) for used in useds)]


def test_wait_until_it_crosses(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """The command subscribes, waits, and prints the line when the device becomes ready."""
    _play(daemon, 300)
    assert main(["wait", "used 200", "--timeout", "2000000"]) == 0
    assert capsys.readouterr() == ("total 10000 used 300 active 50\n", "")


@pytest.mark.parametrize(
    ("arguments", "useds"),
    [
        (["--count", "3"], [300, 100, 250]),
        (["--count", "0"], [300, 100, 250]),
        (["--up", "--count", "2"], [300, 250]),
        (["--down", "--count", "1"], [100]),
    ],
)
def test_wait_for_several_events_or_for_a_direction(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], arguments: list[str], useds: list[int]
) -> None:
    """``--count`` sets the number of events, ``--up`` and ``--down`` the direction."""
    _play(daemon, 300, 100, 250)
    timeout = ["--timeout", "0.1"] if "0" in arguments else []
    assert main(["wait", "used 200", *arguments, *timeout]) == (3 if timeout else 0)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[3]) for line in lines] == useds


def test_wait_prints_json(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on one line: figures before and after, what changed side, and how."""
    _play(daemon, 300)
    assert main(["wait", "used 200", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    said = json.loads(out)
    assert said["page_size"] == PAGE_SIZE
    assert said["before"]["used"] == {"pages": 100, "bytes": 100 * PAGE_SIZE, "percent": 1.0}
    assert said["after"]["used"]["pages"] == 300
    assert said["changes"] == [{"name": "used", "threshold_pages": 200, "direction": "up"}]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["used 1%"], 0),
        (["used 1%", "--up", "--json"], 0),
        (["used 1%", "--down"], 3),
        (["used 2%"], 3),
        (["used 2%", "--down"], 0),
        (["used 1%", "--count", "2"], 3),
    ],
)
def test_wait_now_counts_what_holds(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    """A threshold that is exceeded at the start counts at once; with ``--down`` one that is not."""
    assert main(["wait", "--now", "--timeout", "0", *arguments]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (code == 0 or "--count" in arguments)
    if "--json" in arguments:
        assert json.loads(lines[0])["changes"] == [
            {"name": "used", "threshold_pages": 100, "direction": "up"}
        ]


@pytest.mark.parametrize(
    ("arguments", "useds"),
    [
        (["--for", "0.01s"], [100]),
        (["--for", "0.01", "--up"], []),
        (["--for", "0.01", "--down"], [100]),
        (["--quiet-for", "1000"], [300]),
    ],
)
def test_wait_for_what_lasts(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], arguments: list[str], useds: list[int]
) -> None:
    """``--for`` counts what lasts; ``--quiet-for`` leaves out what follows soon."""
    _play(daemon, 300, 100, 300, 100)
    code = main(["wait", "used 200", "--timeout", "0.5", "--count", "2", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert ([int(line.split()[3]) for line in lines], code) == (useds, 3)


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ("used 2%", "used 2.0 % (800.0 KiB) is not reached yet; it is 1.0 % (400.0 KiB) now"),
        (
            "used 1%",
            (
                "used 1.0 % (400.0 KiB) is exceeded already: falling below it is the next event;"
                " it is 1.0 % (400.0 KiB) now"
            ),
        ),
    ],
)
def test_a_terminal_gets_what_was_understood(
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    thresholds: str,
    said: str,
) -> None:
    """One line for each threshold, on stderr and only on a terminal."""
    assert main(["wait", thresholds, "--timeout", "0"]) == 3
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["wait", thresholds, "--timeout", "0"]) == 3
    assert capsys.readouterr().err == f"memnotify wait: {said}\n"


def test_a_wait_that_may_never_end_says_why(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Also without a terminal, as in the journal of a service, unless --now counts it."""
    assert main(["wait", "--up", "used 1% active 90%", "--timeout", "0"]) == 3
    assert capsys.readouterr().err == (
        "memnotify wait: used 1.0 % (400.0 KiB) is exceeded already:"
        " it counts when it is reached again (with --now, at once); it is 1.0 % (400.0 KiB) now\n"
    )
    assert main(["wait", "--up", "--now", "used 1%", "--timeout", "0"]) == 0
    assert main(["wait", "--down", "used 1%", "--timeout", "0"]) == 3
    assert capsys.readouterr().err == ""


def test_doubtful_thresholds(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare number below 1 % of total causes a warning."""
    assert main(["wait", "used 80", "--timeout", "0"]) == 3
    assert "memnotify wait: warning: used 0.8 % (320.0 KiB) is less than 1 %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["wait", "used 120%", "--timeout", "0"], "used never reaches 120 % of total"),
        (["run", "--when", "used 120%", "--", "true"], "used never reaches 120 % of total"),
        (["run", "--when", "used 50%", "--until", "used 1T", "--", "true"], "used never reaches "),
        (["watch", "--plain", "--when", "used 50% total 50%"], "total is always 100 % of total"),
        (["lowmem-bus", "--low", "used 120%"], "used never reaches 120 % of total"),
        (["wait", "used 8GB", "--timeout", "0"], "'used 8GB' is not understood: write K, M, G or T"),
        (["run", "--when", "used > 80%", "--", "true"], "leave the sign out"),
        (["watch", "--plain", "--when", "used 80 %"], "leave out the blank"),
    ],
)
def test_what_can_never_fire_is_refused(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], command: list[str], said: str
) -> None:
    """By each command, with the answer of the library."""
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"memnotify {command[0]}: ")
    assert said in err
    assert daemon.files == []


@pytest.mark.parametrize("seconds", ["0", "0.01"])
def test_wait_times_out(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    """Exit code 3, and no output, if nothing happens in time."""
    assert main(["wait", "used 200", "--timeout", seconds]) == 3
    assert capsys.readouterr() == ("", "")


def test_wait_ends_with_the_daemon(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 when the device goes away."""
    daemon.after_read += [lambda: None, daemon.end]
    assert main(["wait", "used 200"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "memnotify wait: /dev/memnotify: Transport endpoint is not connected;"
        " its daemon has ended: start 'memnotify serve' again\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["wait", ""],
        ["wait", "used 0"],
        ["run", "--when", "", "--", "true"],
        ["run", "--when", "used 2000", "--when-below", "used 0", "--", "true"],
        ["watch", "--plain", "--when", "used 2000", "--when", "used 0"],
        ["lowmem-bus", "--low", "used 0", "--medium", "", "--critical", "used 0"],
    ],
)
def test_thresholds_that_watch_nothing_are_refused(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Exit code 2, and a message that says what to give."""
    assert main(command) == 2
    said = f"memnotify {command[0]}: nothing is watched: give a threshold, such as 'used 80%'\n"
    assert capsys.readouterr() == ("", said)
    assert daemon.files == []


# run


def test_run_without_such_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing command is an error at the start."""
    assert main(["run", "--when", "used 5", "--", "no-such-command", "-x"]) == 2
    assert capsys.readouterr() == ("", "memnotify run: no-such-command: no such command\n")


def test_run_of_what_is_not_executable(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message does not say that the file is missing."""
    assert main(["run", "--when", "used 5", "--", device]) == 2
    assert capsys.readouterr() == ("", f"memnotify run: {device}: it is not executable; chmod +x it\n")


def test_run_with_thresholds_that_are_not_understood(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both options are checked before a command runs."""
    for arguments in (["--when", "usd 5"], ["--when", "used 2000", "--when-below", "usd 5"]):
        assert main(["run", *arguments, "--", "true"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"memnotify run: 'usd' {UNKNOWN}\n"
    assert daemon.files == []


def test_the_environment_of_a_command() -> None:
    """The environment has the threshold, the direction, and every figure in pages, bytes and percent."""
    figures = Figures.parse(b"total 1000 used 250 active 7 swap 3\n")
    told = environment(Change("used", Pages(200), up=True), figures)
    assert told["MEMNOTIFY_EVENT"] == "up"
    assert told["MEMNOTIFY_NAME"] == "used"
    assert told["MEMNOTIFY_THRESHOLD"] == "200"
    assert told["MEMNOTIFY_PAGE_SIZE"] == str(PAGE_SIZE)
    assert told["MEMNOTIFY_USED"] == "250"
    assert told["MEMNOTIFY_USED_BYTES"] == str(250 * PAGE_SIZE)
    assert told["MEMNOTIFY_USED_PERCENT"] == "25.000"
    assert told["MEMNOTIFY_SWAP"] == "3"


# The variables of systemd's protocol


@pytest.mark.parametrize(
    ("arguments", "watch"),
    [
        ([], "/dev/memnotify"),
        (["--path", "/dev/other"], "/dev/other"),
        (["--socket", """/run/a b$c"d'e\\f%g"""], """/run/a b$c"d'e\\f%g"""),
    ],
)
def test_env_for_a_shell(arguments: list[str], watch: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell evaluates the output to the path and to the bytes in base64, with a newline for a socket."""
    assert main(["env", "--when", "used 80%\n active=5", *arguments]) == 0
    script = capsys.readouterr().out + "env -0"
    output = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
    variables = dict(line.split("=", 1) for line in output.decode().split("\0") if line)
    assert variables["MEMORY_PRESSURE_WATCH"] == watch
    assert base64.b64decode(variables["MEMORY_PRESSURE_WRITE"]) == b"used 80% active=5\n"


def test_env_for_a_unit(capsys: pytest.CaptureFixture[str]) -> None:
    """A drop-in: quoted, specifiers escaped, and the manager's own variables switched off."""
    assert main(["env", "--when", "used 80%", "--format", "unit", "--socket", '/run/a "b"\\%i']) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[Service]",
        "MemoryPressureWatch=skip",
        r'Environment="MEMORY_PRESSURE_WATCH=/run/a \"b\"\\%%i"',
        'Environment="MEMORY_PRESSURE_WRITE=dXNlZCA4MCUK"',
    ]


@pytest.mark.parametrize(
    "thresholds", ["usd 5", "used 5x", "", "used 0", "used 5 used 6", "used 60% used 80%", "x" * 5000]
)
def test_env_with_thresholds_that_are_not_understood(
    thresholds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thresholds that the device would refuse later are refused at once."""
    assert main(["env", "--when", thresholds]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memnotify env: --when: ")


@pytest.mark.parametrize("thresholds", ["used 120%", "cgroup 101%", "active 900T", "total 50%"])
def test_env_refuses_what_is_never_crossed(thresholds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--when", thresholds]) == 2
    assert re.match(r"memnotify env: --when: (\w+ never reaches|total is always) ", capsys.readouterr().err)


def test_env_warns_of_a_small_bare_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--when", "used 80"]) == 0
    out, err = capsys.readouterr()
    assert "MEMORY_PRESSURE_WRITE" in out
    assert re.match(r"memnotify env: warning: used 0\.0 % \(320\.0 KiB\) is less than 1 % of total", err)


@pytest.mark.parametrize(
    "thresholds", ["used 40%", "used 0.5%", "used 80% used 80.0%", "available 10% SReclaimable 1G"]
)
def test_env_with_any_percentage(thresholds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Any percentage of any figure that a device may have is accepted."""
    assert main(["env", "--when", thresholds]) == 0
    assert "MEMORY_PRESSURE_WRITE" in capsys.readouterr().out


# watch


def test_watch_with_thresholds_that_are_not_understood(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """All thresholds are checked before anything is shown."""
    assert main(["watch", "--when", "used 80%", "--when", "usd 5"]) == 2
    assert capsys.readouterr() == (
        "",
        f"memnotify watch: 'usd' {UNKNOWN}\n",
    )
    assert daemon.files == []


def test_watch_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On a terminal: exit code 4, and a message that says how to install rich or to do without."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "memnotify.cli.watch.view", raising=False)
    monkeypatch.delattr("memnotify.cli.watch.view", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    nowhere = ["--path", str(tmp_path / "none")]
    assert main(["watch", *nowhere]) == 2
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["watch", "--plain", *nowhere]) == 2
    capsys.readouterr()
    assert main(["watch", *nowhere]) == 4
    said = (
        "memnotify watch: rich is not installed: apt install python3-rich, or pip install rich,"
        " or use --plain\n"
    )
    assert capsys.readouterr() == ("", said)


# lowmem-bus


def test_lowmem_bus_with_thresholds_that_are_not_understood(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three levels are checked before the connection to the bus."""
    for level in ("--low", "--medium", "--critical"):
        assert main(["lowmem-bus", level, "usd 5"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"memnotify lowmem-bus: 'usd' {UNKNOWN}\n"
    assert daemon.files == []


@pytest.mark.parametrize("text", ["cgroup 80%", "used 80% cgroup=1G"])
def test_lowmem_bus_has_no_cgroup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be that of the service."""
    with pytest.raises(SystemExit) as ended:
        main(["lowmem-bus", "--medium", text])
    assert ended.value.code == 2
    assert "argument --medium: 'cgroup' would be this service's own cgroup" in capsys.readouterr().err


def test_lowmem_bus_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4, and a message that says how to install it."""
    monkeypatch.delitem(sys.modules, "memnotify.cli.lowmem_bus.service", raising=False)
    monkeypatch.delattr("memnotify.cli.lowmem_bus.service", raising=False)
    monkeypatch.setitem(sys.modules, "dbus_fast", None)
    assert main(["lowmem-bus"]) == 4
    said = (
        "memnotify lowmem-bus: dbus-fast is not installed: apt install python3-dbus-fast,"
        " or pip install dbus-fast\n"
    )
    assert capsys.readouterr() == ("", said)


# exporter


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interval", "5"], "--interval is for --textfile: Prometheus has its own interval"),
        (["--textfile", "x.txt"], "x.txt: node_exporter reads only files that end in .prom"),
    ],
)
def test_exporter_with_options_that_have_no_effect(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["exporter", *options]) == 2
    assert capsys.readouterr() == ("", f"memnotify exporter: {said}\n")


def test_exporter_at_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["exporter", "--listen", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr() == ("", f"memnotify exporter: 127.0.0.1:{port}: Address already in use\n")


def test_exporter_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 4, and a message that says how to install it."""
    for module in "output", "metrics":
        monkeypatch.delitem(sys.modules, f"memnotify.cli.exporter.{module}", raising=False)
    monkeypatch.delattr("memnotify.cli.exporter.output", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["exporter"]) == 4
    said = (
        "memnotify exporter: prometheus_client is not installed: apt install python3-prometheus-client,"
        " or pip install prometheus_client\n"
    )
    assert capsys.readouterr() == ("", said)
