# SPDX-License-Identifier: MIT
"""A served device, and a process that takes memory, for the tests of clients."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon
from support.fake_memory import FakeMemory
from support.memory import Hog
from support.program import POSTED
from support.require import MN_TEST_C, unavailable
from support.simulated import KIND, TOTAL

from memnotify.testing import SimulatedDevice

REPOSITORY = Path(__file__).parents[2]
TWIN = REPOSITORY / "tools/mn_test.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a guest, run only the representative tests of a module that has any."""
    representative = [item for item in items if item.get_closest_marker("representative")]
    modules = {item.path for item in representative}
    left_out = [item for item in items if item.path in modules and item not in representative]
    if TRANSPORT == "cuse":
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def _can_serve() -> None:
    if TRANSPORT == "fuse" and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        unavailable("/dev/fuse cannot be opened: modprobe fuse, and run the tests as root")
    if os.geteuid() != 0:
        unavailable("the device is served in /dev: run the tests as root")


@pytest.fixture(scope="module")
def daemon(_can_serve: None) -> Iterator[Daemon]:
    """Return a daemon that samples often, shared by a module's tests."""
    with Daemon(*QUICK) as daemon:
        yield daemon


@pytest.fixture
def place() -> Iterator[str]:
    """Return the path of the status socket, in a directory that every user may read."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield f"{directory}/status"


@pytest.fixture
def path(daemon: Daemon) -> str:
    """Return the path of the device."""
    return daemon.path


@pytest.fixture
def opened(path: str) -> Iterator[Callable[..., int]]:
    """Return a function that opens the device. The descriptors are closed at the end."""
    fds = []

    def open_device(flags: int = os.O_RDWR) -> int:
        fds.append(os.open(path, flags | os.O_CLOEXEC))
        return fds[-1]

    yield open_device
    for fd in fds:
        os.close(fd)


@pytest.fixture
def memory(tmp_path: Path) -> FakeMemory:
    """Return a memory that the test moves, half of it used."""
    return FakeMemory(tmp_path)


@pytest.fixture(scope="module")
def _memory(tmp_path_factory: pytest.TempPathFactory) -> FakeMemory:
    return FakeMemory(tmp_path_factory.mktemp("memory"))


@pytest.fixture
def serve(_can_serve: None, memory: FakeMemory) -> Callable[[str], Daemon]:
    """Return a function that starts a daemon of ``memory`` with a name."""
    return lambda name: Daemon(*QUICK, *memory.ARGUMENTS, name=name, program=memory.program)


@pytest.fixture(scope="module")
def _device(_can_serve: None) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(kind=KIND, path="/dev/memnotify", total=TOTAL) as device:
        yield device


@pytest.fixture
def device(_device: SimulatedDevice) -> SimulatedDevice:
    """Return a device at the path that the examples use, with half of its memory used."""
    _device.set(used="50%")
    return _device


@pytest.fixture(scope="session")
def hog() -> Iterator[Hog]:
    """Return the process that takes memory."""
    with Hog() as hog:
        yield hog


@pytest.fixture(autouse=True)
def _nothing_held(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hog" in request.fixturenames:
        request.getfixturevalue("hog").hold(0)


@pytest.fixture(scope="module", params=["posted", "own", "twin"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of the posted C program, of the project's own, or of the Python twin."""
    if request.param == "twin":
        return [sys.executable, str(TWIN)]
    if shutil.which("gcc") is None:
        unavailable("gcc is not installed: apt install gcc libc6-dev")
    source = POSTED if request.param == "posted" else REPOSITORY / "tests/clients/client.c"
    if not source.exists():
        unavailable(f"{source} is not there: set {MN_TEST_C} to the posted mn_test.c")
    binary = tmp_path_factory.mktemp("mn_test") / "mn_test"
    # -w: the posted source prints a ssize_t with %d.
    subprocess.run(["gcc", "-w", "-O2", "-o", str(binary), str(source)], check=True)
    return [str(binary)]
