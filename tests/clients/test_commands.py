# SPDX-License-Identifier: MIT
"""``memnotify read`` and ``memnotify wait`` against a served device."""

import json
import re
import subprocess
import sys

from support.daemon import Daemon
from support.memory import Hog, step_pages, used_pages
from support.waiting import DEADLINE_S

WAITED = re.compile(r"total ([0-9]+) used ([0-9]+) active ([0-9]+)\n")


def _command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "memnotify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_read(daemon: Daemon) -> None:
    done = _command("read", "--path", daemon.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"total +[0-9]+ pages .* 100\.0 %\nused .*\nactive .*\n", done.stdout)
    figures = json.loads(_command("read", "--json", "--path", daemon.path).stdout)
    assert figures["used"]["bytes"] == figures["used"]["pages"] * figures["page_size"]


def test_wait_prints_the_line_when_a_threshold_is_crossed(daemon: Daemon, hog: Hog) -> None:
    with open(daemon.path, "rb", buffering=0) as device:
        threshold = used_pages(device.fileno()) + step_pages()
    command = [sys.executable, "-m", "memnotify", "wait", f"used {threshold}", "--path", daemon.path]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # Whether it has subscribed yet or not, one of the two is a crossing.
    while waiting.poll() is None:
        hog.hold(2 * step_pages())
        try:
            waiting.wait(1)
        except subprocess.TimeoutExpired:
            hog.hold(0)
    output, _ = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 0
    assert WAITED.fullmatch(output)


def test_wait_times_out_and_explains_refusals(daemon: Daemon) -> None:
    done = _command("wait", "used 99%", "--timeout", "0.2", "--path", daemon.path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    for text in ("usd 5", "used 5x", b"used \xff".decode(errors="surrogateescape")):
        done = _command("wait", text, "--path", daemon.path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is not understood" in done.stderr
        assert "Traceback" not in done.stderr


def test_wait_does_not_blame_the_device_for_its_output(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "memnotify", "wait", "used 1%", "--now", "--path", daemon.path]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "memnotify: [Errno 28] No space left on device\n")
