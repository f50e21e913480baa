# SPDX-License-Identifier: MIT
"""A thousand clients in several processes: each is woken exactly once for each crossing."""

import json
import subprocess
import sys

from support.daemon import Daemon
from support.memory import Hog, step_pages, used_pages

PROCESSES = 4
CLIENTS_EACH = 250

# Edge mode: every wake-up of a client that has nothing pending, or that is repeated, would be counted.
_CLIENTS = """
import collections, json, os, select, sys
path, count, threshold = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fds = [os.open(path, os.O_RDWR) for _ in range(count)]
epoll = select.epoll()
for fd in fds:
    os.write(fd, threshold.encode())
    epoll.register(fd, select.EPOLLIN | select.EPOLLET)
counts = collections.Counter()
figures = []
print("subscribed", flush=True)
for line in sys.stdin:
    while len(counts) < count:
        for fd, events in epoll.poll(60):
            assert events == select.EPOLLIN, events
            counts[fd] += 1
            figures.append(int(os.read(fd, 256).split()[3]))
    # All have crossed in one sample and have been woken for it: what is ready now was woken twice.
    late = epoll.poll(0)
    print(json.dumps([sorted(counts.values()), len(late), min(figures), max(figures)]), flush=True)
    counts.clear()
    figures.clear()
"""


def _start(daemon: Daemon, threshold: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CLIENTS, daemon.path, str(CLIENTS_EACH), f"used {threshold}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _receive(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_each_client_is_woken_once_for_each_crossing(daemon: Daemon, hog: Hog) -> None:
    with open(daemon.path, "rb", buffering=0) as device:
        threshold = used_pages(device.fileno()) + 2 * step_pages()
    processes = [_start(daemon, threshold) for _ in range(PROCESSES)]
    for process in processes:
        assert _receive(process) == "subscribed\n"
    for pages in (4 * step_pages(), 0, 4 * step_pages(), 0):
        hog.hold(pages)
        for process in processes:
            _send(process, "\n")
        for process in processes:
            counts, late, least, most = json.loads(_receive(process))
            assert counts == [1] * CLIENTS_EACH
            assert late == 0
            assert (least >= threshold) if pages else (most < threshold)
    for process in processes:
        _, _ = process.communicate(timeout=60)
        assert process.returncode == 0
