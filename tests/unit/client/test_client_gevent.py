# SPDX-License-Identifier: MIT
"""The client library in programs whose select module was changed by a library for green threads.

Each runs in a process of its own, as the change holds for good.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.require import unavailable

TESTS = Path(__file__).parents[2]


def run(program: str) -> str:
    """Run a Python program and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent
import select
from support.fake_device import FakeDaemon
import memnotify.client
from memnotify.client import Crossed, Memnotify, Observer, Signals
from memnotify.client import _device

assert not hasattr(select, "epoll")
daemon = FakeDaemon()
_device.DeviceFile = daemon.open
device = Memnotify("a path")
"""


@pytest.mark.parametrize(
    "then",
    [
        # A program that only reads
        "print(device.read())",
        # While wait() waits, other greenlets run
        """device.subscribe("used 200")
gevent.spawn(daemon.use, 300)
print(device.wait(30).after)""",
        """device.subscribe("used 200")
assert device.wait(0.01) is None
daemon.use(300)
print(device.wait(0).after)""",
        # The thread of an Observer is a greenlet
        """device.subscribe("used 200")
events = []
with Observer(device, events.append):
    gevent.spawn(daemon.use, 300)
    while not events:
        gevent.sleep(0)
print(events[0].after)""",
    ],
    ids=["read", "wait", "poll", "thread"],
)
def test_gevent(then: str) -> None:
    """A monkey-patched program can read, wait and observe."""
    if importlib.util.find_spec("gevent") is None:
        unavailable("pip install gevent")
    used = 100 if "read" in then else 300
    assert run(f"{GEVENT}{then}\ndevice.close()") == f"total 10000 used {used} active 50\n"


def test_without_epoll() -> None:
    """Where no copy of epoll is left, a program can read, and a subscription says what is missing."""
    assert run("""
import errno, select
del select.epoll
from support.fake_device import FakeDaemon
from memnotify.client import Memnotify, MemnotifyError, _device

daemon = FakeDaemon()
_device.DeviceFile = daemon.open
with Memnotify("a path") as device:
    print(device.read())
    try:
        device.subscribe("used 200")
    except MemnotifyError as error:
        assert error.errno == errno.ENOSYS
        print(error.strerror)
    print(device.read())
""").splitlines() == [
        "total 10000 used 100 active 50",
        "select.epoll is missing: a library has removed it, and only gevent keeps a copy of it",
        "total 10000 used 100 active 50",
    ]
