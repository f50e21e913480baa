#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Test for /dev/memnotify: the posted C program mn_test in Python, with the same messages.

Print the figures. With thresholds, also wait until one of them is crossed:

    mn_test.py
    mn_test.py "used 5000"
    mn_test.py "active 8000 used 16000"
"""

import os
import select
import sys

DEVICE = "/dev/memnotify"
FAILED = 255  # the exit code of the C program's -1


def main(arguments: list[str]) -> int:
    """Run the test; return the exit code."""
    program = arguments[0]
    thresholds = arguments[1] if len(arguments) == 2 else None
    try:
        fd = os.open(DEVICE, os.O_RDWR)
    except OSError:
        fd = -1
    print(f"{program} -- test for system-wide memory notification/meter {DEVICE}")
    if thresholds == "--help":
        print(f"usage: {program} [threshold(s)_in_pages]")
        print(f"example of threshold(s) available in {DEVICE}")
        return FAILED
    if fd < 0:
        print(f"cannot open device {DEVICE}, do you have memnotify.ko loaded?")
        return FAILED
    print(f"device {DEVICE} opened successfuly with fd = {fd}")
    try:
        line = os.read(fd, 256)
        print(f"read from {DEVICE} {len(line)} bytes: '{line[:-1].decode()}'")
        if thresholds is None:
            return 0
        return wait(fd, thresholds)
    except OSError:
        print(f"reading from {DEVICE} failed")
        return FAILED


def wait(fd: int, thresholds: str) -> int:
    """Set the thresholds, wait for a crossing and print the figures.

    Raises OSError if the figures cannot be read.
    """
    print(f"establishing threshold '{thresholds}' and waiting")
    try:
        os.write(fd, os.fsencode(thresholds))
    except OSError:
        print(f"cannot set threshold '{thresholds}' for device {DEVICE}")
        return FAILED
    print(f"polling for threshold '{thresholds}' to be changed to up/down", flush=True)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    print(f"poll({fd}) returned {len(poller.poll())}")
    line = os.read(fd, 256)
    print(f"--> memory figures reached '{line[:-1].decode()}'")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
