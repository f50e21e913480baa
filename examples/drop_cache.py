# SPDX-License-Identifier: MIT
"""Work piece by piece, and drop a cache when memory gets short: drop_cache.py [THRESHOLDS]."""

import sys

from memnotify.client import Crossed, Memnotify, Restored

thresholds = sys.argv[1] if len(sys.argv) > 1 else "used 80%"
cache: dict[int, bytes] = {}
number = 0
with Memnotify() as device:
    device.subscribe(thresholds)
    print(f"watching {thresholds}", flush=True)
    while True:
        cache[number % 1000] = bytes(10_000)  # the work
        number += 1
        # This waits for the next piece of work. wait(0) would return at once, for one system call.
        event = device.wait(0.01)
        if isinstance(event, Crossed | Restored):
            for change in event.changes:
                used = f"{event.after.used.percent:.0f} % used"
                if change.up:
                    cache.clear()
                    print(f"{used}: dropped the cache", flush=True)
                else:
                    print(f"{used}: enough memory again", flush=True)
