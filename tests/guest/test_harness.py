# SPDX-License-Identifier: MIT
"""The harness itself: the output of a guest arrives whole, and nothing of the guest stays."""

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from guest import kernel, suite, vm
from support.waiting import eventually

Run = Callable[..., vm.GuestResult]

SCRIPT = r"""
pwd
echo "$WORD"
echo complaint >&2
echo '<0>the console is noisy' >/dev/kmsg
echo 'lost with the guest' >written
mkdir "$RESULTS/deep"
printf 'kept\0' >"$RESULTS/deep/file"
"$PYTHON" -c 'import cffi, os; print(cffi.__name__, os.geteuid())'
exit 7
"""


def children(pid: int) -> dict[int, str]:
    """Return the command name of each child process by its number."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {}
    for number in numbers:
        # A process that has just ended is no longer a child.
        with suppress(FileNotFoundError):
            names[int(number)] = Path(f"/proc/{number}/comm").read_text().strip()
    return names


def test_results_of_a_script(guest: Run, tmp_path: Path) -> None:
    """Exit status, output without the kernel's, and result files reach the host; other writes do not."""
    env = {"WORD": 'it\'s "$HOME"\nand more', "PYTHON": sys.executable}
    result = guest(SCRIPT, timeout_s=120, env=env, cwd=tmp_path)
    assert result.status == 7
    assert result.output == f"{tmp_path}\n{env['WORD']}\ncomplaint\ncffi 0\n"
    assert result.files == {"deep/file": b"kept\0"}
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_dies_is_lost(guest: Run) -> None:
    """A reset in mid-script is GuestLost, with the last lines of the script and the kernel."""
    script = "mountpoint -q /run/guest || exit; echo last words; echo b >/proc/sysrq-trigger; sleep infinity"
    said = r"(?s)without an exit status.*last words.*console.*\[ +\d+\.\d+\] "
    with pytest.raises(vm.GuestLost, match=said):
        guest(script, timeout_s=120)


def test_a_guest_that_hangs_is_ended(guest: Run) -> None:
    """After its time a guest is GuestLost too, and its process is gone."""
    before = children(os.getpid())
    with pytest.raises(vm.GuestLost, match="still running after 5 s"):
        guest("sleep infinity", timeout_s=5)
    assert children(os.getpid()) == before


def test_a_system_of_its_own(guest: Run, debian: Path, tmp_path: Path) -> None:
    """With a root of its own a guest has systemd as process 1, and no unit has failed."""
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/layer").write_text("on top\n")
    script = """
    cat /proc/1/comm /opt/layer
    systemctl is-active udev multi-user.target
    systemctl --failed --no-legend
    modprobe --show-depends cuse | tail -1 | grep -c /cuse.ko
    echo kept >"$RESULTS/file"
    exit 7
    """
    result = guest(script, timeout_s=180, system=[tmp_path, debian], cwd=Path("/opt"))
    assert result.status == 7
    assert result.output == "systemd\non top\nactive\nactive\n1\n"
    assert result.files == {"file": b"kept\n"}


def test_no_guest_outlives_a_killed_run(guest: Run, tmp_path: Path) -> None:
    """SIGKILL of the caller, which cannot clean up then, ends the guest as well."""
    code = "from guest import vm; vm.run('sleep infinity', timeout_s=600)"
    env = {**os.environ, "PYTHONPATH": str(vm.REPOSITORY / "tests"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as caller:
        try:
            eventually(lambda: qemu_of(caller), "the caller boots a guest")
            booted = os.pidfd_open(qemu_of(caller)[0])
        finally:
            caller.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([booted], [], [], 10)
    os.close(booted)
    assert ended


def qemu_of(caller: subprocess.Popen[bytes]) -> list[int]:
    """Return the guests that a process runs: an empty list or one."""
    return [pid for pid, name in children(caller.pid).items() if name.startswith("qemu-system")]


def test_every_outcome_is_read(tmp_path: Path) -> None:
    """The cases of the report have the outcomes that pytest reports."""
    Path(tmp_path, "test_all.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert not 'a reason'\n"
        "def test_skips(): pytest.skip('a reason')\n"
        "@pytest.mark.xfail\n"
        "def test_known(): assert False\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('a reason')\n"
        "def test_errs(broken): pass\n"
        "def test_parts(subtests):\n"
        "    with subtests.test('part'): assert not 'a reason'\n"
    )
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "test_all.py", f"--junitxml={report}"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    found = suite.cases(report.read_bytes())
    expected = {
        "passes": "passed",
        "fails": "failed",
        "skips": "skipped",
        "known": "xfailed",
        "errs": "error",
    }
    assert {case.name.rpartition("_")[2]: case.outcome for case in found} == {**expected, "parts": "failed"}
    assert all("a reason" in case.message for case in found if case.outcome in {"failed", "skipped", "error"})
    assert suite.cases(b"") == []


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing tool is named with the command that installs it."""
    monkeypatch.setitem(kernel.ENVIRONMENT, "PATH", "/nonexistent")
    with pytest.raises(
        kernel.GuestUnavailable, match=r"qemu-system-x86_64.*apt-get install .*qemu-system-x86"
    ):
        kernel.kernel()


def test_old_package_lists_are_updated(root: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lists that are missing, or name a kernel that the archive no longer has, are fetched once."""
    commands = []

    def output(*command: str, cwd: Path | None = None) -> str:
        commands.append(command[1])
        if command[1] == "update":
            return ""
        if "update" in commands:
            return "  Depends: linux-image-1-amd64\n"
        raise kernel.GuestUnavailable("E: No packages found")

    (tmp_path / "linux-image-1-amd64/lib/modules/1").mkdir(parents=True)
    monkeypatch.setenv("MEMNOTIFY_GUEST_CACHE", str(tmp_path))
    monkeypatch.setattr(kernel, "output", output)
    kernel._kernel.cache_clear()
    try:
        assert kernel._kernel("").modules.name == "1"
    finally:
        kernel._kernel.cache_clear()
    assert commands == ["depends", "update", "depends"]


@contextmanager
def fuse_mount(directory: Path) -> Iterator[int]:
    """Mount a FUSE file system whose server answers nothing; the value is the server's descriptor."""
    directory.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(
        ["mount", "--internal-only", "-t", "fuse", "-o", options, "test", directory],
        pass_fds=[server],
        check=True,
    )
    try:
        yield server
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def test_dead_fuse_mounts_are_named(root: None, tmp_path: Path) -> None:
    """A FUSE mount whose server is gone is found, whatever its name, and prevents the boot."""
    directory = tmp_path / "a directory"
    with fuse_mount(directory) as server:
        os.close(server)
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
            directory.stat()
        assert str(directory) in kernel.stale_fuse_mounts()


def test_a_fuse_mount_without_an_answer_delays_no_boot_for_long(
    root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be that of another test, which stops its server."""
    monkeypatch.setattr(kernel, "_ANSWER_S", 0.1)
    directory = tmp_path / "directory"
    with fuse_mount(directory) as server:
        assert kernel._stat(str(directory)) == errno.ETIMEDOUT
        os.close(server)


def test_a_cpu_costs_two_rings(guest: Run) -> None:
    """The benchmark of many CPUs runs; of its rings one is for what is allocated, one for what is freed."""
    command = [sys.executable, "benchmarks/cpus.py", "--cpus", "4"]
    done = subprocess.run(command, cwd=vm.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cpus, rss_kib, rings, descriptors, _ = done.stdout.splitlines()[-1].split()
    assert (cpus, rings) == ("4", "8")
    assert int(rss_kib) > 0
    assert int(descriptors) > int(rings)
