# SPDX-License-Identifier: MIT
"""Workers that start no new work while memory is short: with_asyncio.py [THRESHOLDS]."""

import asyncio
import sys

from memnotify.client import Memnotify


async def work(enough: asyncio.Event) -> None:
    """Do one piece of work after the other, while there is enough memory."""
    while True:
        await enough.wait()
        await asyncio.sleep(0.01)  # the work


async def main(thresholds: str) -> None:
    """Start the workers, and pause them while memory is short."""
    enough = asyncio.Event()
    with Memnotify() as device:
        device.subscribe(thresholds)
        if not any(device.exceeded.values()):  # what is exceeded already is not an event
            enough.set()
        print(f"watching {thresholds}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(work(enough))
            async for event in device:
                if not event.changes:
                    continue
                if any(device.exceeded.values()):
                    enough.clear()
                else:
                    enough.set()
                state = "work goes on" if enough.is_set() else "no new work"
                print(f"{device.figures.used.percent:.0f} % used: {state}", flush=True)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "used 80%"))
