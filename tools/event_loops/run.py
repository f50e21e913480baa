# SPDX-License-Identifier: MIT
"""Run a client of each event loop that is installed against a daemon, and print what it saw.

``PYTHONPATH=tests python tools/event_loops/run.py [NAME...]`` as root prints what docs/compatibility.md says.
CI does not run it: it needs a dozen tool chains, whose packages in Debian are in ``_CLIENTS``. A client
prints a line first, a line for each wake-up, and "end" once it notices that the daemon has ended. What needs
a newer Debian runs in MEMNOTIFY_LOOPS_ROOT: mmdebstrap --include=libglib2.0-0t64 forky DIRECTORY.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from support.daemon import QUICK, Daemon
from support.fake_memory import FakeMemory
from support.program import Program

HERE = Path(__file__).parent
NAME = "memnotify-loops"
DEVICE = f"/dev/{NAME}"
CRATES = Path("/usr/share/cargo/registry")
ROOT = Path(os.environ.get("MEMNOTIFY_LOOPS_ROOT", "/nonexistent"))
START_S = 60.0
PATIENCE_S = 5.0
CPU_S = 1.0


class Client(NamedTuple):
    """A client: its source, what makes it, what it needs, and whether it uses the socket.

    ``pause_s`` is the least time between two wake-ups that it reports. In ROOT a client finds the device and
    the socket at the same paths.
    """

    source: str
    needs: str
    libraries: str = ""
    arguments: tuple[str, ...] = ()
    socket: bool = False
    pause_s: float = 0.0
    in_root: bool = False


_CLIENTS = {
    "boost::asio": Client("asio.cpp", "libboost-dev"),
    "libuv": Client("libuv.c", "libuv1-dev", "libuv"),
    "libev": Client("libev.c", "libev-dev", "-lev"),
    "libevent": Client("libevent.c", "libevent-dev", "libevent"),
    "GLib fd source": Client("glib.c", "libglib2.0-dev", "glib-2.0"),
    "Qt notifier": Client("qt.cpp", "qtbase5-dev", "Qt5Core"),
    "sd-event, sd_event_add_io": Client("sd_event.c", "libsystemd-dev", "libsystemd"),
    "io_uring, IORING_OP_READ": Client("io_uring.c", "liburing-dev", "liburing"),
    "Go, RawConn.Read": Client("raw_conn.go", "golang-go"),
    "Go, os.File.Read": Client("file_read.go", "golang-go"),
    "Rust, libc crate": Client("epoll.rs", "librust-libc-dev"),
    "Rust, tokio AsyncFd, READABLE": Client("async_fd.rs", "librust-tokio-dev"),
    "Rust, tokio AsyncFd, READABLE and WRITABLE": Client(
        "async_fd.rs", "librust-tokio-dev", arguments=("end",)
    ),
    "Node.js, the file": Client("file.js", "nodejs"),
    "Node.js, socket": Client("socket.js", "nodejs", socket=True),
    "Java, SocketChannel on the socket": Client("Socket.java", "default-jdk", socket=True),
    "Java, RandomAccessFile": Client("RandomAccess.java", "default-jdk"),
    "Perl, IO::Select": Client("select.pl", "perl"),
    "Ruby, IO.select": Client("select.rb", "ruby"),
    "bash, read -t 60": Client("read.sh", "bash"),
    "socat": Client("socat.sh", "socat"),
    "inotifywait": Client("inotifywait.sh", "inotify-tools"),
    "GLib GMemoryMonitor": Client(
        "memory_monitor.c", "libglib2.0-dev", "gio-2.0", pause_s=16.0, in_root=True
    ),
    "GLib GMemoryMonitor, socket": Client(
        "memory_monitor.c", "libglib2.0-dev", "gio-2.0", socket=True, pause_s=16.0, in_root=True
    ),
}


def make(client: Client, directory: Path) -> list[str]:
    """Return the client's command, compiled if need be. Raises OSError or CalledProcessError."""
    source, made = HERE / client.source, directory / "client"
    run = {".pl": "perl", ".rb": "ruby", ".sh": "bash", ".js": "node", ".java": "java"}.get(source.suffix)
    if run is not None:
        return [shutil.which(run) or run, str(source)]
    if source.suffix == ".rs":
        return _cargo(source, directory)
    if source.suffix == ".go":
        command = ["go", "build", "-o", str(made), str(source)]
    else:
        flags = [client.libraries] if client.libraries.startswith("-l") else []
        if client.libraries and not flags:
            flags = _output("pkg-config", "--cflags", "--libs", client.libraries).split()
        compiler = "gcc" if source.suffix == ".c" else "g++"
        command = [compiler, "-O1", "-fPIC", "-o", str(made), str(source), *flags, "-lpthread"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"GOCACHE": str(directory)})
    return _in_root(made) if client.in_root else [str(made)]


def _in_root(made: Path) -> list[str]:
    """Copy a program into ROOT, with the library that is preloaded there; return its command."""
    library = ROOT / "sysinfo.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, HERE / "sysinfo.c"], check=True)
    shutil.copy(made, ROOT)
    return ["chroot", str(ROOT), "env", "LD_PRELOAD=/sysinfo.so", f"/{made.name}", DEVICE]


@contextmanager
def seen_in_root(*paths: str) -> Iterator[None]:
    """Let ROOT have these files at the same paths meanwhile."""
    for path in paths:
        (ROOT / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path[1:]).touch()
        subprocess.run(["mount", "--bind", path, ROOT / path[1:]], check=True)
    try:
        yield
    finally:
        for path in paths:
            subprocess.run(["umount", "-l", ROOT / path[1:]], check=True)


def _cargo(source: Path, directory: Path) -> list[str]:
    """Build with the crates of Debian's packages."""
    tokio = 'tokio = { version = "1", features = ["net", "rt", "macros"] }\n'
    needed = tokio if "tokio" in source.read_text() else ""
    (directory / "Cargo.toml").write_text(
        '[package]\nname = "client"\nversion = "0.0.0"\nedition = "2021"\n'
        f'[[bin]]\nname = "client"\npath = "{source}"\n[dependencies]\nlibc = "0.2"\n{needed}'
    )
    settings = directory / ".cargo/config.toml"
    settings.parent.mkdir()
    settings.write_text(
        f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{CRATES}"\n'
    )
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
    subprocess.run([cargo, "build", "--offline", "--quiet"], check=True, capture_output=True, cwd=directory)
    return [str(directory / "target/debug/client")]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def happens(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Return whether the condition comes true in time."""
    end_s = time.monotonic() + patience_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    return condition()


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def observe(client: Client, command: list[str], directory: Path) -> tuple[str, str]:
    """Return what the client saw of four crossings, and of the daemon's end."""
    memory = FakeMemory(directory)
    socket = str(directory / "socket")
    arguments = (*QUICK, *memory.ARGUMENTS, "--socket", socket)
    with Daemon(*arguments, name=NAME, program=memory.program) as daemon:
        path = socket if client.socket else daemon.path
        seen = seen_in_root(daemon.path, socket) if client.in_root else nullcontext()
        with seen, Program(*command, path, *client.arguments) as program:
            started = happens(lambda: bool(program.lines) or program.ended, START_S)
            if not started or program.ended:
                return f"ended: {program.lines}", ""
            first = len(program.lines)
            right = 0
            for number, percent in enumerate((90, 50, 90, 50), start=1):
                memory.use(percent)
                happens(lambda: len(program.lines) >= first + number)  # noqa: B023 - called at once
                right += program.lines[first + number - 1 : first + number] == [
                    f"total 2500000 used {25000 * percent} active 250000"
                ]
                time.sleep(client.pause_s)
            if program.ended:
                return f"ended: {program.lines}", ""
            spurious = len(program.lines) - first - right
            crossings = f"{right} of 4" + (f", and {spurious} more lines" if spurious else "")
            daemon.end(9)
            if happens(lambda: "end" in program.lines or program.ended):
                return crossings, "noticed"
            before_s = cpu_s(program.process.pid)
            time.sleep(CPU_S)
            busy = cpu_s(program.process.pid) - before_s > CPU_S / 4
            return crossings, "not noticed, spins" if busy else "not noticed"


def main() -> None:
    """Print a row for each client."""
    print("| client | crossings | end of the daemon |\n|---|---|---|")
    for name, client in _CLIENTS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as directory:
            try:
                command = make(client, Path(directory))
                row = observe(client, command, Path(directory))
            except (OSError, subprocess.CalledProcessError) as error:
                detail = (
                    error.stderr.decode()[-300:]
                    if isinstance(error, subprocess.CalledProcessError)
                    else error
                )
                row = f"not built: apt install {client.needs} ({detail})", ""
            print(f"| {name} | {row[0]} | {row[1]} |", flush=True)
            subprocess.run(["umount", "-l", DEVICE], check=False, capture_output=True)


if __name__ == "__main__":
    main()
