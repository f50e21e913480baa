# SPDX-License-Identifier: MIT
"""Work piece by piece, and keep a cache while there is enough memory: drop_cache.py [THRESHOLDS]."""

import sys

from memnotify.client import Memnotify

thresholds = sys.argv[1] if len(sys.argv) > 1 else "used 80%"
cache: dict[int, bytes] = {}
number = 0
with Memnotify() as device:
    device.subscribe(thresholds)
    print(f"watching {thresholds}", flush=True)
    while True:
        if not any(device.exceeded.values()):  # at the start as well
            cache[number % 1000] = bytes(10_000)  # the work
        number += 1
        # This waits for the next piece of work. wait(0) would return at once, for one system call.
        event = device.wait(0.01)
        for change in event.changes if event else ():
            used = f"{device.figures.used.percent:.0f} % used"
            if change.up:
                cache.clear()
                print(f"{used}: dropped the cache", flush=True)
            else:
                print(f"{used}: enough memory again", flush=True)
