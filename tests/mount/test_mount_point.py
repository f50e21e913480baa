# SPDX-License-Identifier: MIT
"""The FUSE file: where it is mounted, which users may use it, and what is left behind."""

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest
from support.daemon import AS_NAMESPACE_ROOT, AS_NOBODY, NOBODY, Daemon, start, status
from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

from memnotify.kernel.syscalls import mount


def _mounted(path: Path) -> int:
    return Path("/proc/self/mountinfo").read_text().count(f" {path} ")


class FileDaemon(Daemon):
    """A daemon on a path of the test's choice."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.file = path
        super().__init__("--path", str(path), *arguments, transport="fuse", name="memnotify-file")

    def killed(self) -> None:
        """Kill it, as the kernel would when memory runs out."""
        assert self.end(signal.SIGKILL) == -signal.SIGKILL


def _refused(*arguments: str) -> str:
    process = start("--transport", "fuse", *arguments)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "Traceback" not in log
    return log


def test_the_mount_point_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "device with a blank"
    with FileDaemon(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        eventually(lambda: "fuse.memnotify" in Path("/proc/self/mountinfo").read_text(), "mounted")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    """Root could open it while nothing is mounted."""
    path = tmp_path / "device"
    path.touch(0o640)
    with FileDaemon(path):
        assert _mounted(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "written",
    [
        "used 80%",
        "used 80%\nused 90% active 5000\n",
        "used 80%\0used 0\0",
        "swap_taken 1M",
        "used 80%\n" * 455,
    ],
)
def test_what_clients_wrote_to_a_file_that_was_there_is_removed(tmp_path: Path, written: str) -> None:
    path = tmp_path / "device"
    path.write_text(written)
    with FileDaemon(path):
        assert _mounted(path)
    assert list(tmp_path.iterdir()) == []


def test_the_mount_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "device"
    FileDaemon(path).killed()
    FileDaemon(path).killed()
    assert _mounted(path) == 1
    with FileDaemon(path) as daemon:
        assert "is the mount of a daemon that died" in daemon.log
        with path.open("rb", buffering=0) as device:
            assert device.read(256).startswith(b"total ")
    assert list(tmp_path.iterdir()) == []


def test_a_bare_mount_point_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "device"
    FileDaemon(path).killed()
    subprocess.run(["umount", "-l", str(path)], check=True)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ENXIO):
            os.open(path, flags)
    with FileDaemon(path):
        assert _mounted(path)
    assert list(tmp_path.iterdir()) == []


class _Opener:
    """A client of root that opens and reads the device in a loop, and notes each outcome."""

    def __init__(self, path: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self._path = path
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            self.outcomes[self._try()] += 1

    def _try(self) -> str:
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        try:
            return os.read(fd, 6).decode()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)


def test_no_start_or_end_shows_a_client_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "device"
    with _Opener(path) as opener:
        for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM) * 2:
            with FileDaemon(path) as daemon:
                read = opener.outcomes["total "]
                eventually(lambda read=read: opener.outcomes["total "] > read + 50, "it reads")  # type: ignore[misc]
                daemon.end(end)
    assert opener.outcomes.keys() <= {"total ", "ENOENT", "ENXIO", "ENOTCONN", "ECONNABORTED"}
    assert opener.outcomes["ENOENT"]
    assert list(tmp_path.iterdir()) == []


def test_odd_mounts_elsewhere_and_odd_names_are_accepted(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/carriage\rreturn \xff"
    os.mkdir(odd)
    subprocess.run(["mount", "-t", "tmpfs", "test", odd], check=True)
    try:
        with FileDaemon(tmp_path / "no-break\u00a0blank\u2003wide"):
            pass
    finally:
        subprocess.run(["umount", odd], check=True)


def test_a_stopped_daemon_does_not_hang_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "device"
    with FileDaemon(path) as first:
        first.process.send_signal(signal.SIGSTOP)
        assert "served by another process, which does not answer" in _refused("--path", str(path))
        first.process.send_signal(signal.SIGCONT)
        with path.open("rb", buffering=0) as device:
            assert device.read(256).startswith(b"total ")


def test_a_daemon_that_hangs_in_a_request_does_not_hang_the_next_start(tmp_path: Path) -> None:
    """A client whose request was received cannot be killed, so the start asks in another process."""
    path = tmp_path / "device"
    path.touch()
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=100000,user_id=0,group_id=0"
    mount("memnotify", str(path), "fuse.memnotify", 0, options)
    try:
        # linux/fuse.h: fuse_in_header and fuse_init_in; fuse_out_header and fuse_init_out.
        unique = struct.unpack_from("=8xQ", os.read(fuse, 1 << 20))[0]
        os.write(fuse, struct.pack("=IiQIIIIHHII36x", 80, 0, unique, 7, 31, 0, 0, 0, 0, 4096, 1))
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(os.read, fuse, 1 << 20)
            assert "served by another process, which does not answer" in _refused("--path", str(path))
            assert received.result(DEADLINE_S)
    finally:
        os.close(fuse)
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_what_is_no_mount_point_is_refused_and_untouched(tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.write_text("used 80%\n" * 456)
    assert "is not an empty regular file" in _refused("--path", str(long))
    assert long.stat().st_size == 456 * 9
    text = tmp_path / "text"
    text.write_text("do not lose me")
    assert "is not an empty regular file" in _refused("--path", str(text))
    assert text.read_text() == "do not lose me"
    link = tmp_path / "link"
    link.symlink_to(text)
    assert "is not an empty regular file" in _refused("--path", str(link))
    assert "is not an empty regular file" in _refused("--path", str(tmp_path))
    assert "is not an empty regular file" in _refused("--path", "/dev/null")
    assert "No such file or directory" in _refused("--path", str(tmp_path / "nowhere" / "device"))


def test_another_file_system_at_the_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bound"
    path.touch()
    subprocess.run(["mount", "--bind", "/etc/hostname", str(path)], check=True)
    try:
        assert "is mounted at" in _refused("--path", str(path))
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_hidden_mount_does_not_prevent_serving(tmp_path: Path) -> None:
    path = tmp_path / "directory/device"
    path.parent.mkdir()
    with FileDaemon(path):
        subprocess.run(["mount", "-t", "tmpfs", "over it", str(path.parent)], check=True)
        try:
            with FileDaemon(path):
                assert _mounted(path) == 2
        finally:
            subprocess.run(["umount", str(path.parent)], check=True)
        with path.open("rb", buffering=0) as device:
            assert device.read(256).startswith(b"total ")
    assert not path.exists()


@pytest.mark.parametrize("ended", ["killed", "alive"])
def test_a_file_above_a_hidden_mount_is_no_daemon(tmp_path: Path, ended: str) -> None:
    """The table of mounts has the hidden one at this path; the path leads to an empty file."""
    path = tmp_path / "directory/device"
    path.parent.mkdir()
    hidden = FileDaemon(path)
    if ended == "killed":
        hidden.killed()
    subprocess.run(["mount", "-t", "tmpfs", "over it", str(path.parent)], check=True)
    try:
        path.touch()
        with FileDaemon(path), path.open("rb", buffering=0) as device:
            assert device.read(256).startswith(b"total ")
        assert not path.exists()
    finally:
        subprocess.run(["umount", str(path.parent)], check=True)
    if ended == "alive":
        hidden.end()
    else:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_unmounting_from_outside_ends_the_daemon_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "device"
    daemon = FileDaemon(path)
    subprocess.run(["umount", str(path)], check=True)
    assert daemon.process.wait(DEADLINE_S) == 1
    eventually(lambda: "is gone" in daemon.log, "it says why")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("user", [(), ("--user", "nobody")])
def test_a_lazy_unmount_ends_the_daemon_though_a_client_has_the_file_open(
    tmp_path: Path, user: tuple[str, ...]
) -> None:
    path = tmp_path / "device"
    daemon = FileDaemon(path, *user)
    fd = os.open(path, os.O_RDONLY)
    subprocess.run(["umount", "-l", str(path)], check=True)
    assert daemon.process.wait(DEADLINE_S) == 1
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.read(fd, 256)
    os.close(fd)
    assert daemon.end() == 1  # reads its log to the end
    assert daemon.log.endswith(
        f"{path} is gone: it was unmounted, or its connection was aborted (in sysfs)\n"
    )
    with FileDaemon(path):
        assert _mounted(path) == 1


def test_other_mounts_do_not_end_the_daemon(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with FileDaemon(tmp_path / "device") as daemon:
        main = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/status")
        before = status(main, "voluntary_ctxt_switches")
        subprocess.run(["mount", "-t", "tmpfs", "test", str(elsewhere)], check=True)
        subprocess.run(["umount", str(elsewhere)], check=True)
        eventually(lambda: status(main, "voluntary_ctxt_switches") > before, "it looks")
        assert daemon.end() == 0


def test_an_administrator_may_change_mode_and_group(tmp_path: Path) -> None:
    path = tmp_path / "device"
    with FileDaemon(path):
        path.chmod(0o640)
        os.chown(path, 0, NOBODY.pw_gid)
        now = path.stat()
        assert (stat.S_IMODE(now.st_mode), now.st_gid) == (0o640, NOBODY.pw_gid)
        os.truncate(path, 0)
        os.utime(path)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Return a directory that an ordinary user reaches and owns; pytest's own are root's alone."""
    directory = Path(tempfile.mkdtemp())
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """Let all users open /dev/fuse, as udev does."""
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


def _as_nobody(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, user="nobody", group="nogroup", capture_output=True, text=True, check=False
    )


def test_root_serves_nothing_where_others_could_exchange_it(public_directory: Path) -> None:
    """Neither a mount nor a socket: by a link in its place root would mount on or remove something else."""
    below = public_directory / "of root"
    below.mkdir()
    for place in (public_directory, below):
        assert f"other users than root can change {public_directory}" in _refused(
            "--path", str(place / "device")
        )
        own = str(place.parent / "device")
        assert "other users than root can change" in _refused(
            "--path", own, "--socket", str(place / "socket")
        )
    assert list(below.iterdir()) == []


def test_root_mounts_on_no_file_of_others(public_directory: Path) -> None:
    """They can rename it in a directory with the sticky bit too, and root would follow a link there."""
    os.chown(public_directory, 0, 0)
    public_directory.chmod(0o1777)
    path = public_directory / "device"
    path.touch()
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert f"{path} does not belong to root" in _refused("--path", str(path))
    os.chown(path, 0, 0)
    with FileDaemon(path):
        pass


def test_a_locked_directory_does_not_prevent_serving(tmp_path: Path) -> None:
    """Any user that may read a directory can lock it, for any time."""
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with FileDaemon(tmp_path / "device") as daemon:
        assert "its directory is locked by another process" in daemon.log
    os.close(directory)
    assert list(tmp_path.iterdir()) == []


def test_other_users_may_use_what_root_mounts(public_directory: Path) -> None:
    path = public_directory / "device"
    os.chown(public_directory, 0, 0)
    public_directory.chmod(0o755)
    with FileDaemon(path):
        done = _as_nobody("sh", "-c", f"head -n 1 {path} && echo used 80% > {path}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("total ")


def test_root_of_a_user_namespace_serves_a_file_and_a_socket(
    public_directory: Path, fuse_for_all: None
) -> None:
    """The real root, which owns /, is not mapped there: its uid is shown as the overflow uid."""
    path, place = public_directory / "device", public_directory / "socket"
    process = start("--path", str(path), "--socket", str(place), program=AS_NAMESPACE_ROOT)
    assert process.stderr is not None
    lines = list(itertools.takewhile(lambda line: "ready: " not in line, process.stderr))
    assert process.poll() is None, lines
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
    process.terminate()
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log
    assert list(public_directory.iterdir()) == []


def test_an_ordinary_user_serves_a_path_of_their_own(public_directory: Path, fuse_for_all: None) -> None:
    if shutil.which("fusermount3") is None:
        unavailable("fusermount3 is not installed: apt install fuse3")
    path = public_directory / "device"
    process = start("--path", str(path), program=AS_NOBODY)
    assert process.stderr is not None
    lines = list(itertools.takewhile(lambda line: "ready: " not in line, process.stderr))
    assert process.poll() is None, lines
    done = _as_nobody("head", "-n", "1", str(path))
    assert done.stdout.startswith("total "), done.stderr
    process.terminate()
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log
    assert list(public_directory.iterdir()) == []
